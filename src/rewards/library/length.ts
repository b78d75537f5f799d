/**
 * Rewards by a completion's length in tokens, some of which depend on whether its answer is right. The verifiers decide
 * that (pool.ts); `null` means unknown.
 */

export interface CosineParameters {
  readonly minValueWrong: number;
  readonly maxValueWrong: number;
  readonly minValueCorrect: number;
  readonly maxValueCorrect: number;
  /** Tokens at which the schedule ends, L_max. */
  readonly maxLength: number;
}

/**
 * A right answer falls from `maxValueCorrect` at no tokens to `minValueCorrect` at L_max, a wrong one rises from
 * `minValueWrong` to `maxValueWrong`, both along a half cosine: v_L + ½ (v_0 − v_L)(1 + cos(π · min(1, length / L_max))).
 * arXiv 2502.03373, appendix C.1, without its extra penalty at L_max; values and clamp as TRL's
 * `get_cosine_scaled_reward`.
 */
export function cosineScaled(length: number, correct: boolean, parameters: CosineParameters): number {
  const { minValueWrong, maxValueWrong, minValueCorrect, maxValueCorrect, maxLength } = parameters;
  const [atStart, atEnd] = correct ? [maxValueCorrect, minValueCorrect] : [minValueWrong, maxValueWrong];
  const progress = Math.min(1, length / maxLength);
  return atEnd + 0.5 * (atStart - atEnd) * (1 + Math.cos(Math.PI * progress));
}

/**
 * Kimi k1.5's length reward (arXiv 2501.12599, section 2.3.3) within one prompt's group: λ = ½ − (length − min) /
 * (max − min) for a right answer, min(0, λ) for a wrong one; 0 for all if all have the same length. min and max are
 * taken over the whole group, including wrong and unjudged answers.
 *
 * @param lengths of the group's completions, in tokens. (G)
 * @param correct null: not scored. (G)
 */
export function groupLength(lengths: readonly number[], correct: readonly (boolean | null)[]): (number | null)[] {
  let min = Infinity;
  let max = -Infinity;
  for (const length of lengths) {
    min = Math.min(min, length);
    max = Math.max(max, length);
  }
  return lengths.map((length, i) => {
    const right = correct[i] ?? null;
    if (right === null) return null;
    if (min === max) return 0;
    const lambda = 0.5 - (length - min) / (max - min);
    return right ? lambda : Math.min(0, lambda);
  });
}

/**
 * DAPO's soft overlong punishment (arXiv 2503.14476, equation 13): 0 up to `maxLength − cache` tokens, then falling
 * linearly to −1 at `maxLength`, and −1 beyond.
 */
export function softOverlong(length: number, maxLength: number, cache: number): number {
  const free = maxLength - cache;
  if (length <= free) return 0;
  return length <= maxLength ? (free - length) / cache : -1;
}
