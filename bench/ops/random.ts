/** Repeatable random numbers: an op case's inputs depend only on its name. */

export interface Random {
  /** Uniform in [0, 1). */
  uniform(): number;
  /** Uniform integer in [0, below). */
  integer(below: number): number;
  /** `count` numbers of mean 0 and the given standard deviation, within ±3.5 of it. */
  normal(count: number, deviation?: number): Float64Array;
  /** 0 … count − 1 in random order. */
  permutation(count: number): number[];
}

/** mulberry32, seeded by a string. */
export function randomFrom(text: string): Random {
  let state = Number(BigInt(Bun.hash(text)) & 0xffffffffn);
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const integer = (below: number) => Math.floor(uniform() * below);
  return {
    uniform,
    integer,
    normal(count, deviation = 1) {
      // a sum of four uniforms: variance 4/12
      return Float64Array.from(
        { length: count },
        () => (uniform() + uniform() + uniform() + uniform() - 2) * Math.sqrt(3) * deviation,
      );
    },
    permutation(count) {
      const order = Array.from({ length: count }, (_, i) => i);
      for (let i = count - 1; i > 0; i--) {
        const j = integer(i + 1);
        [order[i], order[j]] = [order[j]!, order[i]!];
      }
      return order;
    },
  };
}
