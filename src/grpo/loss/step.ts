/**
 * The denominators and the entropy threshold of a whole optimizer step. Computed once over all completions, they make
 * the loss independent of how the step is split into micro-batches.
 */
import { RunError } from "../../errors.ts";
import { activeTokens, type LossCompletion, type LossConfig, type Maskable, type TokenValues } from "./config.ts";

export interface StepDenominators {
  /** Completions of the step, including those that the mask drops. */
  readonly completions: number;
  /** Tokens under the mask m. */
  readonly tokens: number;
  /**
   * The denominator of a mean over tokens: the step's tokens or, if a generation serves several steps, the step's share
   * of the generation's tokens (TRL's `num_items_in_batch`), so that a token has the same weight in every step. At
   * least 1 for the step or generation.
   */
  readonly meanTokens: number;
  /** Tokens under m in each of `bnpo`'s blocks. */
  readonly blockTokens: readonly number[];
  /** Completions of one block. */
  readonly blockSize: number;
  /** Tokens with lower entropy are masked out of the policy loss; −∞ keeps all. */
  readonly entropyThreshold: number;
  /** Tokens under m and the entropy mask, over which the entropy bonus is a mean. */
  readonly entropyTokens: number;
}

/** A completion's inputs to the denominators. */
export interface StepCompletion extends Maskable {
  /** T */
  readonly tokens: number;
  /** Place in the order that `bnpo`'s blocks are taken from; the index in the list by default. */
  readonly place?: number | undefined;
  /** (T); used only if `topEntropyQuantile` is below 1. */
  readonly entropies?: TokenValues | undefined;
}

/** The size of a generation that several optimizer steps learn from; `tokens` are those under m. */
export interface WholeGeneration {
  readonly completions: number;
  readonly tokens: number;
}

/**
 * The denominators of an optimizer step.
 *
 * @param step every completion of the step, with `index` from 0 in order
 * @param generation the whole generation, if the step is a part of it
 * @throws RunError if an entropy that the threshold needs is not finite
 */
export function stepDenominators(
  step: readonly LossCompletion[],
  config: LossConfig,
  generation?: WholeGeneration,
): StepDenominators {
  for (const [position, { index }] of step.entries())
    if (index !== position) throw new Error(`completion ${index} is at position ${position} of its step`);
  const counted = step.map((completion) => ({ ...completion, tokens: completion.logprobs.length }));
  return denominatorsOf(counted, config, generation);
}

/** The same, before any logprob is known. */
export function denominatorsOf(
  step: readonly StepCompletion[],
  config: LossConfig,
  generation?: WholeGeneration,
): StepDenominators {
  const blockSize = config.perDeviceTrainBatchSize ?? Math.max(step.length, 1);
  const blockTokens = new Array<number>(Math.ceil(step.length / blockSize)).fill(0);
  let tokens = 0;
  for (const [position, completion] of step.entries()) {
    const active = activeTokens(completion.tokens, completion, config).length;
    tokens += active;
    blockTokens[Math.floor((completion.place ?? position) / blockSize)]! += active;
  }
  const meanTokens = generation
    ? (Math.max(generation.tokens, 1) * step.length) / generation.completions
    : Math.max(tokens, 1);
  const whole = { completions: step.length, tokens, meanTokens, blockTokens, blockSize };
  if (config.topEntropyQuantile >= 1) return { ...whole, entropyThreshold: -Infinity, entropyTokens: tokens };
  const entropies = gatherEntropies(step, tokens, config);
  const entropyThreshold = quantile(entropies, 1 - config.topEntropyQuantile);
  let entropyTokens = 0;
  for (const entropy of entropies) if (entropy >= entropyThreshold) entropyTokens++;
  return { ...whole, entropyThreshold, entropyTokens };
}

function gatherEntropies(step: readonly StepCompletion[], tokens: number, config: LossConfig): Float64Array {
  const all = new Float64Array(tokens);
  let at = 0;
  for (const [index, completion] of step.entries()) {
    const { tokens: length, entropies } = completion;
    if (entropies?.length !== length)
      throw new Error(`top_entropy_quantile needs the entropies of completion ${index}, one per token`);
    for (const t of activeTokens(length, completion, config)) {
      const entropy = entropies[t]!;
      if (!Number.isFinite(entropy))
        throw new RunError(
          `the entropy of completion ${index}, token ${t} is ${entropy}: the model's output is broken`,
        );
      all[at++] = entropy;
    }
  }
  return all;
}

/**
 * The quantile with linear interpolation between order statistics (what torch and numpy do by default).
 *
 * @param values any order, finite; sorted in place
 * @param fraction 0 to 1
 * @returns −∞ if there are no values
 */
export function quantile(values: Float64Array, fraction: number): number {
  if (values.length === 0) return -Infinity;
  values.sort();
  const exact = fraction * (values.length - 1);
  // 1 − q is rarely exact in binary: a rank that is an integer up to rounding is meant to be that integer.
  const place = Math.abs(exact - Math.round(exact)) < 1e-9 * values.length ? Math.round(exact) : exact;
  const below = Math.floor(place);
  const low = values[below]!;
  const high = values[Math.min(below + 1, values.length - 1)]!;
  return low + (high - low) * (place - below);
}
