/** The random numbers of a case: the same for the same words, independent of other draws. */

export interface Random {
  /** In [0, 1). */
  uniform(): number;
  /** An integer in [0, below). */
  below(limit: number): number;
  chance(probability: number): boolean;
  pick<T>(from: readonly T[]): T;
}

/** Splitmix32 from a hash of `words`. */
export function randomOf(...words: readonly (string | number)[]): Random {
  let state = Number(Bun.hash(words.join("\0")) & 0xffffffffn);
  const uniform = () => {
    state = (state + 0x9e3779b9) | 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
  };
  const below = (limit: number) => Math.floor(uniform() * limit);
  return {
    uniform,
    below,
    chance: (probability) => uniform() < probability,
    pick: (from) => from[below(from.length)]!,
  };
}
