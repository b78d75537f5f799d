/**
 * The numbers that adapters start from, as PEFT draws them: a from He's uniform distribution with the slope that
 * torch.nn.Linear uses (√5), or from a normal one; b is 0, so that at first the model is the base model. Counted, not
 * drawn (promise 3): Philox4x32-10 (Salmon et al. 2011) under the run's seed, at the number's index and a hash of its
 * parameter's name, so that they depend neither on other parameters nor on the device.
 */

/** `lora_init` */
export type AdapterStart = "default" | "gaussian";

/** Tells these numbers from those that sample tokens under the same seed: "LoRA". */
const STREAM = 0x4c6f5241;

/** High and low half of a product of two 32-bit numbers. */
function wide(a: number, b: number): readonly [high: number, low: number] {
  const [a1, a0, b1, b0] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff];
  const low = a0 * b0;
  const middle = a1 * b0 + (low >>> 16);
  const other = a0 * b1 + (middle % 0x10000);
  return [(a1 * b1 + Math.floor(middle / 0x10000) + Math.floor(other / 0x10000)) >>> 0, Math.imul(a, b) >>> 0];
}

/** Four 32-bit numbers at a counter of four, under a key of two. */
export function philox(counter: readonly number[], key: readonly [number, number]): readonly number[] {
  let [c0 = 0, c1 = 0, c2 = 0, c3 = 0] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [high0, low0] = wide(0xd2511f53, c0);
    const [high1, low1] = wide(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** FNV-1a, 32 bits. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) h = Math.imul(h ^ byte, 0x01000193) >>> 0;
  return h;
}

/**
 * The first numbers of an adapter's matrix.
 *
 * @param name of the parameter, …lora_A.weight or …lora_B.weight
 * @param shape (r, K) or (N, r)
 */
export function adapterStart(
  name: string,
  shape: readonly number[],
  seed: number,
  start: AdapterStart,
): Float32Array<ArrayBuffer> {
  const [rows = 0, inputs = 0] = shape;
  const values = new Float32Array(rows * inputs);
  if (name.endsWith(".lora_B.weight")) return values;
  // He et al. 2015: √(6 ÷ ((1 + 5) · inputs))
  const bound = 1 / Math.sqrt(inputs);
  const deviation = 1 / rows;
  const parameter = hash(name);
  for (let i = 0; i < values.length; i += 4) {
    const bits = philox([i / 4, parameter, 0, 0], [seed, STREAM]);
    const units = bits.map((word) => (word + 0.5) / 2 ** 32); // (0, 1)
    for (let j = 0; j < 4 && i + j < values.length; j++)
      values[i + j] = start === "default" ? bound * (2 * units[j]! - 1) : deviation * normal(units, j);
  }
  return values;
}

/** Box and Muller: two pairs of uniform numbers make two pairs of normal ones. */
function normal(units: readonly number[], j: number): number {
  const [radius, angle] = [units[j & 2]!, units[(j & 2) + 1]!];
  const turn = 2 * Math.PI * angle;
  return Math.sqrt(-2 * Math.log(radius)) * (j % 2 === 0 ? Math.cos(turn) : Math.sin(turn));
}
