/**
 * Seeded random numbers for making the bundled files: the same bits on every machine, because only integer operations
 * and exact float64 sums are used (no Math.log, whose last bit differs between C libraries). The trainer uses Philox
 * instead.
 */

/** Draws numbers below 2^32, each from the one before. */
export type Uint32Source = () => number;

/** The source of `seed`, any integer of which the low 32 bits count; they are spread over the state by SplitMix32. */
export function seededSource(seed: number): Uint32Source {
  const state = new Uint32Array(4);
  let mixed = seed | 0;
  for (let i = 0; i < 4; i++) {
    mixed = (mixed + 0x9e3779b9) | 0;
    let z = mixed;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    state[i] = z ^ (z >>> 16);
  }
  return xoshiro128(state);
}

/**
 * xoshiro128** (Blackman and Vigna 2021, "Scrambled linear pseudorandom number generators").
 * @param state four words, not all 0; they move on with every draw
 */
export function xoshiro128(state: Uint32Array): Uint32Source {
  return () => {
    const [s0, s1, s2, s3] = state as unknown as readonly [number, number, number, number];
    const result = Math.imul(rotate(Math.imul(s1, 5), 7), 9) >>> 0;
    state[2] = s2 ^ s0;
    state[3] = s3 ^ s1;
    state[1] = s1 ^ state[2]!;
    state[0] = s0 ^ state[3]!;
    state[2] = state[2]! ^ (s1 << 9);
    state[3] = rotate(state[3]!, 11);
    return result;
  };
}

function rotate(x: number, bits: number): number {
  return (x << bits) | (x >>> (32 - bits));
}

/** An integer in [low, high], both included; the bias of at most (high - low) / 2^32 does not matter here. */
export function integerIn(next: Uint32Source, low: number, high: number): number {
  return low + Math.floor((next() / 2 ** 32) * (high - low + 1));
}

/** One of `items`, each as likely as the others. */
export function oneOf<T>(next: Uint32Source, items: readonly T[]): T {
  return items[integerIn(next, 0, items.length - 1)]!;
}

/**
 * A number of mean 0 and variance 1: the sum of twelve uniform ones minus 6. It never leaves [-6, 6] and is close enough
 * to normal for initial weights.
 */
export function nearlyNormal(next: Uint32Source): number {
  let sum = -6;
  for (let i = 0; i < 12; i++) sum += next() / 2 ** 32;
  return sum;
}
