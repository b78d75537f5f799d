/** Loads weights in NF4: from a checkpoint that has them so, or quantized from its numbers. */
import { breathe } from "../device/breathe.ts";
import type { Device, Weight } from "../device/device.ts";
import { hostBytes } from "../device/host-numbers.ts";
import { loadScales } from "../device/nf4.ts";
import { bytesPerElement, type DType, float32Numbers } from "../tensor/dtype.ts";
import { NF4_BLOCK, nf4Blocks, quantizeNf4, quantizeScales, type StoredNf4 } from "../tensor/nf4.ts";

/** Elements that are in memory as float32 at once. */
const AT_ONCE = 2 ** 20;

/** Rows in chunks that begin with whole blocks of elements and of the devices' layouts. */
function* chunks({
  shape: [rows = 0, width = 1],
}: Weight): Generator<{ readonly from: number; readonly count: number }> {
  const step = Math.max(1, Math.floor(AT_ONCE / width / NF4_BLOCK)) * NF4_BLOCK;
  for (let from = 0; from < rows; from += step) yield { from, count: Math.min(step, rows - from) };
}

/** A weight that is stored in NF4. */
export async function loadNf4(device: Device, w: Weight, { address, scales }: StoredNf4): Promise<void> {
  loadScales(device, w, scales);
  const [, width = 1] = w.shape;
  for (const { from, count } of chunks(w)) {
    const codes = hostBytes(address + (from * width) / 2, Math.ceil((count * width) / 2));
    device.loadCodes(w, new Uint8Array(codes), from, count);
    await breathe();
  }
}

/** Quantizes a weight's numbers, row-major at `address`. */
export async function loadAsNf4(device: Device, w: Weight, address: number, dtype: DType): Promise<void> {
  const [rows = 0, width = 1] = w.shape;
  const absmax = new Float32Array(nf4Blocks(rows * width));
  const bytes = bytesPerElement(dtype);
  for (const { from, count } of chunks(w)) {
    const elements = count * width;
    const codes = new Uint8Array(Math.ceil(elements / 2));
    const values = float32Numbers(hostBytes(address + from * width * bytes, elements * bytes), dtype);
    quantizeNf4(codes, absmax.subarray((from * width) / NF4_BLOCK), values);
    device.loadCodes(w, codes, from, count);
    await breathe();
  }
  loadScales(device, w, quantizeScales(absmax));
}
