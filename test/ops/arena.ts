/**
 * Where the memory of cases lies: bytes of the host, and what a device has of them. On the CPU both are the same. For a
 * device with memory of its own the bytes are copied there before a run and back after it.
 */
import { bytesAt, mapAnonymous } from "../../ffi/bindings/libc.ts";
import type { Device, DeviceMemory } from "../../src/device/device.ts";
import { tensor } from "../../src/tensor/tensor.ts";

export const ARENA_BYTES = 128 * 2 ** 20;

/** The bytes of a case after one run, in a buffer of their own. */
export type Image = Buffer<ArrayBuffer>;

export interface Arena {
  /** The host's bytes: a case writes here what its buffers hold at first. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Address that ops are given for `length` bytes from `offset`. */
  place(offset: number, length: number): number;
  /** The host's address of what ops know under `address`: parameters are loaded from the host and saved to it. */
  hostAddress(address: number): number;
  /** Forgets every place, for the next case. */
  clear(): void;
  /** Gives the device the host's first `used` bytes. */
  upload(used: number): void;
  /** What the bytes are after a run that began with `initial`. */
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
 * For a device with memory of its own. `separate`: each buffer is an allocation as long as it is, so that a driver that
 * checks accesses notices a read beside it; else all lie in one, between guard words, as on the CPU.
 *
 * @param device is asked anew for every case, as it may have been opened again
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

  /** What there is on the device of the first `used` bytes. */
  function parts(used: number): readonly Piece[] {
    if (separate) return pieces.filter(({ length }) => length > 0);
    return whole ? [{ ...whole, length: used }] : [];
  }
  const halves = ({ memory, length }: Piece) => tensor("part of a case", memory.address, "bfloat16", [length / 2]);

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
        device().upload(halves(part), new Uint16Array(bytes.buffer, part.offset, part.length / 2));
    },
    image(initial) {
      const image = Buffer.from(bytes.slice(0, initial.length).buffer);
      for (const part of parts(initial.length)) {
        const found = device().download(halves(part));
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

/** Where the device changed a byte, the image takes it; where it did not, the host's stays. */
function mergeInto(image: Buffer, device: Buffer, before: Buffer): void {
  for (const [i, byte] of device.entries()) if (byte !== before[i]) image[i] = byte;
}
