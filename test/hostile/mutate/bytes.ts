/** Damage to a file's bytes: truncated, extended, zeroed, shifted, flipped, and false numbers. */
import type { Random } from "../random.ts";
import type { Mutation } from "./mutation.ts";

const concat = (...parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));

/** A range [from, from + length) of about `share` of the bytes. */
function range(bytes: Uint8Array, random: Random, most = 4096): [from: number, length: number] {
  const from = random.below(bytes.length);
  return [from, 1 + random.below(Math.min(most, bytes.length - from))];
}

/** Values for length fields, offsets and counts. */
const numbers = [0n, 1n, 2n, 3n, 7n, 8n, 0x7fn, 0x80n, 0xffn, 0xffffn, 0x7fffffffn, 0x80000000n, 0xffffffffn].concat([
  0x100000000n,
  0x7fffffffffffffffn,
  0x8000000000000000n,
  0xffffffffffffffffn,
  0x3fffffffn,
  0x100000n,
]);

/** Writes a false number as `width` little-endian bytes at `at`, or the old one slightly changed. */
function lie(bytes: Uint8Array, at: number, width: 1 | 2 | 4 | 8, random: Random): Uint8Array | null {
  if (at < 0 || at + width > bytes.length) return null;
  const copy = Buffer.from(bytes);
  const bits = width * 8;
  let old = 0n;
  for (let i = width - 1; i >= 0; i--) old = (old << 8n) | BigInt(copy[at + i]!);
  const nearby = [old + 1n, old - 1n, old * 2n, old / 2n, old ^ (1n << BigInt(random.below(bits))), -old];
  let value = BigInt.asUintN(bits, random.chance(0.5) ? random.pick(nearby) : random.pick(numbers));
  for (let i = 0; i < width; i++, value >>= 8n) copy[at + i] = Number(value & 0xffn);
  return new Uint8Array(copy);
}

const nonEmpty = (name: string, edit: (bytes: Uint8Array, random: Random) => Uint8Array | null): Mutation => ({
  name,
  apply: (bytes, random) => (bytes.length === 0 ? null : edit(bytes, random)),
});

export const byteDamage: readonly Mutation[] = [
  { name: "empty", apply: () => new Uint8Array(0) },
  nonEmpty("cut off", (bytes, random) => bytes.slice(0, random.below(bytes.length))),
  nonEmpty("cut by a few bytes", (bytes, random) => bytes.slice(0, Math.max(0, bytes.length - 1 - random.below(16)))),
  nonEmpty("its start missing", (bytes, random) => bytes.slice(1 + random.below(Math.min(64, bytes.length)))),
  nonEmpty("zeros at its end", (bytes, random) => concat(bytes, new Uint8Array(1 + random.below(5000)))),
  nonEmpty("noise at its end", (bytes, random) =>
    concat(
      bytes,
      Uint8Array.from({ length: 1 + random.below(300) }, () => random.below(256)),
    ),
  ),
  nonEmpty("twice in a row", (bytes) => concat(bytes, bytes)),
  nonEmpty("one bit flipped", (bytes, random) => {
    const copy = bytes.slice();
    copy[random.below(copy.length)]! ^= 1 << random.below(8);
    return copy;
  }),
  nonEmpty("bits flipped", (bytes, random) => {
    const copy = bytes.slice();
    for (let left = 2 + random.below(30); left > 0; left--) copy[random.below(copy.length)]! ^= 1 << random.below(8);
    return copy;
  }),
  nonEmpty("a range of one byte", (bytes, random) => {
    const [from, length] = range(bytes, random);
    return bytes.slice().fill(random.pick([0, 0xff, 0x41, 0x0a, 0x7f]), from, from + length);
  }),
  nonEmpty("a range of noise", (bytes, random) => {
    const copy = bytes.slice();
    const [from, length] = range(bytes, random, 256);
    for (let i = from; i < from + length; i++) copy[i] = random.below(256);
    return copy;
  }),
  nonEmpty("a range missing", (bytes, random) => {
    const [from, length] = range(bytes, random, 512);
    return concat(bytes.subarray(0, from), bytes.subarray(from + length));
  }),
  nonEmpty("a range twice", (bytes, random) => {
    const [from, length] = range(bytes, random, 512);
    return concat(bytes.subarray(0, from + length), bytes.subarray(from));
  }),
  nonEmpty("two blocks swapped", (bytes, random) => {
    const size = 1 << random.below(9);
    const blocks = Math.floor(bytes.length / size);
    if (blocks < 2) return null;
    const [a, b] = [random.below(blocks) * size, random.below(blocks) * size];
    const copy = bytes.slice();
    copy.set(bytes.subarray(a, a + size), b);
    copy.set(bytes.subarray(b, b + size), a);
    return copy;
  }),
  nonEmpty("no UTF-8", (bytes, random) => {
    const copy = bytes.slice();
    const broken = random.pick([[0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf5, 0x80], [0xe2, 0x28]]);
    copy.set(broken.slice(0, copy.length), random.below(Math.max(1, copy.length - broken.length)));
    return copy;
  }),
  nonEmpty("a NUL within", (bytes, random) => {
    const copy = bytes.slice();
    copy[random.below(copy.length)] = 0;
    return copy;
  }),
];

/**
 * False numbers within [from, to) of the file: lengths, offsets and counts of binary formats, which are aligned to their size
 * (flatbuffers, prefixes) or unaligned (thrift).
 */
export function lyingNumbers(what: string, within: (bytes: Uint8Array) => [from: number, to: number]): Mutation[] {
  const aligned = ([4, 8, 2] as const).map((width) =>
    nonEmpty(`${what}: ${width} bytes of a number`, (bytes, random) => {
      const [from, to] = within(bytes);
      return lie(bytes, from + width * random.below(Math.max(1, Math.floor((to - from) / width))), width, random);
    }),
  );
  return [
    ...aligned,
    nonEmpty(`${what}: a byte`, (bytes, random) => {
      const [from, to] = within(bytes);
      return lie(bytes, from + random.below(Math.max(1, to - from)), 1, random);
    }),
    nonEmpty(`${what}: some bytes`, (bytes, random) => {
      const [from, to] = within(bytes);
      let copy: Uint8Array = bytes;
      for (let left = 1 + random.below(6); left > 0; left--)
        copy = lie(copy, from + random.below(Math.max(1, to - from)), 1, random) ?? copy;
      return copy;
    }),
  ];
}
