/**
 * How far logprobs may be from float32's if activations are stored in bfloat16: the project's limit, the same for every device
 * and instruction path that stores them so. With float32 activations there is no such allowance.
 *
 * Tests apply it to random weights and to the bundled model. A trained model has tokens that are more sensitive than others:
 * with the real weights of SmolLM2-135M, 4 to 6 of 1000 exceed `most`, while the mean and the worst stay within the limit
 * (docs/log.md).
 */

/** In nats per token: the mean, the limit for 999 of 1000 tokens, and the maximum. */
export const bfloat16Line = { mean: 0.02, most: 0.1, worst: 0.25 } as const;
/** The share of tokens that must be within `most`. */
const MOST = 0.999;

export interface Apart {
  readonly tokens: number;
  readonly mean: number;
  /** Tokens whose difference exceeds `bfloat16Line.most`. */
  readonly beyond: number;
  readonly worst: number;
}

/** |got − want| token by token, of completions in the same order; NaN and infinities in either count as infinitely far. */
export function logprobsApart(got: readonly ArrayLike<number>[], want: readonly ArrayLike<number>[]): Apart {
  if (got.length !== want.length) throw new Error(`${got.length} completions, the reference has ${want.length}`);
  let [tokens, sum, beyond, worst] = [0, 0, 0, 0];
  for (const [i, completion] of got.entries()) {
    const reference = want[i]!;
    if (completion.length !== reference.length)
      throw new Error(`completion ${i} has ${completion.length} tokens, the reference ${reference.length}`);
    for (let t = 0; t < completion.length; t++) {
      const difference = Math.abs(completion[t]! - reference[t]!);
      const apart = Number.isFinite(difference) ? difference : Number.POSITIVE_INFINITY;
      tokens++;
      sum += apart;
      if (apart > bfloat16Line.most) beyond++;
      worst = Math.max(worst, apart);
    }
  }
  return { tokens, mean: sum / tokens, beyond, worst };
}

/**
 * With fewer than 1000 tokens none may exceed `most`.
 *
 * @returns each violation of the limit as a phrase; empty if there is none
 */
export function overBfloat16Line({ tokens, mean, beyond, worst }: Apart): string[] {
  if (tokens === 0) return ["no tokens were compared"];
  const { mean: meanLine, most, worst: worstLine } = bfloat16Line;
  return [
    ...(mean <= meanLine ? [] : [`the mean is ${mean}, allowed is ${meanLine}`]),
    ...(beyond <= (1 - MOST) * tokens ? [] : [`${beyond} of ${tokens} tokens are more than ${most} apart`]),
    ...(worst <= worstLine ? [] : [`one token is ${worst} apart, allowed is ${worstLine}`]),
  ];
}
