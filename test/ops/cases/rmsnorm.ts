/** RMS norm over the hidden state and over heads, forward and backward, in place and through views of a fused row. */
import { columns } from "../../../src/tensor/tensor.ts";
import {
  bfloat16Gradients,
  dtypes,
  type OpCase,
  opCase,
  rounded,
  type ShortDType,
  type Tolerance,
} from "../harness.ts";
import { dot, rmsnorm, rmsnormGradient } from "../reference.ts";

/** A sum of squares has terms of one sign, so it errs by a few 2⁻²⁴ of itself; the products add three roundings. */
const norm: Tolerance = { relative: 2 ** -20 };
/** dx is a difference of two such terms, and cancels to small values. */
const gradient: Tolerance = { relative: 2 ** -19, absolute: 2e-6 };
/** dweight sums T·H terms of any sign. */
const sums: Tolerance = { relative: 2 ** -19, absolute: 1e-5 };
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
}

function forward(settings: ForwardSettings): OpCase {
  const { T, H, D, rstd = true, gap = 0 } = settings;
  return opCase("rmsnormForward", { ...settings }, (run) => {
    const x = run.slot("x", dtypes[settings.x], [T, H * D], run.random.normal(T * H * D, 3), { gap });
    const weight = run.weight("weight", dtypes[settings.w], [D], run.random.normal(D));
    const y = run.slot("y", dtypes[settings.y], [T, H * D], null, { output: true, gap });
    const saved = rstd ? run.slot("rstd", "float32", [T, H], null, { output: true }) : null;
    run.run(({ ops }) => ops.rmsnormForward(y, saved, x, weight, EPSILON, H));
    const want = rmsnorm(x.values, weight.values, EPSILON);
    run.check(y, want.y, rounded(norm, dtypes[settings.y]));
    if (saved) run.check(saved, want.rstd, norm);
  });
}

/** As q/k norm runs: in place, on some columns of a fused row, the others untouched. */
function inPlace(settings: Rows & { readonly x: ShortDType }): OpCase {
  const { T, H, D } = settings;
  return opCase("rmsnormForward", { "in-place": true, ...settings }, (run) => {
    const before = 2 * D;
    const fused = run.slot("qkv", dtypes[settings.x], [T, (H + 3) * D], run.random.normal(T * (H + 3) * D), {
      output: true,
    });
    const weight = run.weight("weight", dtypes[settings.x], [D], run.random.normal(D));
    const rstd = run.slot("rstd", "float32", [T, H], null, { output: true });
    const part = columns(fused, before, H * D);
    run.run(({ ops }) => ops.rmsnormForward(part, rstd, part, weight, EPSILON, H));
    const width = (H + 3) * D;
    const inside = (i: number) => i % width >= before && i % width < before + H * D;
    const normed = rmsnorm(
      fused.values.filter((_, i) => inside(i)),
      weight.values,
      EPSILON,
    );
    let next = 0;
    const want = fused.values.map((value, i) => (inside(i) ? normed.y[next++]! : value));
    run.check(fused, want, rounded(norm, dtypes[settings.x]));
    run.check(rstd, normed.rstd, norm);
  });
}

/** A row of zeros has rstd 1/√ε; a NaN stays in its row. */
const special: OpCase = opCase("rmsnormForward", { values: "zero-nan-inf" }, (run) => {
  const [T, D] = [4, 33];
  const values = run.random.normal(T * D);
  values.fill(0, 0, D);
  values[D + 32] = Number.NaN;
  const x = run.slot("x", "float32", [T, D], values);
  const weight = run.weight("weight", "float32", [D], run.random.normal(D));
  const y = run.slot("y", "float32", [T, D], null, { output: true });
  const rstd = run.slot("rstd", "float32", [T, 1], null, { output: true });
  run.run(({ ops }) => ops.rmsnormForward(y, rstd, x, weight, EPSILON));
  const want = rmsnorm(x.values, weight.values, EPSILON);
  run.check(rstd, want.rstd, norm);
  run.check(y, want.y, norm);
});

interface BackwardSettings extends Rows {
  readonly x: ShortDType;
  readonly w: ShortDType;
  /** What is added to dx: nothing, a tensor of its own, or dx itself. */
  readonly residual: "none" | "other" | "dx";
  /** dx is written over dy. */
  readonly over?: boolean;
  /** Types of dy, and of dx: the gradient of the residual stream is float32, that of a head bfloat16. */
  readonly dy?: ShortDType;
  readonly dx?: ShortDType;
  readonly gap?: number;
  /** The weight is not trained: no dweight. */
  readonly frozen?: boolean;
}

function backward(settings: BackwardSettings): OpCase {
  const { T, H, D, residual, over = false, gap = 0, frozen = false, dy: dyType = "f32", dx: dxType = "f32" } = settings;
  return opCase("rmsnormBackward", { ...settings }, (run) => {
    const count = T * H * D;
    const x = run.slot("x", dtypes[settings.x], [T, H * D], run.random.normal(count), { gap });
    const weight = run.weight("weight", dtypes[settings.w], [D], run.random.normal(D));
    const dy = run.slot("dy", dtypes[dyType], [T, H * D], run.random.normal(count), { gap, output: over });
    const forwardPass = rmsnorm(x.values, weight.values, EPSILON);
    const rstd = run.slot("rstd", "float32", [T, H], forwardPass.rstd);
    const start = residual === "dx" ? run.random.normal(count) : null;
    const dx = over ? dy : run.slot("dx", dtypes[dxType], [T, H * D], start, { output: true, gap });
    const other =
      residual === "other" ? run.slot("dresidual", "float32", [T, H * D], run.random.normal(count), { gap }) : null;
    const dresidual = residual === "dx" ? dx : other;
    const dweight = frozen ? null : run.slot("dweight", "float32", [D], run.random.normal(D), { output: true });
    const times = over || residual === "dx" ? 1 : 2;
    run.run(({ ops }) => {
      for (let i = 0; i < times; i++) ops.rmsnormBackward(dx, dweight, dy, x, weight, rstd, dresidual, H);
    });
    const want = rmsnormGradient(dy.values, x.values, weight.values, EPSILON);
    run.check(
      dx,
      want.dx.map((value, i) => value + (dresidual ? dresidual.values[i]! : 0)),
      rounded(gradient, dtypes[dxType]),
    );
    if (dweight)
      run.check(
        dweight,
        want.dweight.map((value, d) => dweight.values[d]! + times * value),
        sums,
      );
    if (T > 33 || over) return;
    const byWeight = (moved: Float64Array) => dot(rmsnorm(x.values, moved, EPSILON).y, dy.values);
    if (dweight) run.differences(dweight, weight.values, byWeight, slope, times);
    if (dresidual || dxType === "bf16") return;
    run.differences(dx, x.values, (moved) => dot(rmsnorm(moved, weight.values, EPSILON).y, dy.values), slope);
  });
}

export const rmsnormCases: readonly OpCase[] = [
  ...sizes.map((size) => forward({ ...size, x: "f32", y: "f32", w: "f32" })),
  ...sizes.map((size) => forward({ ...size, x: "f32", y: "bf16", w: "bf16" })),
  forward({ T: 13, H: 3, D: 24, x: "bf16", y: "bf16", w: "bf16", gap: 5 }),
  forward({ T: 13, H: 1, D: 33, x: "f32", y: "f32", w: "f32", rstd: false, gap: 3 }),
  // rows as long as hidden states, and longer than any
  ...long.map((size) => forward({ ...size, x: "f32", y: "bf16", w: "bf16" })),
  forward({ T: 7, H: 1, D: 1030, x: "bf16", y: "f32", w: "f32", gap: 3 }),
  inPlace({ T: 9, H: 4, D: 24, x: "f32" }),
  inPlace({ T: 70, H: 5, D: 128, x: "bf16" }),
  inPlace({ T: 9, H: 3, D: 64, x: "bf16" }),
  special,
  ...sizes.map((size) => backward({ ...size, x: "f32", w: "f32", residual: "none" })),
  ...sizes.map((size) => backward({ ...size, x: "f32", w: "bf16", residual: "other" })),
  ...long.map((size) => backward({ ...size, x: "f32", w: "bf16", residual: "other" })),
  backward({ T: 7, H: 1, D: 1030, x: "bf16", w: "f32", residual: "none", over: true, gap: 3 }),
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
      T: 13,
      H: 3,
      D: 24,
      x: "bf16",
      w: "bf16",
      dy: "bf16",
      dx: "bf16",
      residual: "none",
      over: true,
      gap: 5,
    }),
  ),
];
