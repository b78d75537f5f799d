/** The CPU device's memory, which is the host's, and copies between it and typed arrays. */
import { bytesAt, mapAnonymous } from "../../../ffi/bindings/libc.ts";
import { RunError } from "../../errors.ts";
import { byteLength, type Tensor } from "../../tensor/tensor.ts";
import type { DeviceMemory, NumberArray } from "../device.ts";
import { arrayOf, bytesFor, expectPacked } from "../host-arrays.ts";

/** @throws RunError if there is not enough memory, saying how much was requested */
export function allocate(bytes: number, what: string): DeviceMemory {
  try {
    return mapAnonymous(Math.max(bytes, 1));
  } catch {
    throw new RunError(
      `${what}: the system refused ${(bytes / 2 ** 20).toFixed(0)} MiB; lower micro_batch_tokens, max_completion_length or max_concurrent_sequences (grpo plan shows what each takes)`,
    );
  }
}

export function upload(target: Tensor, data: NumberArray): void {
  const source = bytesFor(target, data);
  if (source.length > 0) new Uint8Array(bytesAt(target.address, source.length)).set(source);
}

export function download(source: Tensor): NumberArray {
  expectPacked(source);
  const bytes = byteLength(source);
  return arrayOf(source, bytes > 0 ? bytesAt(source.address, bytes).slice(0) : new ArrayBuffer(0));
}
