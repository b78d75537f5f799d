/** Safetensors files and device buffers as float32 arrays, and the distance between two sets of them. */
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { openSafetensors } from "../../src/checkpoint/safetensors.ts";
import type { Device, Weight } from "../../src/device/device.ts";
import { savedTensors } from "../../src/model/weights.ts";

export type Tensors = ReadonlyMap<string, Float32Array>;

/** All tensors of a file of F32 tensors. */
export function readTensors(path: string): Tensors {
  const file = openSafetensors(path);
  try {
    return new Map(
      [...file.tensors.values()].map(({ name, dtype, address, byteLength }) => {
        if (dtype !== "F32") throw new Error(`${path}: ${name} is ${dtype}`);
        return [name, new Float32Array(bytesAt(address, byteLength).slice(0))];
      }),
    );
  } finally {
    file.close();
  }
}

/** Buffers in their parameter's layout on the device → row-major arrays. */
export function downloadTensors(device: Device, entries: readonly { name: string; weight: Weight }[]): Tensors {
  const { tensors, free } = savedTensors(device, entries, "float32");
  try {
    return new Map(
      tensors.map((saved) => {
        const values = new Float32Array(saved.shape.reduce((a, b) => a * b, 1));
        let at = 0;
        for (const { address, byteLength } of saved.chunks()) {
          values.set(new Float32Array(bytesAt(address, byteLength).slice(0)), at);
          at += byteLength / 4;
        }
        return [saved.name, values];
      }),
    );
  } finally {
    free();
  }
}

export function norm(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, x) => sum + x * x, 0));
}

export function difference(a: Float32Array, b: Float32Array): Float32Array {
  if (a.length !== b.length) throw new Error(`${a.length} values against ${b.length}`);
  return a.map((x, i) => x - b[i]!);
}

/** `a − b` tensor by tensor; the two must have the same names. */
export function differences(a: Tensors, b: Tensors): Tensors {
  const names = [...a.keys()].sort();
  if (names.join() !== [...b.keys()].sort().join()) throw new Error("the two sets have different tensors");
  return new Map(names.map((name) => [name, difference(a.get(name)!, b.get(name)!)]));
}

/** Largest ‖a − b‖₂ / ‖b‖₂ over the tensors; 0 if both are zero. */
export function worstRelative(a: Tensors, b: Tensors): { name: string; error: number } {
  let worst = { name: "none", error: 0 };
  for (const [name, distance] of differences(a, b)) {
    const [apart, size] = [norm(distance), norm(b.get(name)!)];
    const error = apart === 0 ? 0 : apart / size;
    if (!(error <= worst.error)) worst = { name, error };
  }
  return worst;
}
