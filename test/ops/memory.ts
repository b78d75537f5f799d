/**
 * The memory of a case: every buffer is surrounded by guard words, which also fill the gaps of a strided view and outputs
 * without an initial value, so that a later check finds any write outside the outputs.
 */
import type { SlotOptions, ValueSlot, WeightSlot } from "../../bench/ops/case.ts";
import {
  bfloat16ToNumber,
  bytesPerElement,
  type ComputeDType,
  type DType,
  numberToBfloat16,
} from "../../src/tensor/dtype.ts";
import { elementCount } from "../../src/tensor/tensor.ts";
import { ARENA_BYTES, type Arena, type Image } from "./arena.ts";

/** A NaN as float32, as bfloat16 and as float64; as an index, far outside every buffer. */
const SENTINEL = 0xffc5;
const GUARD_BYTES = 64;

/** A tensor in guarded memory. `values` are its elements in order of the shape, as stored: rounded to the dtype. */
export interface PlacedSlot extends ValueSlot {
  readonly output: boolean;
  /** Offset of the buffer in the case's memory, in bytes. */
  readonly offset: number;
  /** Offset of element i of `values` from the address, in elements. */
  readonly places: Int32Array;
  /** Elements in the buffer, gaps and padding included. */
  readonly extent: number;
}

export function encode(dtype: DType, view: DataView, offset: number, value: number): void {
  if (dtype === "float32") view.setFloat32(offset, value, true);
  else if (dtype === "bfloat16") view.setUint16(offset, numberToBfloat16(Math.fround(value)), true);
  else if (dtype === "float64") view.setFloat64(offset, value, true);
  else if (dtype === "int32") view.setInt32(offset, value, true);
  else if (dtype === "uint32") view.setUint32(offset, value, true);
  else if (dtype === "uint8") view.setUint8(offset, value);
  else view.setUint16(offset, value, true); // float16 sources are given as bit patterns
}

export function decode(dtype: DType, view: DataView, offset: number): number {
  if (dtype === "float32") return view.getFloat32(offset, true);
  if (dtype === "bfloat16") return bfloat16ToNumber(view.getUint16(offset, true));
  if (dtype === "float64") return view.getFloat64(offset, true);
  if (dtype === "int32") return view.getInt32(offset, true);
  if (dtype === "uint32") return view.getUint32(offset, true);
  if (dtype === "uint8") return view.getUint8(offset);
  return view.getUint16(offset, true);
}

export interface CaseMemory {
  slot(
    name: string,
    dtype: DType,
    shape: readonly number[],
    values: ArrayLike<number> | null,
    o?: SlotOptions,
  ): PlacedSlot;
  /** A parameter that `layout` puts in the device's order: places[i] is the position of row-major element i. */
  weight(
    name: string,
    dtype: ComputeDType,
    shape: readonly number[],
    values: ArrayLike<number>,
    layout: Layout,
  ): Omit<WeightSlot, "next">;
  /** A flat tensor in a parameter's layout (its gradient, master weights or moments), padding zero. */
  parameter(name: string, dtype: DType, values: ArrayLike<number>, layout: Layout, output: boolean): PlacedSlot;
  /** Restores every byte to its state before the first run. */
  restore(): void;
  image(): Image;
  read(image: Image, slot: PlacedSlot): Float64Array;
  /** The slot's own bytes (gaps left out) of rows [from, from + count). */
  rowBytes(image: Image, slot: PlacedSlot, from: number, count: number): Buffer;
  /** Names a write outside the outputs, or undefined. */
  strayWrite(image: Image): string | undefined;
}

export interface Layout {
  readonly places: Int32Array;
  readonly elements: number;
}

/** Memory for one case; the next case starts at the arena's beginning again. */
export function caseMemory(arena: Arena): CaseMemory {
  const { bytes } = arena;
  const words = new Uint16Array(bytes.buffer);
  const slots: PlacedSlot[] = [];
  let used = 0;
  let initial: Image | undefined;
  arena.clear();

  function place(
    name: string,
    dtype: DType,
    shape: readonly number[],
    rowStride: number,
    places: Int32Array,
    extent: number,
    values: ArrayLike<number> | null,
    output: boolean,
    padding: boolean,
  ): PlacedSlot {
    const size = bytesPerElement(dtype);
    const start = used + GUARD_BYTES;
    const end = Math.ceil((start + extent * size) / GUARD_BYTES) * GUARD_BYTES + GUARD_BYTES;
    if (end > ARENA_BYTES) throw new Error(`${name}: the case needs more than ${ARENA_BYTES} bytes`);
    words.fill(SENTINEL, used / 2, end / 2);
    if (padding) bytes.fill(0, start, start + extent * size);
    const view = new DataView(bytes.buffer, start, extent * size);
    const stored = new Float64Array(places.length);
    for (const [i, to] of places.entries()) {
      if (values) encode(dtype, view, to * size, values[i]!);
      stored[i] = decode(dtype, view, to * size);
    }
    used = end;
    const address = arena.place(start, extent * size);
    const at = (i: number) => stored[i]!;
    const slot: PlacedSlot = {
      name,
      address,
      dtype,
      shape,
      rowStride,
      values: stored,
      at,
      output,
      offset: start,
      places,
      extent,
    };
    slots.push(slot);
    return slot;
  }

  const viewOf = (image: Image, slot: PlacedSlot) =>
    new DataView(image.buffer, image.byteOffset + slot.offset, slot.extent * bytesPerElement(slot.dtype));

  return {
    slot(name, dtype, shape, values, { output = false, gap = 0 } = {}) {
      const width = elementCount(shape.slice(1));
      const rows = shape[0] ?? 1;
      const stride = width + gap;
      const places = Int32Array.from({ length: rows * width }, (_, i) => Math.floor(i / width) * stride + (i % width));
      return place(name, dtype, shape, stride, places, rows * stride, values, output, false);
    },
    weight(name, dtype, shape, values, { places, elements }) {
      const slot = place(name, dtype, [elements], 1, places, elements, values, false, true);
      return { name, address: slot.address, dtype, shape, elements, at: slot.at };
    },
    parameter(name, dtype, values, { places, elements }, output) {
      return place(name, dtype, [elements], 1, places, elements, values, output, true);
    },
    restore() {
      initial ??= Buffer.from(bytes.slice(0, used).buffer);
      bytes.set(initial);
      arena.upload(used);
    },
    image: () => arena.image(initial!),
    read(image, slot) {
      const view = viewOf(image, slot);
      const size = bytesPerElement(slot.dtype);
      return Float64Array.from(slot.places, (at) => decode(slot.dtype, view, at * size));
    },
    rowBytes(image, slot, from, count) {
      const size = bytesPerElement(slot.dtype);
      const width = elementCount(slot.shape.slice(1)) * size;
      const row = (r: number) => slot.offset + r * slot.rowStride * size;
      return Buffer.concat(
        Array.from({ length: count }, (_, i) => image.subarray(row(from + i), row(from + i) + width)),
      );
    },
    strayWrite(image) {
      if (!initial) return undefined;
      const seen = Buffer.from(image.buffer.slice(0));
      const views = (bytes: Uint8Array) => [new Uint8Array(bytes.buffer), new Uint16Array(bytes.buffer)] as const;
      const [after, before] = [views(seen), views(initial)];
      for (const slot of slots) {
        if (!slot.output) continue;
        const size = bytesPerElement(slot.dtype);
        const [unit, words] = size === 1 ? [1, 0] : [2, 1];
        const [target, source, count] = [after[words]!, before[words]!, size / unit];
        for (const at of slot.places) {
          const from = slot.offset / unit + at * count;
          for (let i = from; i < from + count; i++) target[i] = source[i]!;
        }
      }
      if (seen.equals(initial)) return undefined;
      const at = seen.findIndex((byte, i) => byte !== initial![i]);
      const near = slots.findLast((slot) => slot.offset - GUARD_BYTES <= at)!;
      const element = Math.floor((at - near.offset) / bytesPerElement(near.dtype));
      const where =
        element < 0 ? "before" : element >= near.extent ? "past the end of" : near.output ? "in a gap of" : "in input";
      return `wrote ${where} ${near.name} (element ${element} of ${near.extent})`;
    },
  };
}
