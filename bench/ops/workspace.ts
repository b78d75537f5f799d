/**
 * Buffers of one benchmark. Every input element is computed from its index, so that the host keeps no copy and can check a
 * result at any place; outputs start as NaN, so that an op that writes nothing is noticed.
 */
import { bytesAt } from "../../ffi/bindings/libc.ts";
import type { Device, DeviceMemory, NumberArray, Weight } from "../../src/device/device.ts";
import { bfloat16ToNumber, bytesPerElement, type ComputeDType, type DType } from "../../src/tensor/dtype.ts";
import { byteLength, elementCount, rows, type Tensor, tensor } from "../../src/tensor/tensor.ts";
import type { Slot, Values, WeightSlot } from "./case.ts";

/** Element `index` in row-major order. */
export interface PeriodicValues extends Values {
  /** Elements repeat after this many, so that a large buffer can be filled with copies of its beginning. */
  readonly period?: number;
}

export interface Workspace {
  readonly device: Device;
  /** Filled with numbers in [−1, 1) that are exact in bfloat16. */
  input(name: string, dtype: ComputeDType, shape: readonly number[]): Slot;
  filled(name: string, dtype: DType, shape: readonly number[], at: PeriodicValues): Slot;
  output(name: string, dtype: DType, shape: readonly number[]): Tensor;
  /** Numbers as in `input`, or `at`; `copies` of them exist, to be used in turn. */
  weight(
    name: string,
    dtype: ComputeDType,
    shape: readonly number[],
    copies?: number,
    at?: PeriodicValues,
    layoutOf?: ComputeDType,
  ): WeightSlot;
  /** Every element of a packed tensor, or those of one row. */
  values(t: Tensor, row?: number): Float64Array;
  /** Row `n` of a flat tensor in w's layout. */
  parameterRow(t: Tensor, w: Weight, n: number): Float32Array;
  free(): void;
}

/** Copies of a parameter are made until together they exceed most caches, up to this many. */
const COLD_BYTES = 192 * 2 ** 20;
const MOST_COPIES = 64;

export function coldCopies(bytes: number): number {
  return Math.min(MOST_COPIES, Math.ceil(COLD_BYTES / bytes));
}

/** Elements before `scattered` values repeat: a prime, so that the rows of a matrix start differently. */
const PERIOD = 2 ** 20 - 3;

/** k / 64 for k in −64 … 63, scattered over the indices; repeats after `PERIOD` elements. */
export function scattered(salt: number): PeriodicValues {
  return periodic((index) => {
    let x = Math.imul((index % PERIOD) ^ salt, 0x9e3779b1);
    x = Math.imul(x ^ (x >>> 15), 0x85ebca6b);
    return (((x ^ (x >>> 13)) >>> 25) - 64) / 64;
  });
}

export const constant = (value: number): PeriodicValues => periodic(() => value);

/** Values known to repeat with `PERIOD`. */
export function periodic(at: Values): PeriodicValues {
  return Object.assign(at, { period: PERIOD });
}

export function openWorkspace(device: Device): Workspace {
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

  const filled: Workspace["filled"] = (name, dtype, shape, at) => {
    const t = place(name, dtype, shape);
    fillWith(device, t, at);
    return { ...t, at: dtype === "float32" && !at.period ? (i) => Math.fround(at(i)) : at };
  };

  return {
    device,
    input: (name, dtype, shape) => filled(name, dtype, shape, nextValues()),
    filled,
    output(name, dtype, shape) {
      const t = place(name, dtype, shape);
      fillBytes(device, t, byteLength(t), 0xff);
      return t;
    },
    weight(name, dtype, shape, copies = 1, at = nextValues(), layoutOf = dtype) {
      const elements = device.parameterElements(shape, layoutOf);
      const bytes = elements * bytesPerElement(dtype);
      const made: Weight[] = [];
      for (let i = 0; i < copies; i++)
        made.push({ name, address: allocate(name, bytes), dtype, shape, elements, layoutOf });
      const first = made[0]!;
      loadWith(device, first, at);
      for (const copy of made.slice(1)) copyBytes(device, copy.address, first.address, bytes);
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
      const held: Weight = {
        ...w,
        address: t.address,
        dtype: t.dtype as ComputeDType,
        layoutOf: w.layoutOf ?? w.dtype,
      };
      device.saveParameter(host.address, "float32", held, n, 1);
      const copy = new Float32Array(bytesAt(host.address, width * 4).slice(0));
      host.free();
      return copy;
    },
    free() {
      for (const memory of allocations.splice(0)) memory.free();
    },
  };
}

/** Bytes per upload. */
const PIECE = 2 ** 22;

function bytesTensor(address: number, bytes: number): Tensor {
  return tensor("bytes", address, "bfloat16", [bytes / 2]);
}

function fillBytes(device: Device, t: Tensor, bytes: number, value: number): void {
  const piece = new Uint16Array(Math.min(PIECE, bytes) / 2).fill(value * 257);
  for (let at = 0; at < bytes; at += PIECE) {
    const part = piece.subarray(0, Math.min(PIECE, bytes - at) / 2);
    device.upload(bytesTensor(t.address + at, part.byteLength), part);
  }
}

/** Copies within the device's memory, through the host. */
export function copyBytes(device: Device, to: number, from: number, bytes: number): void {
  for (let at = 0; at < bytes; at += PIECE) {
    const count = Math.min(PIECE, bytes - at);
    device.upload(bytesTensor(to + at, count), device.download(bytesTensor(from + at, count)));
  }
}

/** The values from index 0 on, in the tensor's type: if they repeat, one period, which is uploaded again and again. */
export function fillWith(device: Device, t: Tensor, at: PeriodicValues): void {
  const flat = tensor(t.name, t.address, t.dtype, [elementCount(t.shape)]);
  const count = flat.shape[0]!;
  if (t.dtype === "int32" || t.dtype === "uint32") {
    const integers = t.dtype === "int32" ? new Int32Array(count) : new Uint32Array(count);
    device.upload(
      flat,
      integers.map((_, i) => at(i)),
    );
    return;
  }
  const chunk = new Float32Array(Math.min(PERIOD, count));
  const bits = new Uint32Array(chunk.buffer);
  let data: NumberArray = chunk;
  for (let from = 0; from < count; from += chunk.length) {
    const length = Math.min(chunk.length, count - from);
    if (from === 0 || at.period !== PERIOD) {
      for (let i = 0; i < length; i++) chunk[i] = at(from + i);
      if (t.dtype === "bfloat16") data = Uint16Array.from(bits, (x) => x >>> 16);
      else if (t.dtype === "uint8") data = Uint8Array.from(chunk);
      else data = t.dtype === "uint16" ? Uint16Array.from(chunk) : chunk;
    }
    device.upload(rows(flat, from, length), data.subarray(0, length));
  }
}

/** The same for a parameter, through the host's memory, row-major. */
function loadWith(device: Device, w: Weight, at: PeriodicValues): void {
  const [n = 1, ...rest] = w.shape;
  const width = elementCount(rest);
  const step = Math.min(n, Math.max(16, Math.floor(PERIOD / width)));
  const host = device.allocateHost(step * width * 4, "bench: rows of a parameter");
  const chunk = new Float32Array(bytesAt(host.address, step * width * 4));
  const periodic = at.period === PERIOD;
  const period = Float32Array.from({ length: periodic ? Math.min(PERIOD, n * width) : 0 }, (_, i) => at(i));
  for (let from = 0; from < n; from += step) {
    const count = Math.min(step, n - from);
    let done = 0;
    while (periodic && done < count * width) {
      const piece = period.subarray((from * width + done) % PERIOD).subarray(0, count * width - done);
      chunk.set(piece, done);
      done += piece.length;
    }
    for (; done < count * width; done++) chunk[done] = at(from * width + done);
    device.loadParameter(w, host.address, "float32", from, count);
  }
  host.free();
}
