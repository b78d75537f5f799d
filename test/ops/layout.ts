/** Where a device places the elements of a parameter, found by loading one that holds its own indices. */
import { bytesAt } from "../../ffi/bindings/libc.ts";
import type { Device, Weight } from "../../src/device/device.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { tensor } from "../../src/tensor/tensor.ts";
import type { Layout } from "./memory.ts";

export type Layouts = (shape: readonly number[], dtype: ComputeDType) => Layout;

/** The layouts of one device, each determined once. */
export function layoutsOf(device: () => Device): Layouts {
  const known = new Map<string, Layout>();
  return (shape, dtype) => {
    const key = `${shape.join("×")} ${dtype}`;
    const layout = known.get(key) ?? learn(device(), key, shape, dtype);
    known.set(key, layout);
    return layout;
  };
}

function learn(device: Device, key: string, shape: readonly number[], layoutOf: ComputeDType): Layout {
  const elements = device.parameterElements(shape, layoutOf);
  const count = shape.reduce((a, b) => a * b, 1);
  if (elements >= 2 ** 24) throw new Error(`${key}: float32 cannot count the elements`);
  const memory = device.allocate(elements * 4, "layout of a parameter");
  const source = device.allocateHost(count * 4, "indices");
  new Float32Array(bytesAt(source.address, count * 4)).set(Float32Array.from({ length: count }, (_, i) => i + 1));
  const stored = tensor(key, memory.address, "float32", [elements]);
  device.upload(stored, new Float32Array(elements));
  const w: Weight = { name: key, address: memory.address, dtype: "float32", shape, elements, layoutOf };
  device.loadParameter(w, source.address, "float32", 0, shape[0] ?? 1);
  const places = new Int32Array(count).fill(-1);
  for (const [at, index] of device.download(stored).entries()) if (index > 0) places[index - 1] = at;
  memory.free();
  source.free();
  if (places.includes(-1)) throw new Error(`${key}: loading left elements out`);
  return { places, elements };
}
