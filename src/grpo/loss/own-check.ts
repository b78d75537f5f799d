/**
 * Whether the derivatives of a loss of one's own are those of its value: central differences at random completions. A loss
 * that holds a factor constant (a detached weight, as CISPO's) is not the integral of its derivatives, and must fail.
 */
import { RunError } from "../../errors.ts";
import { LOSS_DEFAULTS, type LossConfig, type OwnLoss, type OwnLossInput } from "./config.ts";

export interface LossCheckOptions {
  /** Settings that the loss reads, over the defaults. */
  readonly config?: Partial<Omit<LossConfig, "own">> | undefined;
  /** Random completions that it is tried on. Default 20. */
  readonly completions?: number | undefined;
  readonly seed?: number | undefined;
  /** Largest difference from the difference quotient, relative to the completion's largest derivative. Default 1e-5. */
  readonly tolerance?: number | undefined;
}

/** The step of the difference quotient: its error is about step² ≈ 1e-10, that of rounding 1e-16 ÷ step ≈ 1e-11. */
const STEP = 1e-5;

/** Park and Miller's generator: enough for test inputs, and the same everywhere. */
function randomNumbers(seed: number): () => number {
  let state = (Math.abs(Math.trunc(seed)) % 2147483646) + 1;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
}

function randomCompletion(uniform: () => number, config: LossConfig): OwnLossInput {
  const tokens = 1 + Math.floor(uniform() * 12);
  const values = (make: () => number) => Float64Array.from({ length: tokens }, make);
  const oldLogprobs = values(() => -3 * uniform() - 0.05);
  const near = (width: number) => oldLogprobs.map((logprob) => Math.min(-1e-3, logprob + width * (uniform() - 0.5)));
  const advantage = 4 * (uniform() - 0.5);
  const mask = Uint8Array.from({ length: tokens }, () => (uniform() < 0.9 ? 1 : 0));
  return {
    ...{ oldLogprobs, logprobs: near(0.8), refLogprobs: config.beta === 0 ? null : near(0.8) },
    entropies: values(() => 2 * uniform()),
    advantages: values(() => advantage),
    mask,
    finished: true,
    step: { completions: 4, tokens: 40 },
    config,
  };
}

/**
 * Tries `loss` on random completions, some of whose ratios are far from 1.
 *
 * @returns the largest difference found, relative to the completion's largest derivative
 * @throws RunError naming completion, token and both numbers if a derivative is wrong, or one outside the mask is not 0 in effect
 */
export function checkLossGradient(loss: OwnLoss, options: LossCheckOptions = {}): number {
  const { completions = 20, seed = 1, tolerance = 1e-5 } = options;
  const config: LossConfig = { ...LOSS_DEFAULTS, ...options.config };
  const uniform = randomNumbers(seed);
  let worst = 0;
  for (let i = 0; i < completions; i++) {
    const input = randomCompletion(uniform, config);
    const { dlogprobs } = loss(input);
    if (dlogprobs.length !== input.logprobs.length)
      throw new RunError(`the loss gave ${dlogprobs.length} derivatives for ${input.logprobs.length} tokens`);
    const at = (t: number, by: number): number => {
      const logprobs = Float64Array.from(input.logprobs);
      logprobs[t]! += by;
      return loss({ ...input, logprobs }).loss;
    };
    const largest = Math.max(1e-6, ...Array.from(dlogprobs, Math.abs));
    for (let t = 0; t < dlogprobs.length; t++) {
      const expected = (at(t, STEP) - at(t, -STEP)) / (2 * STEP);
      const given = input.mask[t] === 1 ? dlogprobs[t]! : 0;
      const difference = Math.abs(given - expected) / largest;
      if (!(difference <= tolerance))
        throw new RunError(
          `the derivative at token ${t} of random completion ${i} is ${given}, but the loss changes by ${expected} ` +
            `(its logprob ${input.logprobs[t]}, old ${input.oldLogprobs[t]}, advantage ${input.advantages[t]}, mask ${input.mask[t]})`,
        );
      worst = Math.max(worst, difference);
    }
  }
  return worst;
}
