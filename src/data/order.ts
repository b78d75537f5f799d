/**
 * The order in which rows are drawn: seeded, different in each epoch, and computed for each position independently, so
 * that nothing is kept in memory and a run resumes from one integer. Leaves out the rows themselves.
 *
 * A keyed permutation of [0, n): a Feistel network over the next even power of two, walked on until it lands below n
 * (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002, method 2).
 */
import { InputError } from "../errors.ts";

const ROUNDS = 10;
/** At least 2^8 positions even for a few rows: over fewer, a Feistel network reaches too few of the permutations. */
const MIN_HALF_BITS = 4;

/**
 * The row at `position` of `epoch`: for fixed seed and epoch, each row of [0, numRows) once.
 *
 * @param seed a whole number from 0 to 2^53 − 1
 * @param position from 0 to numRows − 1
 * @param numRows up to 2^52
 */
export function rowAt(seed: number, epoch: number, position: number, numRows: number): number {
  if (!Number.isSafeInteger(numRows) || numRows < 1 || position < 0 || position >= numRows)
    throw new RangeError(`position ${position} of ${numRows} rows`);
  let halfBits = MIN_HALF_BITS;
  while (4 ** halfBits < numRows) halfBits++;
  const half = 2 ** halfBits;
  const keys = roundKeys(seed, epoch);
  let place = position;
  do {
    let left = Math.floor(place / half);
    let right = place % half;
    for (const key of keys) [left, right] = [right, (left ^ mix(right ^ key)) & (half - 1)];
    place = left * half + right;
  } while (place >= numRows);
  return place;
}

/** A bijection of 32 bits in which every bit depends on every other: multiply and xor-shift, twice. */
function mix(x: number): number {
  let h = x | 0;
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
  return h ^ (h >>> 16);
}

let cached: { seed: number; epoch: number; keys: readonly number[] } | undefined;

function roundKeys(seed: number, epoch: number): readonly number[] {
  if (cached?.seed === seed && cached.epoch === epoch) return cached.keys;
  let state = 0x9e3779b9;
  for (const word of [seed, Math.floor(seed / 2 ** 32), epoch, Math.floor(epoch / 2 ** 32)])
    state = mix(state ^ word) + 0x9e3779b9;
  const keys = Array.from({ length: ROUNDS }, (_, round) => mix(state + Math.imul(round + 1, 0x85ebca6b)));
  cached = { seed, epoch, keys };
  return keys;
}

export interface Draw {
  readonly row: number;
  /** From 0. */
  readonly epoch: number;
  /** How many rows were drawn before this one, over all epochs. */
  readonly position: number;
}

export interface Sampler {
  /** The next row; it never ends. */
  next(): Draw;
  /** Rows drawn so far, over all epochs: what a checkpoint saves. */
  readonly position: number;
}

export interface SamplerOptions {
  readonly numRows: number;
  readonly seed: number;
  /** false: the rows in file order, every epoch. */
  readonly shuffle: boolean;
  /** Where to continue. Default: 0. */
  readonly position?: number;
}

/** @throws InputError for a dataset without rows, or an invalid position */
export function createSampler({ numRows, seed, shuffle, position: start = 0 }: SamplerOptions): Sampler {
  if (numRows < 1) throw new InputError("the dataset has no rows; there is nothing to draw from");
  if (!Number.isSafeInteger(start) || start < 0)
    throw new InputError(
      `position ${start} in the dataset: must be a whole number of at least 0; use another checkpoint`,
    );
  let position = start;
  return {
    next() {
      const epoch = Math.floor(position / numRows);
      const within = position - epoch * numRows;
      const row = shuffle ? rowAt(seed, epoch, within, numRows) : within;
      return { row, epoch, position: position++ };
    },
    get position() {
      return position;
    },
  };
}
