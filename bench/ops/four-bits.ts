/** Weights in NF4 as operands of op cases: random numbers, quantized, in the device's own order. */

import type { Weight } from "../../src/device/device.ts";
import { loadScales } from "../../src/device/nf4.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { nf4Blocks, quantizeNf4, quantizeScales } from "../../src/tensor/nf4.ts";
import { tensor } from "../../src/tensor/tensor.ts";
import type { Run, Values, WeightSlot } from "./case.ts";

/** Numbers in [−1, 1) without a pattern that a product could meet. */
function scattered(count: number): Float32Array {
  let state = 0x2545f491;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

/** A matrix (N, K) in NF4, and its decoded numbers. */
export function fourBits(run: Run, name: string, dtype: ComputeDType, [n, k]: readonly [number, number]): WeightSlot {
  const elements = n * k;
  const codes = new Uint8Array(Math.ceil(elements / 2));
  const absmax = new Float32Array(nf4Blocks(elements));
  quantizeNf4(codes, absmax, scattered(elements));
  const scales = quantizeScales(absmax);
  const { device } = run;
  const { bytes } = device.nf4Layout([n, k]);
  const memory = device.allocate(bytes, "a weight in NF4");
  const place = (address: number) => tensor(name, address, "uint8", [bytes]);
  device.upload(place(memory.address), new Uint8Array(bytes));
  const staged: Weight = { name, address: memory.address, dtype, shape: [n, k], elements: bytes, quantized: "nf4" };
  device.loadCodes(staged, codes, 0, n);
  loadScales(device, staged, scales);
  const held = device.download(place(memory.address));
  memory.free();
  const { address } = run.filled(name, "uint8", [bytes], (i) => held[i]!);
  const at: Values = (i) => {
    const block = Math.floor(i / 64);
    const product = Math.fround(scales.scaleNumbers[scales.codes[block]!]! * scales.nested[Math.floor(block / 256)]!);
    const code = (codes[i >> 1]! >> (i & 1 ? 0 : 4)) & 15;
    return Math.fround(scales.numbers[code]! * Math.fround(product + scales.offset));
  };
  const w = { ...staged, address, at };
  return { ...w, next: () => w };
}
