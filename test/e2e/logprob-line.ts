/**
 * How far logprobs may be from float32's where activations are stored in bfloat16: the project's line, the same for every
 * device and instruction path that stores them so. Where they are float32 there is no such allowance.
 *
 * Tests hold it on random weights and on the bundled model. A trained model has tokens that are more sensitive than others: of real
 * weights of SmolLM2-135M 4 to 6 of 1000 are beyond `most`, while the mean and the worst keep to the line (docs/log.md).
 */

/** In nats, of one token: on average, for 999 of 1000 tokens, and for any. */
export const bfloat16Line = { mean: 0.02, most: 0.1, worst: 0.25 } as const;
/** The share of tokens that `most` is about. */
const MOST = 0.999;

export interface Apart {
  readonly tokens: number;
  readonly mean: number;
  /** Tokens that are further apart than `bfloat16Line.most`. */
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
 * Below 1000 tokens none may be beyond `most`.
 *
 * @returns what is over the line, a phrase each; nothing where all is on it
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
