/** Products with a weight: forward, both gradients, the bias's gradient, and rows whose bits do not depend on M. */

import { bfloat16ToNumber, numberToBfloat16 } from "../../../src/tensor/dtype.ts";
import { rows } from "../../../src/tensor/tensor.ts";
import {
  bfloat16Rounding,
  dtypes,
  exactly,
  type OpCase,
  opCase,
  rounded,
  type ShortDType,
  type Tolerance,
} from "../harness.ts";
import { dot, matmul, matmulInputGradient, matmulWeightGradient } from "../reference.ts";

/**
 * Of the sum of magnitudes Σ|ab|: a chain of K roundings (of 2K without fused multiply-add) errs by about 2⁻²⁴ √K partial
 * sums, which for terms of random sign stays within a few 2⁻²⁴ of Σ|ab|, whatever K is.
 */
const ROUNDINGS = 2 ** -21;
/**
 * Tensor cores cut their sums off toward zero, 8 products a step (test/emulator/runtime/truncate.h), and errors of one sign
 * add up: after k terms of deviation 1 the sum is about √k, a step loses at most its last place, 2⁻²³ √k, so the K/8 steps
 * lose (2/3)(K/8)√K·2⁻²³ together. Of Σ|ab|, about (2/π) K, that is 0.13 √K·2⁻²³: 2⁻²¹ at K = 1024, and as √K from there.
 * This is what that is more than roundings are allowed.
 */
const truncation = (terms: number) => ROUNDINGS * Math.max(0, Math.sqrt(terms / 1024) - 1);
/** A product's sum over `terms` where float32 operands, if rounded to bfloat16, hold its values already. */
const exactChain = (terms: number): Tolerance => ({
  magnitude: ROUNDINGS,
  truncating: { magnitude: truncation(terms) },
});
const chain = (terms: number): Tolerance => ({ ...exactChain(terms), operands: { magnitude: bfloat16Rounding } });
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

const toBfloat16 = (x: number) => bfloat16ToNumber(numberToBfloat16(Math.fround(x)));

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
      rounded(settings.x === settings.w ? exactChain(K) : chain(K), y),
      magnitude.map((m, i) => m + Math.abs(start(i))),
    );
  });
}

interface InputSettings extends Product {
  readonly dy: ShortDType;
  readonly w: ShortDType;
  readonly dx: ShortDType;
  /** dy holds bfloat16 values. */
  readonly coarse?: boolean;
  readonly accumulate?: boolean;
  readonly gap?: number;
}

function backwardInput(settings: InputSettings): OpCase {
  const { M, N, K, accumulate = false, coarse = false, gap = 0 } = settings;
  const out = dtypes[settings.dx];
  const exact = coarse || settings.dy === settings.w;
  return opCase("matmulBackwardInput", { ...settings }, (run) => {
    const drawn = run.random.normal(M * N);
    const dy = run.slot("dy", dtypes[settings.dy], [M, N], coarse ? drawn.map(toBfloat16) : drawn, { gap });
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
      rounded(exact ? exactChain(N) : chain(N), out),
      magnitude.map((m, i) => m + Math.abs(start(i))),
    );
    if (M * N * K > 1e5 || out !== "float32" || !exact) return;
    const x = run.random.normal(M * K);
    run.differences(dx, x, (moved) => dot(matmul(moved, w.values, M, N, K).value, dy.values), slope);
  });
}

interface WeightSettings extends Product {
  readonly dy: ShortDType;
  readonly x: ShortDType;
  /** dy holds bfloat16 values. */
  readonly coarse?: boolean;
  readonly gap?: number;
}

function backwardWeight(settings: WeightSettings): OpCase {
  const { M, N, K, coarse = false, gap = 0 } = settings;
  const exact = coarse || settings.dy === settings.x;
  return opCase("matmulBackwardWeight", { ...settings }, (run) => {
    const drawn = run.random.normal(M * N);
    const dy = run.slot("dy", dtypes[settings.dy], [M, N], coarse ? drawn.map(toBfloat16) : drawn, { gap });
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
      exact ? exactChain(M) : chain(M),
      magnitude.map((m, i) => 2 * m + Math.abs(dw.values[i]!)),
    );
    if (M * N * K > 1e5 || !exact) return;
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
    run.check(dbias, want, { magnitude: ROUNDINGS }, size);
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
    // elsewhere the product may choose its order by M: both ways err within the chain's tolerance, of K terms of about 1
    const elsewhere: Tolerance = {
      absolute: 2 * K * ROUNDINGS,
      relative: settings.y === "bf16" ? 2 ** -7 : 0,
      truncating: { absolute: 2 * K * truncation(K) },
    };
    run.run(({ ops }) => {
      ops.matmulForward(whole, x, w, b, accumulate);
      for (let r = 0; r < M; r += 7) {
        const count = Math.min(7, M - r);
        ops.matmulForward(rows(sevens, r, count), rows(x, r, count), w, b, accumulate);
      }
      for (const r of alone) ops.matmulForward(rows(ones, r, 1), rows(x, r, 1), w, b, accumulate);
    });
    run.agree(sevens, 0, whole, 0, M, elsewhere);
    for (const r of alone) run.agree(ones, r, whole, r, 1, elsewhere);
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
function special(dtype: ShortDType): OpCase {
  const [M, N, K] = [7, 33, 31];
  return opCase("matmulForward", { values: "nan-inf", M, N, K, x: dtype, w: dtype }, (run) => {
    const values = run.random.normal(M * K);
    values[2 * K + 30] = Number.NaN;
    values[4 * K + 5] = Number.POSITIVE_INFINITY;
    const x = run.slot("x", dtypes[dtype], [M, K], values);
    const w = run.weight("w", dtypes[dtype], [N, K], run.random.normal(N * K));
    const y = run.slot("y", "float32", [M, N], null, { output: true });
    run.run(({ ops }) => ops.matmulForward(y, x, w, null));
    const { value, magnitude } = matmul(x.values, w.values, M, N, K);
    run.check(y, value, exactChain(K), magnitude);
  });
}

/** Where float32 operands are rounded to bfloat16, they are rounded to nearest, ties to even; elsewhere not at all. */
const operandRounding: OpCase = opCase("matmulForward", { values: "between-bfloat16" }, (run) => {
  const ulp = 2 ** -7;
  const values = [1 + ulp / 2, 1 + 1.5 * ulp, 1 + 0.49 * ulp, -1 - 0.51 * ulp, 3.3e38, 3.4e38, -3.4e38, 0, 1e-30];
  const [M, forwards] = [values.length, values.map(Math.fround)];
  const x = run.slot("x", "float32", [M, 1], forwards);
  const one = run.weight("one", "bfloat16", [1, 1], [1]);
  const y = run.slot("y", "float32", [M, 1], null, { output: true });
  const dx = run.slot("dx", "float32", [M, 1], null, { output: true });
  const hidden = run.slot("x of one", "bfloat16", [M, 1], [0, 0, 0, 1, 0, 0, 0, 0, 0]);
  const dw = run.parameter("dw", one, [0], true);
  run.run(({ ops }) => {
    ops.matmulForward(y, x, one, null);
    ops.matmulBackwardInput(dx, x, one);
    ops.matmulBackwardWeight(dw, rows(x, 0, 4), rows(hidden, 0, 4), one);
  });
  for (const path of run.paths) {
    const want = path.roundsOperands ? forwards.map(toBfloat16) : forwards;
    const results = [run.values(y), run.values(dx)].map((all) => all.get(path.name));
    for (const got of results)
      if (got && want.some((value, i) => value !== got[i])) throw new Error(`${path.name}: ${got}, wanted ${want}`);
    const grown = run.values(dw).get(path.name)?.[0];
    if (grown !== undefined && grown !== want[3]) throw new Error(`${path.name}: dw is ${grown}, wanted ${want[3]}`);
  }
});

/** The scalar head of reward models and critics: one output, all of its directions in the types they run in. */
const scalarSizes: readonly Product[] = [
  { M: 1, N: 1, K: 100 },
  { M: 7, N: 1, K: 33 },
  { M: 33, N: 1, K: 64 },
  { M: 500, N: 1, K: 257 },
];
const scalarHead: readonly OpCase[] = [
  ...scalarSizes.flatMap((size) => [
    forward({ ...size, x: "f32", w: "f32", y: "f32" }),
    forward({ ...size, x: "bf16", w: "bf16", y: "f32" }),
  ]),
  forward({ M: 33, N: 1, K: 64, x: "f32", w: "bf16", y: "f32" }),
  rowsAlone({ M: 120, N: 1, K: 1100, x: "f32", w: "f32", y: "f32" }),
  rowsAlone({ M: 500, N: 1, K: 70, x: "bf16", w: "bf16", y: "f32" }),
  rowsAlone({ M: 120, N: 1, K: 1100, x: "f32", w: "bf16", y: "f32" }),
  ...scalarSizes.flatMap((size) => [
    backwardInput({ ...size, dy: "f32", w: "f32", dx: "f32" }),
    backwardInput({ ...size, dy: "f32", w: "bf16", dx: "f32", coarse: true }),
    backwardInput({ ...size, dy: "f32", w: "bf16", dx: "bf16" }),
    backwardWeight({ ...size, dy: "f32", x: "f32" }),
    backwardWeight({ ...size, dy: "f32", x: "bf16", coarse: true }),
    backwardWeight({ ...size, dy: "f32", x: "bf16" }),
  ]),
];

export const matmulCases: readonly OpCase[] = [
  ...scalarHead,
  ...kinds.flatMap((kind) => sizes.map((size) => forward({ ...size, ...kind }))),
  forward({ M: 1, N: 33, K: 31, x: "bf16", w: "bf16", y: "bf16", bias: true }),
  forward({ M: 33, N: 31, K: 17, x: "bf16", w: "bf16", y: "bf16", bias: true, gap: 5 }),
  forward({ M: 7, N: 259, K: 33, x: "f32", w: "f32", y: "f32", bias: true, accumulate: true, gap: 3 }),
  forward({ M: 1, N: 100, K: 33, x: "f32", w: "f32", y: "f32", bias: true, accumulate: true }),
  forward({ M: 37, N: 20, K: 2050, x: "bf16", w: "bf16", y: "f32", accumulate: true, gap: 1 }),
  forward({ M: 3, N: 9, K: 16_400, x: "bf16", w: "bf16", y: "f32" }),
  forward({ M: 9, N: 40, K: 33, x: "bf16", w: "bf16", y: "bf16", accumulate: true }),
  forward({ M: 9, N: 40, K: 33, x: "f32", w: "bf16", y: "f32" }),
  forward({ M: 100, N: 40, K: 1025, x: "f32", w: "bf16", y: "f32", bias: true }),
  forward({ M: 3, N: 17000, K: 17, x: "bf16", w: "bf16", y: "bf16" }),
  empty,
  special("f32"),
  special("bf16"),
  operandRounding,
  rowsAlone({ M: 500, N: 33, K: 70, x: "f32", w: "f32", y: "f32" }),
  rowsAlone({ M: 500, N: 33, K: 70, x: "f32", w: "f32", y: "f32", bias: true, accumulate: true }),
  rowsAlone({ M: 500, N: 70, K: 48, x: "bf16", w: "bf16", y: "bf16", bias: true }),
  rowsAlone({ M: 120, N: 70, K: 1100, x: "bf16", w: "bf16", y: "f32", bias: true, accumulate: true }),
  rowsAlone({ M: 120, N: 70, K: 1100, x: "f32", w: "f32", y: "f32" }),
  rowsAlone({ M: 120, N: 70, K: 1100, x: "f32", w: "bf16", y: "f32" }),
  rowsAlone({ M: 500, N: 33, K: 64, x: "bf16", w: "bf16", y: "f32" }),

  ...sizes.map((size) => backwardInput({ ...size, dy: "f32", w: "f32", dx: "f32" })),
  ...sizes.map((size) => backwardInput({ ...size, dy: "f32", w: "bf16", dx: "f32", coarse: true })),
  backwardInput({ M: 13, N: 48, K: 100, dy: "f32", w: "bf16", dx: "f32" }),
  backwardInput({ M: 481, N: 70, K: 33, dy: "f32", w: "bf16", dx: "f32", accumulate: true, gap: 2 }),
  backwardInput({ M: 33, N: 1030, K: 40, dy: "f32", w: "bf16", dx: "f32" }),
  backwardInput({ M: 33, N: 1030, K: 40, dy: "f32", w: "f32", dx: "f32", accumulate: true, gap: 5 }),
  backwardInput({ M: 6, N: 33, K: 31, dy: "f32", w: "f32", dx: "f32", accumulate: true }),
  backwardInput({ M: 13, N: 33, K: 31, dy: "bf16", w: "bf16", dx: "bf16", gap: 3 }),
  backwardInput({ M: 33, N: 40, K: 70, dy: "f32", w: "bf16", dx: "bf16" }),
  backwardInput({ M: 33, N: 40, K: 70, dy: "bf16", w: "bf16", dx: "bf16", accumulate: true }),

  ...sizes.map((size) => backwardWeight({ ...size, dy: "f32", x: "f32" })),
  ...sizes.map((size) => backwardWeight({ ...size, dy: "f32", x: "bf16", coarse: true })),
  backwardWeight({ M: 100, N: 40, K: 1025, dy: "f32", x: "bf16" }),
  backwardWeight({ M: 1100, N: 20, K: 40, dy: "f32", x: "bf16", coarse: true }),
  backwardWeight({ M: 257, N: 20, K: 301, dy: "f32", x: "bf16", gap: 7 }),
  backwardWeight({ M: 13, N: 33, K: 31, dy: "bf16", x: "bf16" }),
  backwardWeight({ M: 16_400, N: 8, K: 24, dy: "bf16", x: "bf16" }),

  biasGradient({ M: 1, N: 1, dy: "f32" }),
  biasGradient({ M: 33, N: 31, dy: "f32", gap: 5 }),
  biasGradient({ M: 100, N: 259, dy: "f32" }),
  biasGradient({ M: 13, N: 33, dy: "bf16" }),
];
