/** Rotary embedding in place and its inverse, on packed rows and on some columns of a fused row. */
import { columns, elementCount } from "../../../src/tensor/tensor.ts";
import {
  bfloat16Gradients,
  computeDTypes,
  dtypes,
  type OpTable,
  opCase,
  type Run,
  type ShortDType,
  shortOf,
  timed,
  type Values,
} from "../case.ts";
import { bytesOf, memory } from "../cost.ts";
import { dot, rope } from "../reference.ts";
import { gradientTypes, packedTokens, type Shapes, usesOf } from "../shapes.ts";
import { bfloat16Rounding, rounded, type Tolerance } from "../tolerance.ts";

/** Two products and a sum, each rounded once, which may cancel. Inputs are within ±3.5. */
const turn: Tolerance = { relative: 2 ** -22, absolute: 2e-6 };
const slope: Tolerance = { relative: 1e-5, absolute: 1e-5 };

interface Settings {
  readonly T: number;
  readonly H: number;
  readonly Dh: number;
  readonly x: ShortDType;
  readonly gap?: number;
}

/** Tables, and unordered positions with repeats. */
export function tables(run: Run, { T, Dh }: Pick<Settings, "T" | "Dh">, positions: number) {
  const half = Dh / 2;
  const angle = (i: number) => Math.floor(i / half) * 10000 ** (-(i % half) / half);
  const drawn = Array.from({ length: T }, (_, t) => (t === 1 ? positions - 1 : run.random.integer(positions)));
  const slots = {
    cos: run.filled("cos", "float32", [positions, half], (i) => Math.cos(angle(i))),
    sin: run.filled("sin", "float32", [positions, half], (i) => Math.sin(angle(i))),
    positions: run.filled("positions", "int32", [T], (t) => drawn[t]!),
  };
  return { ...slots, at: { cos: slots.cos.at, sin: slots.sin.at, positions: slots.positions.at } };
}

function forward(settings: Settings) {
  const { T, H, Dh, gap = 0 } = settings;
  const dtype = dtypes[settings.x];
  return opCase("ropeForward", { ...settings }, (run: Run) => {
    const { cos, sin, positions, at } = tables(run, settings, 200);
    const x = run.input("x", dtype, [T, H * Dh], { output: true, gap });
    run.run(({ ops }) => ops.ropeForward(x, positions, cos, sin, Dh));
    run.check(x, rope(x.at, at, H * Dh, Dh), rounded(turn, dtype));
  });
}

/** q and k of a fused row are rotated together; `beside` heads, such as v, stay unchanged. */
function fused<Op extends "ropeForward" | "ropeBackward">(op: Op, settings: Settings, beside = 1, positions = 200) {
  const { T, H, Dh } = settings;
  const dtype = dtypes[settings.x];
  return opCase(op, { fused: true, ...settings }, (run: Run) => {
    const t = tables(run, settings, positions);
    const width = (H + beside) * Dh;
    const x = run.input("qkv", dtype, [T, width], { output: true });
    run.run(({ ops }) => ops[op](columns(x, 0, H * Dh), t.positions, t.cos, t.sin, Dh));
    const turned = rope(x.at, t.at, width, Dh, op === "ropeBackward");
    const want: Values = (i) => (i % width < H * Dh ? turned(i) : x.at(i));
    run.check(x, want, rounded(turn, dtype), { columns: 18 });
  });
}

function backward(settings: Settings) {
  const { T, H, Dh, gap = 0 } = settings;
  const dtype = dtypes[settings.x];
  return opCase("ropeBackward", { ...settings }, (run: Run) => {
    const { cos, sin, positions, at } = tables(run, settings, 200);
    const dx = run.input("dx", dtype, [T, H * Dh], { output: true, gap });
    const back = run.filled("x", dtype, [T, H * Dh], dx.at, { output: true, gap });
    run.run(({ ops }) => {
      ops.ropeBackward(dx, positions, cos, sin, Dh);
      ops.ropeForward(back, positions, cos, sin, Dh);
      ops.ropeBackward(back, positions, cos, sin, Dh);
    });
    run.check(dx, rope(dx.at, at, H * Dh, Dh, true), rounded(turn, dtype));
    // rotating there and back rounds twice, the first time where cos and sin have mixed the two halves
    run.check(back, back.at, dtype === "bfloat16" ? { absolute: 4 * 2 * bfloat16Rounding } : turn);
    if (dtype === "bfloat16") return;
    // dx is written over dy: its increase over dy is the slope minus dy
    const count = T * H * Dh;
    const loss = (moved: Values) => dot(count, rope(moved, at, H * Dh, Dh), dx.at) - dot(count, moved, dx.at);
    run.differences(dx, (i) => Math.sin(3 * i), loss, slope);
  });
}

const sizes = [
  { T: 1, H: 1, Dh: 2 },
  { T: 5, H: 3, Dh: 24 },
  { T: 33, H: 1, Dh: 16 },
  { T: 7, H: 4, Dh: 64 },
  { T: 31, H: 2, Dh: 128 },
] as const;

/** q and k of a layer's rows, beside v. */
function real<Op extends "ropeForward" | "ropeBackward">(op: Op, s: Shapes, T: number, x: ShortDType) {
  return fused(op, { T, H: s.H + s.Hkv, Dh: s.Dh, x }, s.Hkv, Math.max(T, 8));
}
const named = ({ H, Hkv, Dh }: Shapes, T: number) => ({ T, H: H + Hkv, Dh });

export const ropeOps: OpTable<"ropeForward" | "ropeBackward"> = {
  ropeForward: {
    cost: (_, x) => memory(2 * bytesOf(x), 3 * elementCount(x.shape)),
    cases: [
      ...sizes.map((size) => forward({ ...size, x: "f32" })),
      ...sizes.map((size) => forward({ ...size, x: "bf16" })),
      forward({ T: 13, H: 3, Dh: 24, x: "bf16", gap: 7 }),
      fused("ropeForward", { T: 33, H: 3, Dh: 24, x: "f32" }),
      fused("ropeForward", { T: 33, H: 3, Dh: 24, x: "bf16" }),
    ],
    real: (s) =>
      computeDTypes.flatMap((dtype) =>
        usesOf(s).map(([use, T]) => timed(use, dtype, named(s, T), real("ropeForward", s, T, shortOf(dtype)))),
      ),
  },
  ropeBackward: {
    cost: (_, dx) => memory(2 * bytesOf(dx), 3 * elementCount(dx.shape)),
    cases: [
      ...sizes.map((size) => backward({ ...size, x: "f32" })),
      backward({ T: 13, H: 3, Dh: 24, x: "f32", gap: 7 }),
      fused("ropeBackward", { T: 33, H: 3, Dh: 24, x: "f32" }),
      bfloat16Gradients(backward({ T: 33, H: 1, Dh: 16, x: "bf16" })),
      bfloat16Gradients(backward({ T: 13, H: 3, Dh: 24, x: "bf16", gap: 7 })),
    ],
    real: (s) =>
      gradientTypes(s).map((grad) => {
        const T = packedTokens(s);
        return timed("training", grad, named(s, T), real("ropeBackward", s, T, shortOf(grad)));
      }),
  },
};
