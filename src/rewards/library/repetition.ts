/** A penalty for repeated runs of tokens. */

/**
 * (1 − distinct n-grams / n-grams) · maxPenalty over the tokens of one completion; 0 if there are fewer than `n`
 * tokens. As TRL's `get_repetition_penalty_reward`, after arXiv 2502.03373, appendix C.2 (which puts the penalty on the
 * repeated tokens themselves; with one reward per completion that is not possible).
 *
 * @param maxPenalty 0 or below: the reward that endless repetition of one token approaches
 */
export function repetitionPenalty(ids: readonly number[], n: number, maxPenalty: number): number {
  const total = ids.length - n + 1;
  if (total <= 0) return 0;
  // The runs of k + 1 tokens are numbered by (number of the run of k, next token): n passes, whatever n is.
  let runs: readonly number[] = ids;
  let distinct = new Set(ids.slice(0, total)).size;
  for (let k = 1; k < n; k++) {
    const numbers = new Map<number, number>();
    const longer: number[] = [];
    for (let i = 0; i + k < ids.length; i++) {
      const key = runs[i]! * 2 ** 32 + ids[i + k]!; // exact while runs and ids stay below 2^21 and 2^32
      const number = numbers.get(key) ?? numbers.size;
      numbers.set(key, number);
      longer.push(number);
    }
    runs = longer;
    distinct = numbers.size;
  }
  const repeated = 1 - distinct / total;
  return repeated === 0 ? 0 : repeated * maxPenalty;
}
