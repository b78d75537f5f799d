/**
 * Buffers of one benchmark: inputs whose every element follows from its index, so that no copy of them is kept on the
 * host and a result can be checked at any place; outputs that begin as NaN, so that an op which writes nothing is seen.
 */
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { bfloat16Paths, type CpuDevice } from "../../src/device/cpu.ts";
import type { DeviceMemory, Weight } from "../../src/device/device.ts";
import { bfloat16ToNumber, bytesPerElement, type ComputeDType, type DType } from "../../src/tensor/dtype.ts";
import { byteLength, elementCount, rows, type Tensor, tensor } from "../../src/tensor/tensor.ts";

/** Element `index` in row-major order. */
export type Values = (index: number) => number;

/** A tensor and what it was filled with. */
export interface Input extends Tensor {
  readonly at: Values;
}

/** A parameter and what it was filled with, row-major. */
export interface InputWeight extends Weight {
  readonly at: Values;
  /** The next of its copies: in decoding a layer's weights come from memory, as other layers were read in between. */
  next(): Weight;
}

export interface Workspace {
  readonly device: CpuDevice;
  /** Products with a bfloat16 weight round their float32 operands to bfloat16. */
  readonly roundsOperands: boolean;
  /** Filled with numbers in [−1, 1) that bfloat16 holds exactly, or with `at`. */
  input(name: string, dtype: ComputeDType, shape: readonly number[], at?: Values): Input;
  integers(name: string, shape: readonly number[], values: ArrayLike<number>): Tensor;
  output(name: string, dtype: DType, shape: readonly number[]): Tensor;
  weight(name: string, dtype: ComputeDType, shape: readonly number[], copies?: number): InputWeight;
  /** Every element of a packed tensor, or those of one of its rows. */
  values(t: Tensor, row?: number): Float64Array;
  /** Row `n` of a float32 tensor in w's layout. */
  parameterRow(t: Tensor, w: Weight, n: number): Float32Array;
  free(): void;
}

/** Copies of a parameter are made until they are together larger than most caches, but no more than this many. */
const COLD_BYTES = 192 * 2 ** 20;
const MOST_COPIES = 64;

export function coldCopies(bytes: number): number {
  return Math.min(MOST_COPIES, Math.ceil(COLD_BYTES / bytes));
}

/** k / 64 for k in −64 … 63, scattered over the indices. */
export function scattered(salt: number): Values {
  return (index) => {
    let x = Math.imul(index ^ salt, 0x9e3779b1);
    x = Math.imul(x ^ (x >>> 15), 0x85ebca6b);
    return (((x ^ (x >>> 13)) >>> 25) - 64) / 64;
  };
}

const CHUNK = 2 ** 20;

export function openWorkspace(device: CpuDevice): Workspace {
  const allocations: DeviceMemory[] = [];
  let salt = 1;
  const allocate = (name: string, bytes: number): number => {
    const memory = device.allocate(bytes, `bench: ${name}`);
    allocations.push(memory);
    return memory.address;
  };
  const place = (name: string, dtype: DType, shape: readonly number[]) =>
    tensor(name, allocate(name, elementCount(shape) * bytesPerElement(dtype)), dtype, shape);
  const nextValues = () => scattered(Math.imul(salt++, 0x2545f491));

  return {
    device,
    roundsOperands: bfloat16Paths.includes(device.path),
    input(name, dtype, shape, at = nextValues()) {
      const t = place(name, dtype, shape);
      fillWith(device, t, at);
      return { ...t, at };
    },
    integers(name, shape, values) {
      const t = place(name, "int32", shape);
      device.upload(t, Int32Array.from(values));
      return t;
    },
    output(name, dtype, shape) {
      const t = place(name, dtype, shape);
      const bytes = byteLength(t);
      if (bytes > 0) new Uint8Array(bytesAt(t.address, bytes)).fill(0xff);
      return t;
    },
    weight(name, dtype, shape, copies = 1) {
      const elements = device.parameterElements(shape);
      const bytes = elements * bytesPerElement(dtype);
      const at = nextValues();
      const made: Weight[] = [];
      for (let i = 0; i < copies; i++) made.push({ name, address: allocate(name, bytes), dtype, shape, elements });
      const first = made[0]!;
      loadWith(device, first, at);
      const source = new Uint8Array(bytesAt(first.address, bytes));
      for (const copy of made.slice(1)) new Uint8Array(bytesAt(copy.address, bytes)).set(source);
      let turn = 0;
      return { ...first, at, next: () => made[turn++ % made.length]! };
    },
    values(t, row) {
      const read = device.download(row === undefined ? t : rows(t, row, 1));
      return Float64Array.from(read, t.dtype === "bfloat16" ? bfloat16ToNumber : Number);
    },
    parameterRow(t, w, n) {
      const width = elementCount(w.shape.slice(1));
      const host = device.allocateHost(width * 4, "bench: a row");
      device.saveParameter(host.address, "float32", { ...w, address: t.address, dtype: "float32" }, n, 1);
      const copy = new Float32Array(bytesAt(host.address, width * 4).slice(0));
      host.free();
      return copy;
    },
    free() {
      for (const memory of allocations.splice(0)) memory.free();
    },
  };
}

function fillWith(device: CpuDevice, t: Tensor, at: Values): void {
  const flat = tensor(t.name, t.address, t.dtype, [elementCount(t.shape)]);
  const count = flat.shape[0]!;
  const chunk = new Float32Array(Math.min(CHUNK, count));
  const bits = new Uint32Array(chunk.buffer);
  for (let from = 0; from < count; from += chunk.length) {
    const length = Math.min(chunk.length, count - from);
    for (let i = 0; i < length; i++) chunk[i] = at(from + i);
    const data =
      t.dtype === "bfloat16" ? Uint16Array.from(bits.subarray(0, length), (x) => x >>> 16) : chunk.subarray(0, length);
    device.upload(rows(flat, from, length), data);
  }
}

function loadWith(device: CpuDevice, w: Weight, at: Values): void {
  const [n = 1, ...rest] = w.shape;
  const width = elementCount(rest);
  const step = Math.max(16, Math.floor(CHUNK / width));
  const host = device.allocateHost(step * width * 4, "bench: rows of a parameter");
  const chunk = new Float32Array(bytesAt(host.address, step * width * 4));
  for (let from = 0; from < n; from += step) {
    const count = Math.min(step, n - from);
    for (let i = 0; i < count * width; i++) chunk[i] = at(from * width + i);
    device.loadParameter(w, host.address, "float32", from, count);
  }
  host.free();
}
