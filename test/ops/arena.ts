/**
 * Memory for op cases: bytes on the host and their counterpart on the device. On the CPU they are the same. For a device with
 * its own memory, the bytes are copied there before a run and back after it.
 */
import { bytesAt, mapAnonymous } from "../../ffi/bindings/libc.ts";
import type { Device, DeviceMemory } from "../../src/device/device.ts";
import { tensor } from "../../src/tensor/tensor.ts";

export const ARENA_BYTES = 128 * 2 ** 20;

/** The bytes of a case after one run, in a separate buffer. */
export type Image = Buffer<ArrayBuffer>;

export interface Arena {
  /** The host's bytes: a case writes the initial contents of its buffers here. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The address that ops receive for `length` bytes from `offset`. */
  place(offset: number, length: number): number;
  /** The host address behind an op's `address`: parameters are loaded from the host and saved to it. */
  hostAddress(address: number): number;
  /** Releases every place, for the next case. */
  clear(): void;
  /** Copies the host's first `used` bytes to the device. */
  upload(used: number): void;
  /** The bytes after a run that started from `initial`. */
  image(initial: Image): Image;
}

function hostBytes(): { address: number; bytes: Uint8Array<ArrayBuffer> } {
  const { address } = mapAnonymous(ARENA_BYTES);
  return { address, bytes: new Uint8Array(bytesAt(address, ARENA_BYTES)) };
}

/** For a device that works in the host's memory. */
export function hostArena(): Arena {
  const { address, bytes } = hostBytes();
  return {
    bytes,
    place: (offset) => address + offset,
    hostAddress: (at) => at,
    clear() {},
    upload() {},
    image: (initial) => Buffer.from(bytes.slice(0, initial.length).buffer),
  };
}

interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly memory: DeviceMemory;
  readonly owner: Device;
}

/**
 * For a device with its own memory. `separate`: each buffer is an allocation of exactly its length, so that a driver that
 * checks accesses notices a read beyond it; else all share one allocation, between guard words, as on the CPU.
 *
 * @param device is queried again for every case, since it may have been reopened
 */
export function deviceArena(device: () => Device, separate: boolean): Arena {
  const { address: host, bytes } = hostBytes();
  const pieces: Piece[] = [];
  const allocate = (offset: number, length: number): Piece => {
    const owner = device();
    return { offset, length, owner, memory: owner.allocate(Math.max(length, 1), "buffer of a case") };
  };
  let whole: Piece | undefined;

  function place(offset: number, length: number): number {
    if (separate) {
      const piece = allocate(offset, length);
      pieces.push(piece);
      return piece.memory.address;
    }
    if (whole?.owner !== device()) whole = allocate(0, ARENA_BYTES);
    return whole.memory.address + offset;
  }

  /** The device's counterpart of the first `used` bytes. */
  function parts(used: number): readonly Piece[] {
    if (separate) return pieces.filter(({ length }) => length > 0);
    return whole ? [{ ...whole, length: used }] : [];
  }
  const wholeOf = ({ memory, length }: Piece) => tensor("part of a case", memory.address, "uint8", [length]);

  return {
    bytes,
    place,
    hostAddress(address) {
      for (const { offset, length, memory } of parts(ARENA_BYTES))
        if (address >= memory.address && address <= memory.address + length)
          return host + offset + address - memory.address;
      throw new Error(`${address} is in no buffer of the case`);
    },
    clear() {
      for (const { memory, owner } of pieces.splice(0)) if (owner === device()) memory.free();
    },
    upload(used) {
      for (const part of parts(used))
        device().upload(wholeOf(part), new Uint8Array(bytes.buffer, part.offset, part.length));
    },
    image(initial) {
      const image = Buffer.from(bytes.slice(0, initial.length).buffer);
      for (const part of parts(initial.length)) {
        const found = device().download(wholeOf(part));
        const [from, to] = [part.offset, part.offset + part.length];
        const now = Buffer.from(found.buffer, found.byteOffset, found.byteLength);
        const before = initial.subarray(from, to);
        if (image.subarray(from, to).equals(before)) image.set(now, from);
        else mergeInto(image.subarray(from, to), now, before); // parameters were saved here
      }
      return image;
    },
  };
}

/** Where the device changed a byte, the image takes it; elsewhere the host's byte stays. */
function mergeInto(image: Buffer, device: Buffer, before: Buffer): void {
  for (const [i, byte] of device.entries()) if (byte !== before[i]) image[i] = byte;
}
