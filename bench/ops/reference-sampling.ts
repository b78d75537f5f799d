/**
 * What `sample` draws, in float64: the distribution of transformers' logits processors, and the random numbers of Philox4x32-10
 * (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
 */
import type { SamplingSettings } from "../../src/device/device.ts";

type Words = readonly [number, number, number, number];

/** One block of Philox4x32 with ten rounds. */
export function philox(counter: Words, key: readonly [number, number]): Words {
  let [c0, c1, c2, c3] = counter.map((word) => BigInt(word >>> 0)) as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key.map((word) => BigInt(word >>> 0)) as [bigint, bigint];
  const mask = 0xffffffffn;
  for (let round = 0; round < 10; round++) {
    const [a, b] = [0xd2511f53n * c0, 0xcd9e8d57n * c2];
    [c0, c1, c2, c3] = [(b >> 32n) ^ c1 ^ k0, b & mask, (a >> 32n) ^ c3 ^ k1, a & mask];
    k0 = (k0 + 0x9e3779b9n) & mask;
    k1 = (k1 + 0xbb67ae85n) & mask;
  }
  return [Number(c0), Number(c1), Number(c2), Number(c3)];
}

/** 53 bits of a block as a number in [0, 1). */
export function uniformOf([c0, c1]: Words): number {
  return ((c0 >>> 5) * 2 ** 26 + (c1 >>> 6)) / 2 ** 53;
}

/** The uniform number for a sequence's counters: position, sample, prompt, step. */
export function uniformFor(counters: ArrayLike<number>, seed: number, stream: number): number {
  return uniformOf(philox([counters[0]!, counters[1]!, counters[2]!, counters[3]!], [seed, stream]));
}

/** The order that ranks tokens: larger scores first, the lower id among ties. */
function ranked(z: Float64Array): number[] {
  return [...z.keys()].sort((a, b) => z[b]! - z[a]! || a - b);
}

function softmax(z: Float64Array): Float64Array {
  const top = z.reduce((a, b) => Math.max(a, b));
  const e = z.map((x) => Math.exp(x - top));
  const total = e.reduce((a, b) => a + b);
  return e.map((x) => x / total);
}

export interface Distribution {
  /** The distribution to draw from; zero for tokens that were cut. */
  readonly probabilities: Float64Array;
  /** The smallest relative distance of a token's score to the other side of a cut. */
  readonly margin: number;
}

/**
 * The warpers in transformers' order, each on the softmax of what the previous one left: repetition penalty, temperature,
 * top-k, top-p (keeps tokens until the preceding ones hold p), min-p (keeps tokens with at least min-p of the largest).
 */
export function distribution(logits: Float64Array, seen: ReadonlySet<number>, s: SamplingSettings): Distribution {
  const penalized = logits.map((x, i) =>
    seen.has(i) ? (x > 0 ? x / s.repetitionPenalty : x * s.repetitionPenalty) : x,
  );
  const z = penalized.map((x) => x / (s.temperature || 1));
  const cut = s.topK > 0 || s.topP < 1 || s.minP > 0 || s.temperature === 0;
  const order = cut ? ranked(z) : [...z.keys()];
  if (s.temperature === 0) order.length = 1;
  let kept = s.topK > 0 ? order.slice(0, s.topK) : order;
  let margin = Number.POSITIVE_INFINITY;
  const among = () => softmax(Float64Array.from(kept, (i) => z[i]!));
  if (s.topP < 1) {
    const p = among();
    let [before, count] = [0, 0];
    for (const probability of p) {
      if (count > 0) margin = Math.min(margin, Math.abs(before - s.topP));
      if (count > 0 && before >= s.topP) break;
      before += probability;
      count++;
    }
    kept = kept.slice(0, count);
  }
  if (s.minP > 0) {
    const p = among();
    for (const probability of p) margin = Math.min(margin, Math.abs(probability / p[0]! / s.minP - 1));
    kept = kept.filter((_, i) => i === 0 || p[i]! >= s.minP * p[0]!);
  }
  const probabilities = new Float64Array(logits.length);
  const p = among();
  for (const [i, id] of kept.entries()) probabilities[id] = p[i]!;
  return { probabilities, margin };
}

/** The running sum of probabilities by ascending id, over tokens that can be drawn. */
export interface Cumulative {
  readonly ids: Int32Array;
  /** The sum before a token and including it; the next one starts there. */
  readonly ends: Float64Array;
}

export function cumulative(probabilities: Float64Array): Cumulative {
  const ids = Int32Array.from([...probabilities.keys()].filter((id) => probabilities[id]! > 0));
  let sum = 0;
  return { ids, ends: Float64Array.from(ids, (id) => (sum += probabilities[id]!)) };
}

/** The first token at which the running sum exceeds u, and the distance of u from that sum's ends. */
export function tokenAt({ ids, ends }: Cumulative, u: number): { id: number; margin: number } {
  let [from, to] = [0, ids.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (ends[middle]! > u) to = middle;
    else from = middle + 1;
  }
  if (from === ids.length) throw new Error(`the probabilities sum to ${ends.at(-1)}, not above ${u}`);
  // The first token has no token below it.
  const below = from === 0 ? Number.POSITIVE_INFINITY : u - ends[from - 1]!;
  return { id: ids[from]!, margin: Math.min(below, ends[from]! - u) };
}

/** χ² of counts against probabilities, merging bins of fewer than 5 expected draws, and its degrees of freedom. */
export function chiSquare(counts: Float64Array, probabilities: Float64Array): { value: number; freedom: number } {
  const draws = counts.reduce((a, b) => a + b);
  let [value, bins, restSeen, restExpected] = [0, 0, 0, 0];
  for (const [i, p] of probabilities.entries()) {
    if (p * draws < 5) {
      restSeen += counts[i]!;
      restExpected += p * draws;
      continue;
    }
    value += (counts[i]! - p * draws) ** 2 / (p * draws);
    bins++;
  }
  if (restExpected > 0) {
    value += (restSeen - restExpected) ** 2 / restExpected;
    bins++;
  } else if (restSeen > 0) value = Number.POSITIVE_INFINITY;
  return { value, freedom: bins - 1 };
}

/** The bound that χ² exceeds once in 10,000 runs (Wilson & Hilferty 1931: its cube root is nearly normal). */
export function chiSquareLimit(freedom: number): number {
  const a = 2 / (9 * freedom);
  return freedom * (1 - a + 3.719 * Math.sqrt(a)) ** 3;
}
