/**
 * Dynamic quantization to 8 bits (Dettmers 2016, arXiv 1511.04561; Dettmers et al. 2022, arXiv 2110.02861) as bitsandbytes
 * defines it: the 256 numbers that codes stand for, and the codes of numbers in [−1, 1].
 */

/** Numbers that a code can stand for. */
export const MAP_SIZE = 256;
/** Evenly spread numbers of which the nearest code is known. */
export const NEAREST_SIZE = 65_536;

const EXPONENT_BITS = 7;

/** torch.linspace in float32: from both ends, each half in steps that are rounded. */
function linspace(from: number, to: number, count: number): Float32Array {
  const [start, end] = [Math.fround(from), Math.fround(to)];
  const step = Math.fround(Math.fround(end - start) / (count - 1));
  return Float32Array.from({ length: count }, (_, i) =>
    i < Math.floor(count / 2) ? Math.fround(start + step * i) : Math.fround(end - step * (count - 1 - i)),
  );
}

/**
 * The 256 numbers of the dynamic data type in ascending order: 0, 1, and for each of seven powers of ten the means of an
 * evenly divided [0.1, 1], the more of them the larger the power. A signed map has the negative means as well.
 *
 * @param signed for numbers in [−1, 1]; else for [0, 1], with twice as many means
 */
export function dynamicMap(signed: boolean): Float32Array {
  const numbers = [0, 1];
  for (let i = 0; i < EXPONENT_BITS; i++) {
    const bounds = linspace(0.1, 1, 2 ** (signed ? i : i + 1) + 1);
    const power = Math.fround(10 ** (i - (EXPONENT_BITS - 1)));
    for (let j = 0; j + 1 < bounds.length; j++) {
      const mean = Math.fround(Math.fround(bounds[j]! + bounds[j + 1]!) / 2);
      const number = Math.fround(power * mean);
      numbers.push(number);
      if (signed) numbers.push(-number);
    }
  }
  return Float32Array.from(numbers).sort();
}

/** The code of a number, cut to [−1, 1]. */
export function nearestCode(nearest: Uint8Array, x: number): number {
  const cut = Math.min(1, Math.max(-1, x));
  return nearest[Math.trunc(Math.fround(Math.fround(Math.fround(cut + 1) * 0.5 * (NEAREST_SIZE - 1)) + 0.5))]!;
}

/**
 * The codes nearest to NEAREST_SIZE numbers spread evenly over [−1, 1]. A number x has the code at ⌊(x + 1)/2 · 65535 + 1/2⌋,
 * as bitsandbytes looks it up on a CPU.
 */
export function nearestCodes(map: Float32Array): Uint8Array {
  const codes = new Uint8Array(NEAREST_SIZE);
  let code = 0;
  for (let i = 0; i < NEAREST_SIZE; i++) {
    const number = Math.fround(-1 + Math.fround((2 * i) / (NEAREST_SIZE - 1)));
    while (code < map.length - 1 && Math.fround(0.5 * Math.fround(map[code]! + map[code + 1]!)) < number) code++;
    codes[i] = code;
  }
  return codes;
}
