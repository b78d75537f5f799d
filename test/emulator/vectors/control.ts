/** Branches, predicated instructions and barriers. */
import { type Bits, byFormula, byWarp, type Form, product, signed, unsigned } from "./form.ts";
import { edge32 } from "./values.ts";

const lanes = Array.from({ length: 32 }, (_, lane) => lane);

/** Values pass through shared memory to a thread two places away. */
const exchange = (barrier: string) => `.shared .align 4 .b8 slots[128];
.reg .b32 own, other, thread;
mov.u32 thread, %tid.x;
mov.u32 own, slots;
xor.b32 other, thread, 21;
mad.lo.u32 other, other, 4, own;
mad.lo.u32 own, thread, 4, own;
st.shared.u32 [own], {a};
${barrier}
ld.shared.u32 {d}, [other];`;

const barriers = [
  "bar.sync 0;",
  "barrier.sync 0;",
  "bar.sync 1, 32;",
  "barrier.sync.aligned 2, 32;",
  "bar.sync 0, 32;",
  "barrier.sync.aligned 0;",
  "bar.warp.sync -1;",
];

/** Count, all and any over the block. */
function reductions(): Form[] {
  const patterns: readonly ((lane: number) => Bits)[] = [
    () => 0n,
    () => 1n,
    (lane) => BigInt(lane & 1),
    (lane) => (lane === 3 ? 0n : 1n),
  ];
  const warps = patterns.map((p) => lanes.map((lane) => [p(lane)]));
  const ones = (inputs: readonly (readonly Bits[])[]) => inputs.filter(([a]) => a === 1n).length;
  const each = (f: (count: number) => Bits) => (inputs: readonly (readonly Bits[])[]) =>
    inputs.map(() => [f(ones(inputs))]);
  return ["bar.red", "barrier.red.aligned"].flatMap((op) => [
    byWarp(`${op}.popc.u32 {d}, 0, {a};`, "pred -> u32", warps, each(BigInt)),
    byWarp(
      `${op}.and.pred {d}, 0, {a};`,
      "pred -> pred",
      warps,
      each((count) => (count === 32 ? 1n : 0n)),
    ),
    byWarp(
      `${op}.or.pred {d}, 0, {a};`,
      "pred -> pred",
      warps,
      each((count) => (count > 0 ? 1n : 0n)),
    ),
    byWarp(
      `${op}.or.pred {d}, 1, 32, !{a};`,
      "pred -> pred",
      warps,
      each((count) => (count < 32 ? 1n : 0n)),
    ),
  ]);
}

export const controlForms: readonly Form[] = [
  // A loop: the sum of 0 … a mod 16.
  byFormula(
    `.reg .b32 i, last;
.reg .pred more;
mov.u32 {d}, 0;
mov.u32 i, 0;
and.b32 last, {a}, 15;
again:
add.u32 {d}, {d}, i;
add.u32 i, i, 1;
setp.le.u32 more, i, last;
@more bra again;`,
    "u32 -> u32",
    product(edge32),
    (a) => ((a! & 15n) * ((a! & 15n) + 1n)) / 2n,
  ),
  // Both senses of a predicate, on an instruction and on a branch.
  byFormula(
    `.reg .pred negative;
setp.lt.s32 negative, {a}, 0;
mov.u32 {d0}, 7;
@negative mov.u32 {d0}, 1;
@!negative add.u32 {d0}, {d0}, 1;
mov.u32 {d1}, 5;
@!negative bra skip;
neg.s32 {d1}, {a};
bra.uni skip;
skip:`,
    "s32 -> u32 u32",
    product(edge32),
    (a) => (signed(a!, 32) < 0n ? [1n, unsigned(-a!, 32)] : [8n, 5n]),
  ),
  // A jump through a table.
  byFormula(
    `.reg .b32 which;
and.b32 which, {a}, 3;
ways: .branchtargets way0, way1, way2, way3;
brx.idx which, ways;
way0:
mov.u32 {d}, 10;
bra joined;
way1:
mov.u32 {d}, 11;
bra joined;
way2:
mov.u32 {d}, 12;
bra joined;
way3:
mov.u32 {d}, 13;
joined:`,
    "u32 -> u32",
    product(edge32),
    (a) => 10n + (a! & 3n),
  ),
  ...barriers.map((barrier) =>
    byWarp(exchange(barrier), "u32 -> u32", [lanes.map((lane) => [BigInt(lane * 3 + 1)])], (inputs) =>
      inputs.map((_, lane) => [inputs[lane ^ 21]![0]!]),
    ),
  ),
  ...reductions(),
];
