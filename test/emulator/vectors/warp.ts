/** What the 32 lanes of a warp do together: shuffles, votes, matches, reductions, following their sections in the manual. */
import { type Bits, byWarp, type Form, maximum, minimum, signed, unsigned } from "./form.ts";

const lanes = Array.from({ length: 32 }, (_, lane) => lane);

/** The inputs of 32 lanes, as functions of the lane. */
function warp(...inputs: ((lane: number) => Bits | number)[]): Bits[][] {
  return lanes.map((lane) => inputs.map((input) => BigInt(input(lane))));
}

const value = (lane: number) => 0x1000 + lane * 0x111;
const all = () => 0xffffffff;
/** Each half of the warp in a separate call. */
const halves = (lane: number) => (lane < 16 ? 0x0000ffff : 0xffff0000);

/** Lanes that execute together: those that name the same mask. */
function together(masks: readonly Bits[], lane: number): number[] {
  return lanes.filter((other) => masks[other] === masks[lane]);
}

/** c: bits 12..8 the segment mask, bits 4..0 the clamp. */
function shuffles(): Form[] {
  const controls: Record<string, readonly number[]> = {
    up: [0, 0x1000, 0x1800, 0x1c00, 0x1e00, 0x0002],
    down: [0x1f, 0x101f, 0x181f, 0x1c1f, 0x1e1f, 0x0f],
    bfly: [0x1f, 0x101f, 0x181f, 0x1c1f, 0x0b],
    idx: [0x1f, 0x101f, 0x181f, 0x1c1f, 0x07],
  };
  const offsets: readonly ((lane: number) => number)[] = [() => 0, () => 1, () => 3, () => 16, () => 31, () => 33];
  return Object.entries(controls).map(([mode, list]) => {
    const own = mode === "idx" || mode === "bfly" ? [...offsets, (lane: number) => (lane * 7 + 3) % 32] : offsets;
    const warps = list.flatMap((c) => own.map((b) => warp(value, b, () => c, all)));
    return byWarp(
      `shfl.sync.${mode}.b32 {d0}|{d1}, {a}, {b}, {c}, {e};`,
      "b32 b32 b32 b32 -> b32 pred",
      warps,
      (inputs) =>
        inputs.map(([, b, c], lane) => {
          const [bval, cval, segment] = [Number(b! & 31n), Number(c! & 31n), Number((c! >> 8n) & 31n)];
          const most = (lane & segment) | (cval & ~segment & 31);
          const least = lane & segment;
          const j = { up: lane - bval, down: lane + bval, bfly: lane ^ bval, idx: least | (bval & ~segment & 31) }[
            mode
          ]!;
          const inside = mode === "up" ? j >= most : j <= most;
          return [inputs[inside ? j : lane]![0]!, inside ? 1n : 0n];
        }),
    );
  });
}

/** Without the predicate, and with the two halves of the warp in separate calls. */
function halfShuffles(): Form[] {
  return [
    byWarp("shfl.sync.bfly.b32 {d}, {a}, 1, 31, -1;", "b32 -> b32", [warp(value)], (inputs) =>
      inputs.map((_, lane) => [inputs[lane ^ 1]![0]!]),
    ),
    byWarp("shfl.sync.down.b32 {d}, {a}, 4, 4127, {b};", "b32 b32 -> b32", [warp(value, halves)], (inputs) =>
      inputs.map((_, lane) => [inputs[lane % 16 < 12 ? lane + 4 : lane]![0]!]),
    ),
    byWarp(
      "shfl.sync.idx.b32 {d}, {a}, {b}, 31, {c};",
      "f32 b32 b32 -> f32",
      [
        warp(
          (l) => 0x3f800000 + l,
          (l) => l & 16,
          halves,
        ),
      ],
      (inputs) => inputs.map((_, lane) => [inputs[lane & 16]![0]!]),
    ),
  ];
}

const patterns: readonly ((lane: number) => number)[] = [
  () => 0,
  () => 1,
  (lane) => lane & 1,
  (lane) => (lane < 16 ? 1 : 0),
  (lane) => (lane === 31 ? 1 : 0),
  (lane) => (lane === 5 ? 0 : 1),
];

function votes(): Form[] {
  const warps = patterns.flatMap((p) => [all, halves].map((m) => warp(p, m)));
  const test = (mode: string, values: readonly boolean[]) =>
    mode === "all" ? values.every(Boolean) : mode === "any" ? values.some(Boolean) : new Set(values).size === 1;
  return [
    ...["all", "any", "uni"].map((mode) =>
      byWarp(`vote.sync.${mode}.pred`, "pred b32 -> pred", warps, (inputs) => {
        const masks = inputs.map((x) => x[1]!);
        return lanes.map((lane) => [
          test(
            mode,
            together(masks, lane).map((i) => inputs[i]![0] === 1n),
          )
            ? 1n
            : 0n,
        ]);
      }),
    ),
    byWarp("vote.sync.ballot.b32", "pred b32 -> b32", warps, (inputs) => {
      const masks = inputs.map((x) => x[1]!);
      return lanes.map((lane) => [
        together(masks, lane).reduce((bits, i) => (inputs[i]![0] === 1n ? bits | (1n << BigInt(i)) : bits), 0n),
      ]);
    }),
    byWarp("vote.sync.any.pred {d}, !{a}, {b};", "pred b32 -> pred", warps, (inputs) => {
      const masks = inputs.map((x) => x[1]!);
      return lanes.map((lane) => [together(masks, lane).some((i) => inputs[i]![0] === 0n) ? 1n : 0n]);
    }),
  ];
}

function matches(): Form[] {
  const forms: Form[] = [];
  for (const bits of [32, 64]) {
    const high = bits === 64 ? 1n << 40n : 1n << 31n;
    const values: readonly ((lane: number) => bigint)[] = [
      () => high,
      (lane) => BigInt(lane % 5) * high,
      (lane) => BigInt(lane),
      (lane) => (lane < 16 ? 7n : 7n + high),
    ];
    const warps = values.flatMap((v) => [all, halves].map((m) => warp(v, m)));
    const reference = (inputs: readonly (readonly Bits[])[], lane: number) => {
      const group = together(
        inputs.map((x) => x[1]!),
        lane,
      );
      const same = group.filter((i) => inputs[i]![0] === inputs[lane]![0]);
      return { group, same, bits: same.reduce((m, i) => m | (1n << BigInt(i)), 0n) };
    };
    const cut = warps.map((w) => w.map(([v, m]) => [unsigned(v!, bits), m!]));
    forms.push(
      byWarp(`match.any.sync.b${bits}`, `b${bits} b32 -> b32`, cut, (inputs) =>
        lanes.map((lane) => [reference(inputs, lane).bits]),
      ),
      // The mask if all agree, else zero.
      byWarp(`match.all.sync.b${bits} {d0}|{d1}, {a}, {b};`, `b${bits} b32 -> b32 pred`, cut, (inputs) =>
        lanes.map((lane) => {
          const { group, same, bits: mask } = reference(inputs, lane);
          return same.length === group.length ? [mask, 1n] : [0n, 0n];
        }),
      ),
    );
  }
  return forms;
}

function reductions(): Form[] {
  const values: readonly ((lane: number) => number)[] = [
    (lane) => lane + 1,
    (lane) => (0x80000000 + lane * 0x01234567) >>> 0,
    (lane) => (lane % 3 === 0 ? 0xffffffff : 0x7fffffff),
  ];
  const warps = values.flatMap((v) => [all, halves].map((m) => warp(v, m)));
  const form = (op: string, type: string, f: (a: bigint, b: bigint) => bigint) =>
    byWarp(`redux.sync.${op}.${type}`, `${type} b32 -> ${type}`, warps, (inputs) => {
      const masks = inputs.map((x) => x[1]!);
      const number = (x: Bits) => (type === "s32" ? signed(x, 32) : x);
      return lanes.map((lane) => [
        unsigned(
          together(masks, lane)
            .map((i) => number(inputs[i]![0]!))
            .reduce(f),
          32,
        ),
      ]);
    });
  return [
    ...["u32", "s32"].flatMap((type) => [
      form("add", type, (a, b) => a + b),
      form("min", type, minimum),
      form("max", type, maximum),
    ]),
    form("and", "b32", (a, b) => a & b),
    form("or", "b32", (a, b) => a | b),
    form("xor", "b32", (a, b) => a ^ b),
  ];
}

function identity(): Form[] {
  const own = (register: string, f: (lane: number) => bigint) =>
    byWarp(`mov.u32 {d}, ${register};`, " -> u32", [lanes.map(() => [])], () => lanes.map((lane) => [f(lane)]));
  return [
    own("%laneid", (lane) => BigInt(lane)),
    own("%tid.x", (lane) => BigInt(lane)),
    own("%tid.y", () => 0n),
    own("%ntid.x", () => 32n),
    own("%ntid.z", () => 1n),
    own("%ctaid.x", () => 0n),
    own("%nctaid.x", () => 1n),
    own("%lanemask_eq", (lane) => 1n << BigInt(lane)),
    own("%lanemask_lt", (lane) => (1n << BigInt(lane)) - 1n),
    own("%lanemask_le", (lane) => (2n << BigInt(lane)) - 1n),
    own("%lanemask_gt", (lane) => 0xffffffffn - ((2n << BigInt(lane)) - 1n)),
    own("%lanemask_ge", (lane) => 0xffffffffn - ((1n << BigInt(lane)) - 1n)),
    byWarp("activemask.b32 {d};\nbar.warp.sync -1;", " -> b32", [lanes.map(() => [])], () =>
      lanes.map(() => [0xffffffffn]),
    ),
    byWarp("bar.warp.sync {a};\nmov.u32 {d}, {a};", "b32 -> b32", [warp(all), warp(halves)], (inputs) =>
      inputs.map(([a]) => [a!]),
    ),
  ];
}

export const warpForms: readonly Form[] = [
  ...shuffles(),
  ...halfShuffles(),
  ...votes(),
  ...matches(),
  ...reductions(),
  ...identity(),
];
