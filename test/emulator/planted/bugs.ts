/** The planted kernel bugs: how each is launched, and what its correct twin computes. */
import { type Argument, type Extent, i32, i64, type Session } from "./session.ts";

export interface Bug {
  /** Source in kernels/, without its extension. */
  readonly name: string;
  readonly grid?: Extent;
  readonly block: Extent;
  readonly shared?: number;
  /** Shared memory of the correct twin, if the launch itself is wrong. */
  readonly goodShared?: number;
  /** Arguments; `fixed` for the correct twin. */
  readonly args: (session: Session, out: number, fixed: boolean) => readonly Argument[];
  /** Size of the result buffer in bytes. */
  readonly outBytes: number;
  readonly expected: readonly number[];
  readonly integers?: boolean;
  /** The buffer starts as zeros; else it is not written before the launch. */
  readonly zeroed?: boolean;
  /** Text that the report must also contain. */
  readonly says?: string;
  /** Only the values are wrong: the emulator has nothing to report. */
  readonly byValue?: boolean;
}

const count = (n: number) => Array.from({ length: n }, (_, i) => i);
const floats = (n: number) => Float32Array.from(count(n));
const ints = (n: number) => Int32Array.from(count(n));

const bf16 = (x: number) => new Uint32Array(new Float32Array([x]).buffer)[0]! >>> 16;
/** Rows of pairs of small integers in bf16, and the product of a (16×16) and bᵀ (8×16). */
const a = count(256).map((i) => ((i * 7) % 13) - 6);
const b = count(128).map((i) => ((i * 5) % 11) - 5);
const pairs = (values: readonly number[]) => Uint16Array.from(values.map(bf16));
const product = count(128).map((i) =>
  count(16).reduce((sum, k) => sum + a[Math.floor(i / 8) * 16 + k]! * b[(i % 8) * 16 + k]!, 0),
);

/** A panel of 16 rows, and its columns' sums. */
const panel = count(1024).map((i) => ((i * 5) % 23) - 11);
const columnSums = count(64).map((c) => count(16).reduce((sum, k) => sum + panel[64 * k + c]!, 0));
const panelSums = (name: string): Bug => ({
  name,
  block: 128,
  shared: 4096,
  outBytes: 256,
  args: (s, out) => [out, s.buffer(pairs(panel))],
  expected: columnSums,
});
/** Copied as a tile: the first two rows, the second exchanged by the swizzle. */
const copied = count(128).map((i) => panel[i < 64 ? i : 64 + ((i - 64) ^ 8)]!);
const tileCopy = (name: string, times = 1): Bug => ({
  name,
  block: 128,
  shared: 2048,
  outBytes: 512,
  args: (s, out) => [s.tensorMap(s.buffer(pairs(panel)), 16), out],
  expected: copied.map((x) => times * x),
});

const words = (skip: number) => Uint16Array.from(count(32 * 8 + 8).map((i) => (i * 257 + skip) & 0xffff));

export const bugs: readonly Bug[] = [
  {
    name: "missing-barrier",
    block: 128,
    outBytes: 512,
    args: (s, out) => [out, s.buffer(floats(128))],
    expected: count(128).map((t) => 2 * t),
  },
  {
    name: "read-past-end",
    grid: 4,
    block: 32,
    outBytes: 400,
    args: (s, out) => [out, s.buffer(floats(100)), i32(100)],
    expected: count(100),
  },
  {
    name: "write-past-end",
    grid: 4,
    block: 32,
    outBytes: 400,
    args: (s, out) => [out, s.buffer(floats(100)), i32(100)],
    expected: count(100),
  },
  {
    name: "vector-past-end",
    block: 32,
    outBytes: 128,
    args: (s, out) => [out, s.buffer(floats(126)), i32(126)],
    expected: count(32).map((t) => 8 * t + 1),
  },
  {
    name: "misaligned-load",
    block: 32,
    outBytes: 512,
    args: (s, out) => [out, s.buffer(words(0)), i32(3)],
    integers: true,
    expected: count(128).map((i) => words(0)[3 + 2 * i]! | (words(0)[4 + 2 * i]! << 16) | 0),
  },
  {
    name: "misaligned-shared",
    block: 32,
    outBytes: 128,
    args: (_, out) => [out, i32(1)],
    expected: count(32).map(() => 0),
  },
  {
    name: "uninitialised-shared",
    block: 64,
    outBytes: 256,
    args: (s, out) => [out, s.buffer(floats(64)), i32(60)],
    expected: count(64).map((t) => (63 - t < 60 ? 63 - t : 0)),
  },
  {
    name: "uninitialised-local",
    block: 32,
    outBytes: 128,
    args: (s, out) => [out, s.buffer(floats(40)), i32(8), i32(7)],
    expected: count(32).map((t) => t + 7),
  },
  {
    name: "uninitialised-global",
    block: 32,
    outBytes: 128,
    args: (s, out) => [out, s.buffer(floats(32))],
    expected: count(32),
  },
  {
    name: "divergent-barrier",
    block: 64,
    outBytes: 256,
    args: (s, out) => [out, s.buffer(floats(64))],
    expected: count(64).map((t) => (t < 40 ? (t ^ 1) + 1 : (t ^ 1) * 3)),
  },
  {
    name: "shuffle-outside-mask",
    block: 32,
    outBytes: 128,
    args: (s, out) => [out, s.buffer(ints(32))],
    integers: true,
    expected: count(32).map((t) => t ^ 1),
  },
  {
    name: "shuffle-absent-lane",
    block: 32,
    outBytes: 80,
    args: (s, out) => [out, s.buffer(ints(20)), i32(20)],
    integers: true,
    expected: count(20).map((t) => t ^ 1),
  },
  {
    name: "shuffle-source",
    block: 32,
    outBytes: 96,
    args: (s, out) => [out, s.buffer(ints(32))],
    integers: true,
    expected: count(24).map((t) => t + 4),
  },
  {
    name: "wrong-fragment",
    block: 32,
    outBytes: 512,
    args: (s, out) => [out, s.buffer(pairs(a)), s.buffer(pairs(b))],
    expected: product,
    byValue: true,
  },
  {
    name: "missing-async-wait",
    block: 32,
    outBytes: 128,
    args: (s, out) => [out, s.buffer(floats(128))],
    expected: count(32).map((t) => 127 - t),
  },
  {
    name: "async-wait-short",
    block: 32,
    outBytes: 128,
    args: (s, out) => [out, s.buffer(floats(256))],
    expected: count(32).map((t) => 127 - t + 128 + t),
  },
  {
    name: "async-without-barrier",
    block: 128,
    outBytes: 512,
    args: (s, out) => [out, s.buffer(floats(512))],
    expected: count(128).map((t) => 4 * (127 - t)),
  },
  {
    name: "async-buffer-reuse",
    block: 64,
    outBytes: 256,
    args: (s, out) => [out, s.buffer(floats(768)), i32(3)],
    expected: count(64).map((t) => 3 * 4 * (63 - t) + 768),
  },
  {
    name: "race-write-write",
    block: 128,
    outBytes: 512,
    args: (_, out) => [out],
    integers: true,
    expected: count(128).map(() => 0),
  },
  {
    name: "race-read-write",
    block: 64,
    outBytes: 256,
    args: (s, out) => [out, s.buffer(ints(64))],
    integers: true,
    expected: count(64).map((t) => (t < 32 ? 63 - t : t - 32)),
  },
  {
    name: "race-in-warp",
    block: 32,
    outBytes: 128,
    args: (s, out) => [out, s.buffer(ints(32))],
    integers: true,
    expected: count(32).map((t) => t + 1),
  },
  {
    name: "race-between-blocks",
    grid: 8,
    block: 32,
    outBytes: 4,
    args: (s, out) => [out, s.buffer(ints(8))],
    zeroed: true,
    integers: true,
    expected: [28],
  },
  {
    name: "half-syncwarp",
    block: 32,
    outBytes: 128,
    args: (s, out) => [out, s.buffer(ints(32))],
    integers: true,
    expected: count(32).map((t) => t + 1),
  },
  {
    name: "named-barrier-count",
    block: 128,
    outBytes: 256,
    args: (_, out) => [out],
    integers: true,
    expected: count(64).map((t) => 63 - t),
  },
  {
    name: "barrier-and-shuffle",
    block: 32,
    outBytes: 128,
    args: (s, out) => [out, s.buffer(ints(32))],
    integers: true,
    expected: count(32).map((t) => (t < 16 ? (t ^ 1) + 1 : t)),
  },
  {
    name: "index-overflow",
    block: 32,
    outBytes: 128,
    args: (s, out) => [out, s.buffer(floats(32)), i64(2_500_000_000), i32(50_000), i32(50_000)],
    expected: count(32),
  },
  {
    name: "shared-past-end",
    block: 64,
    outBytes: 256,
    args: (s, out) => [out, s.buffer(floats(64)), i32(1)],
    expected: count(64).map((t) => (t + 1) % 64),
  },
  {
    name: "dynamic-shared",
    block: 64,
    shared: 252,
    goodShared: 256,
    outBytes: 256,
    args: (s, out) => [out, s.buffer(floats(64))],
    expected: count(64).map((t) => 63 - t),
  },
  {
    name: "local-past-end",
    block: 32,
    outBytes: 128,
    args: (s, out) => [out, s.buffer(floats(40)), i32(8)],
    expected: count(32),
  },
  {
    name: "use-after-free",
    says: "freed 128-byte allocation",
    block: 32,
    outBytes: 128,
    args: (s, out, fixed) => {
      const x = s.buffer(floats(32));
      if (!fixed) s.free(x);
      return [out, x];
    },
    expected: count(32),
  },
  {
    name: "host-pointer",
    block: 32,
    outBytes: 128,
    args: (s, out, fixed) => [out, fixed ? s.buffer(floats(32)) : s.driver.out.address],
    expected: count(32),
  },
  {
    name: "bank-conflict",
    block: [32, 32, 1],
    outBytes: 4096,
    args: (s, out) => [out, s.buffer(floats(1024))],
    expected: count(1024).map((i) => (i % 32) * 32 + Math.floor(i / 32)),
  },
  {
    name: "uncoalesced",
    grid: 4,
    block: 128,
    outBytes: 2048,
    args: (s, out) => [out, s.buffer(floats(4096))],
    expected: count(512),
  },
  { name: "trap", block: 32, outBytes: 128, args: (_, out) => [out, i32(31)], integers: true, expected: count(32) },
  tileCopy("hopper-missing-expect"),
  tileCopy("hopper-wrong-phase"),
  tileCopy("hopper-reused-early", 2),
  panelSums("hopper-missing-proxy-fence"),
  panelSums("hopper-missing-product-wait"),
  panelSums("hopper-missing-product-fence"),
  panelSums("hopper-operand-overwritten"),
  panelSums("hopper-misaligned-operand"),
  panelSums("hopper-three-warps"),
];
