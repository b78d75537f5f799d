/**
 * The critic's loss on the host, in float64, with its gradient: PPO's clipped squared error. Like the policy's loss it
 * is evaluated whole or in parts: losses add up, and gradients are bit-identical for any split.
 */
import { RunError } from "../../errors.ts";
import { activeTokens, type Maskable, type TokenValues } from "./config.ts";
import { addMean, type MetricParts } from "./metrics.ts";

export interface ValueLossConfig {
  /** How far a value may move from its old one before its error stops falling. */
  readonly cliprangeValue: number;
  /** Weight of the value loss. */
  readonly vfCoef: number;
  readonly maskTruncatedCompletions: boolean;
}

export interface ValueCompletion extends Maskable {
  /** Names it in errors. */
  readonly index: number;
  /** V, of the current critic. (T) */
  readonly values: TokenValues;
  /** V before the update's first step. (T) */
  readonly oldValues: TokenValues;
  /** R (T); null: not scored, and excluded from the loss. */
  readonly returns: TokenValues | null;
}

export interface ValueLossResult {
  readonly loss: number;
  /** ∂loss/∂V of every token, completion after completion. (ΣT) */
  readonly dvalues: Float64Array;
  /** `value/loss` (unweighted), `value/clip_ratio`, `value/mean`. */
  readonly metrics: MetricParts;
}

type Countable = Maskable & Pick<ValueCompletion, "returns">;

/** The tokens of a completion that enter the loss. */
function countedTokens(completion: Countable, config: ValueLossConfig): Int32Array {
  return activeTokens(completion.returns?.length ?? 0, completion, config);
}

/** Tokens of the whole step over which the value loss is a mean. */
export function valueTokens(step: readonly Countable[], config: ValueLossConfig): number {
  return step.reduce((sum, completion) => sum + countedTokens(completion, config).length, 0);
}

/**
 * vf_coef · ½ · mean over the step's tokens of max((V − R)², (clip(V, V_old ± cliprange_value) − R)²), as OpenAI's PPO
 * and TRL's compute it (the PPO paper has no equation for it; "Implementation Matters", arXiv 2005.12729, §3, describes
 * it). If the two errors are equal each gives half of the gradient; clamping has gradient 0 at its bounds.
 *
 * @param part whole completions, any subset of the step in any order
 * @param stepTokens `valueTokens` of all the step's completions
 * @throws RunError if a value, a return or the loss is not finite, naming completion and token
 */
export function computeValueLoss(
  part: readonly ValueCompletion[],
  stepTokens: number,
  config: ValueLossConfig,
): ValueLossResult {
  const dvalues = new Float64Array(part.reduce((sum, { values }) => sum + values.length, 0));
  const metrics: MetricParts = new Map();
  const weight = config.vfCoef / Math.max(stepTokens, 1);
  let loss = 0;
  let start = 0;
  for (const completion of part) {
    const { index, values, oldValues, returns } = completion;
    const counted = countedTokens(completion, config);
    if (oldValues.length !== values.length || (returns && returns.length !== values.length))
      throw new Error(`completion ${index} has ${values.length} values, ${oldValues.length} old, ${returns?.length}`);
    let [errors, clipped, total] = [0, 0, 0];
    for (const t of counted) {
      const [value, old, target] = [values[t]!, oldValues[t]!, returns![t]!];
      const [low, high] = [old - config.cliprangeValue, old + config.cliprangeValue];
      const free = value - target;
      const held = Math.min(Math.max(value, low), high) - target;
      const error = Math.max(free * free, held * held) / 2;
      if (!Number.isFinite(error))
        throw new RunError(
          `the value of completion ${index}, token ${t} is ${value}, its return ${target}: the critic has diverged; lower critic_learning_rate`,
        );
      const dHeld = value > low && value < high ? held : 0;
      const [a, b] = [free * free, held * held];
      dvalues[start + t] = weight * (a > b ? free : a < b ? dHeld : (free + dHeld) / 2);
      errors += error;
      total += value;
      if (b > a) clipped++;
    }
    loss += weight * errors;
    addMean(metrics, "value/loss", errors, counted.length);
    addMean(metrics, "value/clip_ratio", clipped, counted.length);
    addMean(metrics, "value/mean", total, counted.length);
    start += values.length;
  }
  return { loss, dvalues, metrics };
}

/**
 * 1 − Var(R − V) ÷ Var(R) over all scored tokens (N)(T): 1 for a perfect critic, 0 for a constant one, negative for a
 * worse one. 0 if the returns don't vary.
 */
export function explainedVariance(values: readonly TokenValues[], returns: readonly (TokenValues | null)[]): number {
  const targets: number[] = [];
  const errors: number[] = [];
  for (const [i, of] of returns.entries())
    for (let t = 0; of && t < of.length; t++) {
      targets.push(of[t]!);
      errors.push(of[t]! - values[i]![t]!);
    }
  const spread = variance(targets);
  return spread < 1e-12 ? 0 : 1 - variance(errors) / spread;
}

function variance(values: readonly number[]): number {
  if (values.length === 0) return 0;
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  return values.reduce((total, value) => total + (value - mean) ** 2, 0) / values.length;
}
