/** Products with a weight: forward, both gradients, the bias's gradient, and rows whose bits do not depend on M. */
import { rows } from "../../../src/tensor/tensor.ts";
import { dtypes, exactly, type OpCase, opCase, rounded, type ShortDType, type Tolerance } from "../harness.ts";
import { dot, matmul, matmulInputGradient, matmulWeightGradient } from "../reference.ts";

/**
 * A chain of K roundings (of 2K without fused multiply-add) errs by about 2⁻²⁴ √K partial sums, which for terms of
 * random sign stays within a few 2⁻²⁴ of the sum of magnitudes, whatever K is.
 */
const chain: Tolerance = { magnitude: 2 ** -21 };
/** The step of a central difference of a linear function leaves only the chain's own rounding. */
const slope: Tolerance = { absolute: 2e-5, relative: 2e-5 };

interface Product {
  readonly M: number;
  readonly N: number;
  readonly K: number;
}

const sizes: readonly Product[] = [
  { M: 1, N: 1, K: 1 },
  { M: 1, N: 16, K: 16 },
  { M: 1, N: 259, K: 33 },
  { M: 1, N: 130, K: 1025 },
  { M: 2, N: 31, K: 17 },
  { M: 5, N: 64, K: 24 },
  { M: 6, N: 33, K: 31 },
  { M: 7, N: 259, K: 64 },
  { M: 13, N: 48, K: 100 },
  { M: 33, N: 31, K: 17 },
  { M: 100, N: 40, K: 1025 },
  { M: 481, N: 70, K: 33 },
];

const kinds = [
  { x: "f32", w: "f32", y: "f32" },
  { x: "bf16", w: "bf16", y: "bf16" },
  { x: "bf16", w: "bf16", y: "f32" },
] as const;

interface ForwardSettings extends Product {
  readonly x: ShortDType;
  readonly w: ShortDType;
  readonly y: ShortDType;
  readonly bias?: boolean;
  readonly accumulate?: boolean;
  readonly gap?: number;
}

function forward(settings: ForwardSettings): OpCase {
  const { M, N, K, bias = false, accumulate = false, gap = 0 } = settings;
  const y = dtypes[settings.y];
  return opCase("matmulForward", { ...settings }, (run) => {
    const x = run.slot("x", dtypes[settings.x], [M, K], run.random.normal(M * K), { gap });
    const w = run.weight("w", dtypes[settings.w], [N, K], run.random.normal(N * K));
    const b = bias ? run.weight("bias", dtypes[settings.w], [N], run.random.normal(N)) : null;
    const out = run.slot("y", y, [M, N], accumulate ? run.random.normal(M * N) : null, { output: true, gap });
    run.run(({ ops }) => ops.matmulForward(out, x, w, b, accumulate));
    const { value, magnitude } = matmul(x.values, w.values, M, N, K);
    const start = (i: number) => (accumulate ? out.values[i]! : 0) + (b ? b.values[i % N]! : 0);
    run.check(
      out,
      value.map((v, i) => v + start(i)),
      rounded(chain, y),
      magnitude.map((m, i) => m + Math.abs(start(i))),
    );
  });
}

interface InputSettings extends Product {
  readonly dy: ShortDType;
  readonly w: ShortDType;
  readonly dx: ShortDType;
  readonly accumulate?: boolean;
  readonly gap?: number;
}

function backwardInput(settings: InputSettings): OpCase {
  const { M, N, K, accumulate = false, gap = 0 } = settings;
  const out = dtypes[settings.dx];
  return opCase("matmulBackwardInput", { ...settings }, (run) => {
    const dy = run.slot("dy", dtypes[settings.dy], [M, N], run.random.normal(M * N), { gap });
    const w = run.weight("w", dtypes[settings.w], [N, K], run.random.normal(N * K));
    const dx = run.slot("dx", out, [M, K], accumulate ? run.random.normal(M * K) : null, { output: true, gap });
    run.run(({ ops }) => {
      ops.matmulBackwardInput(dx, dy, w, accumulate);
      if (!accumulate) ops.matmulBackwardInput(dx, dy, w);
    });
    const { value, magnitude } = matmulInputGradient(dy.values, w.values, M, N, K);
    const start = (i: number) => (accumulate ? dx.values[i]! : 0);
    run.check(
      dx,
      value.map((v, i) => v + start(i)),
      rounded(chain, out),
      magnitude.map((m, i) => m + Math.abs(start(i))),
    );
    if (M * N * K > 1e5 || out !== "float32") return;
    const x = run.random.normal(M * K);
    run.differences(dx, x, (moved) => dot(matmul(moved, w.values, M, N, K).value, dy.values), slope);
  });
}

interface WeightSettings extends Product {
  readonly dy: ShortDType;
  readonly x: ShortDType;
  readonly gap?: number;
}

function backwardWeight(settings: WeightSettings): OpCase {
  const { M, N, K, gap = 0 } = settings;
  return opCase("matmulBackwardWeight", { ...settings }, (run) => {
    const dy = run.slot("dy", dtypes[settings.dy], [M, N], run.random.normal(M * N), { gap });
    const x = run.slot("x", dtypes[settings.x], [M, K], run.random.normal(M * K), { gap });
    const w = run.weight("w", dtypes[settings.x], [N, K], run.random.normal(N * K));
    const dw = run.parameter("dw", w, run.random.normal(N * K), true);
    run.run(({ ops }) => {
      ops.matmulBackwardWeight(dw, dy, x, w);
      ops.matmulBackwardWeight(dw, dy, x, w);
    });
    const { value, magnitude } = matmulWeightGradient(dy.values, x.values, M, N, K);
    run.check(
      dw,
      value.map((v, i) => dw.values[i]! + 2 * v),
      chain,
      magnitude.map((m, i) => 2 * m + Math.abs(dw.values[i]!)),
    );
    if (M * N * K > 1e5) return;
    run.differences(dw, w.values, (moved) => dot(matmul(x.values, moved, M, N, K).value, dy.values), slope, 2);
  });
}

function biasGradient(settings: { M: number; N: number; dy: ShortDType; gap?: number }): OpCase {
  const { M, N, gap = 0 } = settings;
  return opCase("biasBackward", { ...settings }, (run) => {
    const dy = run.slot("dy", dtypes[settings.dy], [M, N], run.random.normal(M * N), { gap });
    const dbias = run.slot("dbias", "float32", [N], run.random.normal(N), { output: true });
    run.run(({ ops }) => {
      ops.biasBackward(dbias, dy);
      ops.biasBackward(dbias, dy);
    });
    const [want, size] = [Float64Array.from(dbias.values), dbias.values.map(Math.abs)];
    for (const [i, value] of dy.values.entries()) {
      want[i % N]! += 2 * value;
      size[i % N]! += 2 * Math.abs(value);
    }
    run.check(dbias, want, chain, size);
  });
}

/** A row's bits alone, among 7 and among `M` others are the same (promise 2). */
function rowsAlone(settings: ForwardSettings): OpCase {
  const { M, N, K, bias = false, accumulate = false } = settings;
  return opCase("matmulForward", { rows: "alone", ...settings }, (run) => {
    const x = run.slot("x", dtypes[settings.x], [M, K], run.random.normal(M * K));
    const w = run.weight("w", dtypes[settings.w], [N, K], run.random.normal(N * K));
    const b = bias ? run.weight("bias", dtypes[settings.w], [N], run.random.normal(N)) : null;
    const start = accumulate ? run.random.normal(M * N) : null;
    const output = (name: string) => run.slot(name, dtypes[settings.y], [M, N], start, { output: true });
    const [whole, sevens, ones] = [output("whole"), output("sevens"), output("ones")];
    const alone = [0, 1, 6, 13, 95, M - 1];
    run.run(({ ops }) => {
      ops.matmulForward(whole, x, w, b, accumulate);
      for (let r = 0; r < M; r += 7) {
        const count = Math.min(7, M - r);
        ops.matmulForward(rows(sevens, r, count), rows(x, r, count), w, b, accumulate);
      }
      for (const r of alone) ops.matmulForward(rows(ones, r, 1), rows(x, r, 1), w, b, accumulate);
    });
    run.same(sevens, 0, whole, 0, M);
    for (const r of alone) run.same(ones, r, whole, r, 1);
  });
}

/** Zero rows are no work: nothing is written, nothing fails. */
const empty: OpCase = opCase("matmulForward", { M: 0, N: 33, K: 31 }, (run) => {
  const x = run.slot("x", "float32", [0, 31], []);
  const w = run.weight("w", "float32", [33, 31], run.random.normal(33 * 31));
  const y = run.slot("y", "float32", [4, 33], run.random.normal(4 * 33));
  const dw = run.parameter("dw", w, run.random.normal(33 * 31), true);
  run.run(({ ops }) => {
    ops.matmulForward(rows(y, 0, 0), x, w, null);
    ops.matmulBackwardInput(x, rows(y, 0, 0), w);
    ops.matmulBackwardWeight(dw, rows(y, 0, 0), x, w);
  });
  run.check(dw, dw.values, exactly);
});

/** NaN and infinities reach the outputs that they belong to, and no others. */
const special: OpCase = opCase("matmulForward", { values: "nan-inf", M: 7, N: 33, K: 31 }, (run) => {
  const [M, N, K] = [7, 33, 31];
  const values = run.random.normal(M * K);
  values[2 * K + 30] = Number.NaN;
  values[4 * K + 5] = Number.POSITIVE_INFINITY;
  const x = run.slot("x", "float32", [M, K], values);
  const w = run.weight("w", "float32", [N, K], run.random.normal(N * K));
  const y = run.slot("y", "float32", [M, N], null, { output: true });
  run.run(({ ops }) => ops.matmulForward(y, x, w, null));
  const { value, magnitude } = matmul(x.values, w.values, M, N, K);
  run.check(y, value, chain, magnitude);
});

export const matmulCases: readonly OpCase[] = [
  ...kinds.flatMap((kind) => sizes.map((size) => forward({ ...size, ...kind }))),
  forward({ M: 1, N: 33, K: 31, x: "bf16", w: "bf16", y: "bf16", bias: true }),
  forward({ M: 33, N: 31, K: 17, x: "bf16", w: "bf16", y: "bf16", bias: true, gap: 5 }),
  forward({ M: 7, N: 259, K: 33, x: "f32", w: "f32", y: "f32", bias: true, accumulate: true, gap: 3 }),
  forward({ M: 1, N: 100, K: 33, x: "f32", w: "f32", y: "f32", bias: true, accumulate: true }),
  forward({ M: 37, N: 20, K: 2050, x: "bf16", w: "bf16", y: "f32", accumulate: true, gap: 1 }),
  forward({ M: 9, N: 40, K: 33, x: "bf16", w: "bf16", y: "bf16", accumulate: true }),
  forward({ M: 9, N: 40, K: 33, x: "f32", w: "bf16", y: "f32" }),
  empty,
  special,
  rowsAlone({ M: 500, N: 33, K: 70, x: "f32", w: "f32", y: "f32" }),
  rowsAlone({ M: 500, N: 33, K: 70, x: "f32", w: "f32", y: "f32", bias: true, accumulate: true }),
  rowsAlone({ M: 500, N: 70, K: 48, x: "bf16", w: "bf16", y: "bf16", bias: true }),
  rowsAlone({ M: 120, N: 70, K: 1100, x: "bf16", w: "bf16", y: "f32", bias: true, accumulate: true }),
  rowsAlone({ M: 120, N: 70, K: 1100, x: "f32", w: "f32", y: "f32" }),

  ...sizes.map((size) => backwardInput({ ...size, dy: "f32", w: "f32", dx: "f32" })),
  ...sizes.map((size) => backwardInput({ ...size, dy: "f32", w: "bf16", dx: "f32" })),
  backwardInput({ M: 33, N: 1030, K: 40, dy: "f32", w: "bf16", dx: "f32" }),
  backwardInput({ M: 33, N: 1030, K: 40, dy: "f32", w: "f32", dx: "f32", accumulate: true, gap: 5 }),
  backwardInput({ M: 6, N: 33, K: 31, dy: "f32", w: "f32", dx: "f32", accumulate: true }),
  backwardInput({ M: 13, N: 33, K: 31, dy: "bf16", w: "bf16", dx: "bf16", gap: 3 }),

  ...sizes.map((size) => backwardWeight({ ...size, dy: "f32", x: "f32" })),
  ...sizes.map((size) => backwardWeight({ ...size, dy: "f32", x: "bf16" })),
  backwardWeight({ M: 257, N: 20, K: 301, dy: "f32", x: "bf16", gap: 7 }),
  backwardWeight({ M: 13, N: 33, K: 31, dy: "bf16", x: "bf16" }),

  biasGradient({ M: 1, N: 1, dy: "f32" }),
  biasGradient({ M: 33, N: 31, dy: "f32", gap: 5 }),
  biasGradient({ M: 100, N: 259, dy: "f32" }),
  biasGradient({ M: 13, N: 33, dy: "bf16" }),
];
