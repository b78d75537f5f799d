/**
 * Small pieces of native memory for calls that write through pointers or read structures. Temporary typed arrays are unsafe:
 * their memory may move or be collected while a library still holds the address.
 */
import { CString, type Pointer } from "bun:ffi";
import { bytesAt, mapAnonymous } from "./libc.ts";

/** Addresses and 64-bit counts are plain numbers below this. */
const EXACT = 2 ** 53;

export interface NativeBlock {
  readonly address: number;
  readonly byteLength: number;
  readonly view: DataView;
  /** The unsigned 64-bit value at `offset`. @throws RangeError if a number cannot hold it exactly */
  u64(offset?: number): number;
  setU64(offset: number, value: number): void;
  i32(offset?: number): number;
  f32(offset?: number): number;
  /** Writes `text` and a NUL at `offset`; returns its address. */
  setText(offset: number, text: string): number;
  free(): void;
}

/** Zeroed native memory that stays in place until it is freed. */
export function nativeBlock(byteLength: number): NativeBlock {
  const memory = mapAnonymous(byteLength);
  const { address } = memory;
  const view = new DataView(bytesAt(address, byteLength));
  return {
    address,
    byteLength,
    view,
    u64(offset = 0) {
      const value = view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 2 ** 32;
      if (value >= EXACT) throw new RangeError(`${value.toString(16)}: an address or size above 2^53`);
      return value;
    },
    setU64(offset, value) {
      view.setUint32(offset, value >>> 0, true);
      view.setUint32(offset + 4, Math.floor(value / 2 ** 32), true);
    },
    i32: (offset = 0) => view.getInt32(offset, true),
    f32: (offset = 0) => view.getFloat32(offset, true),
    setText(offset, text) {
      const bytes = new TextEncoder().encode(`${text}\0`);
      new Uint8Array(view.buffer, offset, bytes.length).set(bytes);
      return address + offset;
    },
    free: () => memory.free(),
  };
}

/** The text at `address` up to its NUL; empty for a null pointer. */
export function textAt(address: number): string {
  return address === 0 ? "" : String(new CString(address as Pointer));
}
