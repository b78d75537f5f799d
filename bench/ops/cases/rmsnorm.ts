/** RMS norm over the hidden state and over heads, forward and backward, in place and through views of a fused row. */
import type { ComputeDType } from "../../../src/tensor/dtype.ts";
import { columns, elementCount } from "../../../src/tensor/tensor.ts";
import {
  bfloat16Gradients,
  computeDTypes,
  dtypes,
  type OpTable,
  offsetBy,
  opCase,
  type Run,
  type Settings,
  type ShortDType,
  type SuiteRun,
  shortOf,
  timed,
  type Values,
} from "../case.ts";
import { bytesOf, memory, optional, weightBytes } from "../cost.ts";
import { dot, grown, rmsnorm, rmsnormGradient } from "../reference.ts";
import { gradientType, packedTokens, type Shapes } from "../shapes.ts";
import { rounded, type Tolerance } from "../tolerance.ts";

/** The terms of a sum of squares have one sign, so it errs by a few 2⁻²⁴ of itself; the products add three roundings. */
const norm: Tolerance = { relative: 2 ** -20 };
/** dx is a difference of two such terms, and cancels to small values. */
const gradient: Tolerance = { relative: 2 ** -19, absolute: 2e-6 };
/** dweight sums T·H terms of any sign. Sums of more than 350 terms err by a few 2⁻²⁴ of their magnitudes, as products do. */
const sums = (terms: number): Tolerance => ({
  relative: 2 ** -19,
  absolute: 1e-5,
  magnitude: terms > 350 ? 2 ** -21 : 0,
});
const slope: Tolerance = { relative: 1e-4, absolute: 1e-4 };

const EPSILON = 1e-6;

interface Rows {
  readonly T: number;
  readonly H: number;
  readonly D: number;
}

const sizes: readonly Rows[] = [
  { T: 1, H: 1, D: 1 },
  { T: 2, H: 1, D: 31 },
  { T: 33, H: 1, D: 33 },
  { T: 5, H: 4, D: 24 },
  { T: 9, H: 2, D: 128 },
  { T: 13, H: 1, D: 259 },
  { T: 100, H: 1, D: 48 },
];

const long: readonly Rows[] = [
  { T: 40, H: 1, D: 576 },
  { T: 3, H: 1, D: 9001 },
];

interface ForwardSettings extends Rows {
  readonly x: ShortDType;
  readonly y: ShortDType;
  readonly w: ShortDType;
  readonly rstd?: boolean;
  readonly gap?: number;
  readonly offset?: number;
}

function forward(settings: ForwardSettings) {
  const { T, H, D, rstd = true, gap = 0, offset = 0 } = settings;
  return opCase("rmsnormForward", { ...settings }, (run: Run) => {
    const x = run.input("x", dtypes[settings.x], [T, H * D], { deviation: 3, gap });
    const weight = offsetBy(run.weight("weight", dtypes[settings.w], [D]), offset);
    const y = run.output("y", dtypes[settings.y], [T, H * D], { gap });
    const saved = rstd ? run.output("rstd", "float32", [T, H]) : null;
    run.run(({ ops }) => ops.rmsnormForward(y, saved, x, weight, EPSILON, H));
    const want = rmsnorm(x.at, weight.at, D, EPSILON);
    run.check(y, want.y, rounded(norm, dtypes[settings.y]), { rows: 16 });
    if (saved) run.check(saved, want.rstd, norm, { rows: 16 });
  });
}

/** As q/k norm runs: in place, on some columns of a fused row, without changing the others. */
function inPlace(settings: Rows & { readonly x: ShortDType }) {
  const { T, H, D } = settings;
  return opCase("rmsnormForward", { "in-place": true, ...settings }, (run: SuiteRun) => {
    const [before, width] = [2 * D, (H + 3) * D];
    const fused = run.input("qkv", dtypes[settings.x], [T, width], { output: true });
    const weight = run.weight("weight", dtypes[settings.x], [D]);
    const rstd = run.output("rstd", "float32", [T, H]);
    const part = columns(fused, before, H * D);
    run.run(({ ops }) => ops.rmsnormForward(part, rstd, part, weight, EPSILON, H));
    const inside = (column: number) => column >= before && column < before + H * D;
    const placeIn = (t: number, column: number) => t * H * D + column - before;
    const normed = rmsnorm(
      (i) => fused.at(Math.floor(i / (H * D)) * width + before + (i % (H * D))),
      weight.at,
      D,
      EPSILON,
    );
    const want: Values = (i) => (inside(i % width) ? normed.y(placeIn(Math.floor(i / width), i % width)) : fused.at(i));
    run.check(fused, want, rounded(norm, dtypes[settings.x]));
    run.check(rstd, normed.rstd, norm);
  });
}

/** A row of zeros has rstd 1/√ε; a NaN stays in its row. */
const special = opCase("rmsnormForward", { values: "zero-nan-inf" }, (run: SuiteRun) => {
  const [T, D] = [4, 33];
  const values = run.random.normal(T * D);
  values.fill(0, 0, D);
  values[D + 32] = Number.NaN;
  const x = run.slot("x", "float32", [T, D], values);
  const weight = run.weight("weight", "float32", [D]);
  const [y, rstd] = [run.output("y", "float32", [T, D]), run.output("rstd", "float32", [T, 1])];
  run.run(({ ops }) => ops.rmsnormForward(y, rstd, x, weight, EPSILON));
  const want = rmsnorm(x.at, weight.at, D, EPSILON);
  run.check(rstd, want.rstd, norm);
  run.check(y, want.y, norm);
});

interface BackwardSettings extends Rows {
  readonly x: ShortDType;
  readonly w: ShortDType;
  /** The addend of dx: none, a separate tensor, or dx itself. */
  readonly residual: "none" | "other" | "dx";
  /** dx is written over dy. */
  readonly over?: boolean;
  /** Types of dy, and of dx: the gradient of the residual stream is float32, that of a head bfloat16. */
  readonly dy?: ShortDType;
  readonly dx?: ShortDType;
  readonly gap?: number;
  /** The weight is not trained, so dweight is absent. */
  readonly frozen?: boolean;
  readonly offset?: number;
}

function backward(settings: BackwardSettings) {
  const { T, H, D, residual, over = false, gap = 0, frozen = false, dy: dyType = "f32", dx: dxType = "f32" } = settings;
  const { offset = 0 } = settings;
  return opCase("rmsnormBackward", { ...settings }, (run: Run) => {
    const shape = [T, H * D];
    const x = run.input("x", dtypes[settings.x], shape, { gap });
    const weight = offsetBy(run.weight("weight", dtypes[settings.w], [D]), offset);
    const dy = run.input("dy", dtypes[dyType], shape, { gap, output: over });
    const rstd = run.saved("rstd", "float32", [T, H], rmsnorm(x.at, weight.at, D, EPSILON).rstd);
    const written = () =>
      residual === "dx"
        ? run.input("dx", dtypes[dxType], shape, { output: true, gap })
        : run.output("dx", dtypes[dxType], shape, { gap });
    const dx = over ? dy : written();
    const other = residual === "other" ? run.input("dresidual", "float32", shape, { gap }) : null;
    const dresidual = residual === "dx" ? dx : other;
    const dweight = frozen ? null : run.input("dweight", "float32", [D], { output: true });
    const times = over || residual === "dx" ? 1 : run.times;
    run.save(({ ops }) => {
      ops.rmsnormForward(run.output("y", dtypes[settings.w], shape), rstd, x, weight, EPSILON, H);
    });
    run.run(({ ops }) => {
      for (let i = 0; i < times; i++) ops.rmsnormBackward(dx, dweight, dy, x, weight, rstd, dresidual, H);
    });
    const want = rmsnormGradient(dy.at, x.at, weight.at, rstd.at, T * H, D);
    const wanted: Values = (i) => want.dx(i) + (dresidual ? dresidual.at(i) : 0);
    run.check(dx, wanted, rounded(gradient, dtypes[dxType]), { rows: 8 });
    if (dweight) run.check(dweight, (d) => grown(dweight.at(d), want.dweight(d), times), sums(T * H), { rows: 4 });
    if (T > 33 || over) return;
    const count = T * H * D;
    const byWeight = (moved: Values) => dot(count, rmsnorm(x.at, moved, D, EPSILON).y, dy.at);
    if (dweight) run.differences(dweight, weight.at, byWeight, slope, times);
    if (dresidual || dxType === "bf16") return;
    run.differences(dx, x.at, (moved) => dot(count, rmsnorm(moved, weight.at, D, EPSILON).y, dy.at), slope);
  });
}

interface RealNorm {
  readonly T: number;
  /** Over the hidden state, which is float32, or over the heads of q. */
  readonly heads: boolean;
}

function realForward(s: Shapes, use: "training" | "decode", { T, heads }: RealNorm, dtype: ComputeDType) {
  const w = shortOf(dtype);
  const size = heads ? { T, H: s.H, D: s.Dh, x: w } : { T, H: 1, D: s.D, x: "f32" as const };
  return timed(use, dtype, named(s, T, heads), forward({ ...size, y: w, w }));
}

const named = (s: Shapes, T: number, heads: boolean): Settings => (heads ? { T, H: s.H, Dh: s.Dh } : { T, D: s.D });

export const rmsnormOps: OpTable<"rmsnormForward" | "rmsnormBackward"> = {
  rmsnormForward: {
    cost: (_, y, rstd, x, weight) =>
      memory(bytesOf(y) + bytesOf(x) + optional(rstd) + weightBytes(weight), 4 * elementCount(x.shape)),
    cases: [
      ...sizes.map((size) => forward({ ...size, x: "f32", y: "f32", w: "f32" })),
      ...sizes.map((size) => forward({ ...size, x: "f32", y: "bf16", w: "bf16" })),
      forward({ T: 13, H: 3, D: 24, x: "bf16", y: "bf16", w: "bf16", gap: 5 }),
      forward({ T: 13, H: 1, D: 33, x: "f32", y: "f32", w: "f32", rstd: false, gap: 3 }),
      forward({ T: 5, H: 1, D: 70, x: "f32", y: "f32", w: "f32", offset: 1 }),
      forward({ T: 5, H: 3, D: 24, x: "bf16", y: "bf16", w: "bf16", offset: 1 }),
      // rows as long as hidden states, and longer than any model's
      ...long.map((size) => forward({ ...size, x: "f32", y: "bf16", w: "bf16" })),
      forward({ T: 7, H: 1, D: 1030, x: "bf16", y: "f32", w: "f32", gap: 3 }),
      inPlace({ T: 9, H: 4, D: 24, x: "f32" }),
      inPlace({ T: 70, H: 5, D: 128, x: "bf16" }),
      inPlace({ T: 9, H: 3, D: 64, x: "bf16" }),
      special,
    ],
    real: (s) => {
      const T = packedTokens(s);
      return [
        ...computeDTypes.flatMap((dtype) =>
          [false, true].map((heads) => realForward(s, "training", { T, heads }, dtype)),
        ),
        ...computeDTypes.flatMap((dtype) =>
          s.batches.map((B) => realForward(s, "decode", { T: B, heads: false }, dtype)),
        ),
      ];
    },
  },
  rmsnormBackward: {
    cost: (_, dx, _dweight, dy, x, weight, rstd, dresidual) =>
      memory(
        bytesOf(dx) + bytesOf(dy) + bytesOf(x) + bytesOf(rstd) + optional(dresidual) + weightBytes(weight),
        10 * elementCount(x.shape),
      ),
    cases: [
      ...sizes.map((size) => backward({ ...size, x: "f32", w: "f32", residual: "none" })),
      ...sizes.map((size) => backward({ ...size, x: "f32", w: "bf16", residual: "other" })),
      ...long.map((size) => backward({ ...size, x: "f32", w: "bf16", residual: "other" })),
      backward({ T: 7, H: 1, D: 1030, x: "bf16", w: "f32", residual: "none", over: true, gap: 3 }),
      backward({ T: 5, H: 1, D: 70, x: "f32", w: "f32", residual: "other", offset: 1 }),
      backward({ T: 5, H: 3, D: 24, x: "bf16", w: "bf16", residual: "none", offset: 1 }),
      bfloat16Gradients(backward({ T: 9, H: 1, D: 70, x: "f32", w: "bf16", dx: "bf16", residual: "none", offset: 1 })),
      backward({ T: 60, H: 5, D: 64, x: "bf16", w: "bf16", residual: "none" }),
      backward({ T: 13, H: 1, D: 33, x: "f32", w: "f32", residual: "dx", gap: 3 }),
      backward({ T: 33, H: 1, D: 100, x: "bf16", w: "bf16", residual: "dx" }),
      backward({ T: 13, H: 3, D: 24, x: "bf16", w: "bf16", residual: "none", over: true, gap: 5 }),
      backward({ T: 13, H: 3, D: 24, x: "bf16", w: "bf16", residual: "none", gap: 5 }),
      backward({ T: 13, H: 1, D: 33, x: "f32", w: "f32", residual: "dx", frozen: true }),
      bfloat16Gradients(backward({ T: 33, H: 1, D: 100, x: "f32", w: "bf16", dy: "bf16", residual: "dx" })),
      bfloat16Gradients(backward({ T: 13, H: 1, D: 259, x: "f32", w: "bf16", dy: "bf16", residual: "other" })),
      bfloat16Gradients(
        backward({
          ...{ T: 13, H: 3, D: 24, x: "bf16", w: "bf16", dy: "bf16", dx: "bf16", residual: "none" },
          over: true,
          gap: 5,
        }),
      ),
    ],
    // A head's gradient is written in place; that of the residual stream is accumulated.
    real: (s) =>
      computeDTypes.flatMap((dtype) =>
        [false, true].map((heads) => {
          const T = packedTokens(s);
          const [w, grad] = [shortOf(dtype), shortOf(gradientType(s, dtype))];
          const size = heads ? { T, H: s.H, D: s.Dh, x: w, dx: grad } : { T, H: 1, D: s.D, x: "f32" as const };
          const residual = heads && grad === "bf16" ? "none" : "other";
          return timed("training", dtype, named(s, T, heads), backward({ ...size, w, dy: grad, residual }));
        }),
      ),
  },
};
