/**
 * NF4 with double quantization (Dettmers et al. 2023, arXiv 2305.14314, section 3) as bitsandbytes computes it on a CPU: a code of
 * 4 bits for each element, the index of one of 16 numbers; for every 64 elements, row after row, their largest magnitude as the
 * scale. Scales lose their mean, the offset, and are quantized in turn to 8 bits of the signed dynamic map, in blocks of 256.
 */
import { dynamicMap, MAP_SIZE, nearestCode, nearestCodes } from "./dynamic-map.ts";

export const NF4_BLOCK = 64;
const SCALE_BLOCK = 256;
/** The numbers of 4-bit codes. */
export const NF4_NUMBERS = 16;

/** The normal float data type: appendix E of the paper, as float32. */
export const nf4Numbers: Float32Array = Float32Array.of(
  ...[-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453],
  ...[-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0],
  ...[0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224],
  ...[0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1],
);

/** All of a weight but its codes. */
export interface Nf4Scales {
  /** Of the codes. */
  readonly numbers: Float32Array; // (16)
  /** Codes of the scales, less the offset. */
  readonly codes: Uint8Array; // (blocks)
  /** Of those. */
  readonly scaleNumbers: Float32Array; // (256)
  /** Their largest magnitudes. */
  readonly nested: Float32Array; // (⌈blocks ÷ 256⌉)
  readonly offset: number;
}

/** A matrix as it is stored. */
export interface StoredNf4 {
  readonly shape: readonly number[];
  /** Of the codes: two to a byte, the first in the upper half. */
  readonly address: number;
  readonly scales: Nf4Scales;
}

/** Blocks of a weight of so many elements. */
export const nf4Blocks = (elements: number): number => Math.ceil(elements / NF4_BLOCK);
export const nestedBlocks = (elements: number): number => Math.ceil(nf4Blocks(elements) / SCALE_BLOCK);

/** Bytes of a weight in a buffer, and where its parts begin; `codeBytes` are what the device's order of codes takes. */
export interface Nf4Layout {
  readonly nested: number;
  readonly scales: number;
  readonly codes: number;
  readonly bytes: number;
}

/** Parts begin at multiples of this; of 4 bytes each, the 16 numbers, the 256, and the offset with room to spare come first. */
const PART = 128;
const HEAD_FLOATS = NF4_NUMBERS + MAP_SIZE + 16;
const whole = (bytes: number): number => Math.ceil(bytes / PART) * PART;

export function nf4Layout(elements: number, codeBytes: number): Nf4Layout {
  const nested = 4 * HEAD_FLOATS;
  const scales = nested + whole(4 * nestedBlocks(elements));
  const codes = scales + whole(nf4Blocks(elements));
  return { nested, scales, codes, bytes: codes + whole(codeBytes) };
}

/** The parts before the codes, as they lie in a buffer. */
export function nf4Head(scales: Nf4Scales, layout: Nf4Layout): Uint8Array {
  const head = new Uint8Array(layout.codes);
  const floats = new Float32Array(head.buffer, 0, layout.scales / 4);
  floats.set(scales.numbers);
  floats.set(scales.scaleNumbers, NF4_NUMBERS);
  floats[NF4_NUMBERS + MAP_SIZE] = scales.offset;
  floats.set(scales.nested, HEAD_FLOATS);
  head.set(scales.codes, layout.scales);
  return head;
}

const bounds = Float32Array.from({ length: NF4_NUMBERS - 1 }, (_, i) => (nf4Numbers[i]! + nf4Numbers[i + 1]!) / 2);

/** The nearest number's code; the lower one in the middle of two. */
function nf4Code(x: number): number {
  let code = x > bounds[7]! ? 8 : 0;
  if (x > bounds[code + 3]!) code += 4;
  if (x > bounds[code + 1]!) code += 2;
  return x > bounds[code]! ? code + 1 : code;
}

/** The smallest largest magnitude by which bitsandbytes divides. */
const LEAST = Math.fround(1e-38);

/**
 * Quantizes elements that begin with a block. An odd number of elements leaves half of the last byte at the code of 0.
 *
 * @param codes = two to a byte, the first in the upper half (⌈elements ÷ 2⌉)
 * @param absmax = the largest magnitude of each block
 */
export function quantizeNf4(codes: Uint8Array, absmax: Float32Array, values: Float32Array): void {
  const n = values.length;
  for (let block = 0, from = 0; from < n; block++, from += NF4_BLOCK) {
    const to = Math.min(n, from + NF4_BLOCK);
    let most = 0;
    for (let i = from; i < to; i++) most = Math.max(most, Math.abs(values[i]!));
    const isWhole = to - from === NF4_BLOCK;
    const divisor = Math.max(most, LEAST);
    const inverse = Math.fround(1 / divisor);
    absmax[block] = isWhole ? most : divisor;
    for (let i = from; i < to; i += 2) {
      const normed = (at: number) =>
        at < to ? (isWhole ? Math.fround(values[at]! * inverse) : Math.fround(values[at]! / divisor)) : 0;
      codes[i >> 1] = (nf4Code(normed(i)) << 4) | nf4Code(normed(i + 1));
    }
  }
}

/**
 * The mean in float32 as torch computes it on one thread: eight lanes of four sums each, added in stages so that small numbers
 * meet small sums.
 */
export function meanOf(values: Float32Array): number {
  const [LANES, SUMS, STAGES] = [8, 4, 4];
  const width = LANES * SUMS;
  const rows = Math.floor(values.length / width);
  const power = Math.max(4, Math.floor((32 - Math.clz32(Math.max(rows - 1, 0))) / STAGES));
  const stages = Array.from({ length: STAGES }, () => new Float32Array(width));
  const move = (to: Float32Array, from: Float32Array) => {
    for (let i = 0; i < width; i++) to[i]! += from[i]!;
  };
  const row = (r: number) => values.subarray(r * width, (r + 1) * width);
  let r = 0;
  while (r + 2 ** power <= rows) {
    for (let i = 0; i < 2 ** power; i++) move(stages[0]!, row(r++));
    for (let stage = 1; stage < STAGES; stage++) {
      move(stages[stage]!, stages[stage - 1]!);
      stages[stage - 1]!.fill(0);
      if ((r & ((2 ** power - 1) << (stage * power))) !== 0) break;
    }
  }
  while (r < rows) move(stages[0]!, row(r++));
  const [sums] = stages as [Float32Array];
  for (let stage = 1; stage < STAGES; stage++) move(sums, stages[stage]!);
  let at = rows * width;
  for (; at + LANES <= values.length; at += LANES)
    for (let lane = 0; lane < LANES; lane++) sums[lane]! += values[at + lane]!;
  for (let sum = 1; sum < SUMS; sum++)
    for (let lane = 0; lane < LANES; lane++) sums[lane]! += sums[sum * LANES + lane]!;
  let total = 0;
  for (; at < values.length; at++) total = Math.fround(total + values[at]!);
  for (let lane = 0; lane < LANES; lane++) total = Math.fround(total + sums[lane]!);
  return Math.fround(total / values.length);
}

let signed: { readonly map: Float32Array; readonly nearest: Uint8Array } | null = null;
function signedMap() {
  if (signed) return signed;
  const map = dynamicMap(true);
  signed = { map, nearest: nearestCodes(map) };
  return signed;
}

/** A weight's numbers, all in memory: what is stored of them if they are made NF4. */
export function quantizedNf4(values: Float32Array): { readonly codes: Uint8Array; readonly scales: Nf4Scales } {
  const codes = new Uint8Array(Math.ceil(values.length / 2));
  const absmax = new Float32Array(nf4Blocks(values.length));
  quantizeNf4(codes, absmax, values);
  return { codes, scales: quantizeScales(absmax) };
}

/**
 * The numbers of elements [from, from + count), each step rounded to float32 as bitsandbytes has it.
 *
 * @param codes of the weight from its first element on, two to a byte
 */
export function dequantizeNf4(codes: Uint8Array, scales: Nf4Scales, from: number, count: number): Float32Array {
  const { numbers, codes: scaleCodes, scaleNumbers, nested, offset } = scales;
  const scaleOf = (block: number): number => {
    const centred = Math.fround(scaleNumbers[scaleCodes[block]!]! * nested[Math.floor(block / SCALE_BLOCK)]!);
    return Math.fround(centred + offset);
  };
  const values = new Float32Array(count);
  let scale = scaleOf(Math.floor(from / NF4_BLOCK));
  for (let i = 0; i < count; i++) {
    const at = from + i;
    if (at % NF4_BLOCK === 0) scale = scaleOf(at / NF4_BLOCK);
    const code = at % 2 === 0 ? codes[Math.floor(at / 2)]! >>> 4 : codes[Math.floor(at / 2)]! & 15;
    values[i] = numbers[code]! * scale;
  }
  return values;
}

/** The second quantization, of the scales. */
export function quantizeScales(absmax: Float32Array): Nf4Scales {
  const { map, nearest } = signedMap();
  const offset = meanOf(absmax);
  const centred = absmax.map((scale) => scale - offset);
  const codes = new Uint8Array(absmax.length);
  const nested = new Float32Array(Math.ceil(absmax.length / SCALE_BLOCK));
  for (const block of nested.keys()) {
    const own = centred.subarray(block * SCALE_BLOCK, (block + 1) * SCALE_BLOCK);
    const most = own.reduce((found, x) => Math.max(found, Math.abs(x)), 0);
    nested[block] = most;
    if (most === 0) continue; // codes of 0, as bitsandbytes leaves them
    const inverse = Math.fround(1 / most);
    for (const [i, x] of own.entries()) codes[block * SCALE_BLOCK + i] = nearestCode(nearest, Math.fround(x * inverse));
  }
  return { numbers: nf4Numbers, codes, scaleNumbers: map, nested, offset };
}
