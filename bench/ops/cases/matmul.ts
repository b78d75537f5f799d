/** Products with a weight: forward, both gradients, the bias's gradient, and rows whose bits do not depend on M. */
import { bfloat16ToNumber, type ComputeDType, numberToBfloat16 } from "../../../src/tensor/dtype.ts";
import { columns, elementCount, rows } from "../../../src/tensor/tensor.ts";
import {
  computeDTypes,
  dtypes,
  type OpCase,
  type OpTable,
  opCase,
  type Run,
  type ShortDType,
  type SuiteRun,
  shortOf,
  timed,
  type Use,
} from "../case.ts";
import { bytesOf, memory, product, rowsOf, weightBytes } from "../cost.ts";
import { fourBits } from "../four-bits.ts";
import { dot, grown, matmul, matmulInputGradient, matmulWeightGradient, sumOfProducts } from "../reference.ts";
import { gradientType, gradientTypes, packedTokens, type Shapes } from "../shapes.ts";
import { exactly, rounded, roundedOperands, type Tolerance } from "../tolerance.ts";

/**
 * As a share of the sum of magnitudes Σ|ab|: a chain of K roundings (2K without fused multiply-add) errs by about 2⁻²⁴ √K
 * partial sums, which for terms of random sign stays within a few 2⁻²⁴ of Σ|ab| for any K.
 */
const ROUNDINGS = 2 ** -21;
/**
 * Tensor cores truncate their sums toward zero, 8 products per step (test/emulator/runtime/truncate.h), and errors of one sign
 * add up: after k terms of deviation 1 the sum is about √k, a step loses at most its last place, 2⁻²³ √k, so the K/8 steps lose
 * (2/3)(K/8)√K·2⁻²³ in total. Relative to Σ|ab|, about (2/π) K, that is 0.13 √K·2⁻²³: 2⁻²¹ at K = 1024, growing as √K from
 * there. This constant is the excess over the rounding tolerance.
 */
const truncation = (terms: number) => ROUNDINGS * Math.max(0, Math.sqrt(terms / 1024) - 1);
/** A product's sum over `terms` if rounding its float32 operands to bfloat16 changes nothing. */
const exactChain = (terms: number): Tolerance => ({
  magnitude: ROUNDINGS,
  truncating: { magnitude: truncation(terms) },
});
const chain = (terms: number): Tolerance => ({ ...exactChain(terms), operands: roundedOperands });
/** For a linear function, a central difference errs only by the chain's own rounding. */
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
  readonly factor?: number;
  readonly gap?: number;
  /** The weight is in NF4, and w says what belongs to it. */
  readonly nf4?: boolean;
}

/** A product times a factor. */
const times =
  (product: ReturnType<typeof matmul>, factor: number) =>
  (i: number): ReturnType<typeof product> => {
    const { value, magnitude, squares } = product(i);
    return { value: factor * value, magnitude: Math.abs(factor) * magnitude, squares: factor * factor * squares };
  };

/** `cold`: the weight comes from memory, as in decoding. */
function forward(settings: ForwardSettings, cold = false) {
  const { M, N, K, bias = false, accumulate = false, factor = 1, gap = 0, nf4 = false } = settings;
  const y = dtypes[settings.y];
  return opCase("matmulForward", { ...settings }, (run: Run) => {
    const x = run.input("x", dtypes[settings.x], [M, K], { gap });
    const w = nf4
      ? fourBits(run, "w", dtypes[settings.w], [N, K])
      : run.weight("w", dtypes[settings.w], [N, K], { cold });
    const b = bias ? run.weight("bias", dtypes[settings.w], [N]) : null;
    const out = accumulate ? run.input("y", y, [M, N], { output: true, gap }) : run.output("y", y, [M, N], { gap });
    run.run(({ ops }) => ops.matmulForward(out, x, w.next(), b, accumulate, factor));
    const want = times(matmul(x.at, w.at, N, K), factor);
    const start = (i: number) => (accumulate ? out.at(i) : 0) + (b ? b.at(i % N) : 0);
    // A decoded weight is rounded where its products are bfloat16.
    const isExact = settings.x === settings.w && !(nf4 && settings.w === "bf16");
    const tolerance = rounded(isExact ? exactChain(K) : chain(K), y);
    run.check(out, (i) => grown(start(i), want(i)), tolerance);
  });
}

interface AdaptedSettings extends Product {
  /** Type of everything but y. */
  readonly x: ShortDType;
  readonly y: ShortDType;
  /** Of each term: its rank, and the columns that it is added to. */
  readonly terms: readonly { readonly rank: number; readonly from: number; readonly N: number }[];
  readonly bias?: boolean;
  readonly accumulate?: boolean;
  readonly gap?: number;
  readonly nf4?: boolean;
}

function adaptedBuffers(
  run: Run,
  { M, N, K, x: dtype, terms, bias = false, gap = 0, nf4 = false }: AdaptedSettings,
  cold = false,
) {
  const type = dtypes[dtype];
  const width = terms.reduce((sum, { rank }) => sum + rank, 0);
  const down = run.input("down", type, [M, width], { gap });
  const starts = terms.map((_, i) => terms.slice(0, i).reduce((sum, { rank }) => sum + rank, 0));
  const matrices = terms.map((term, i) => run.weight(`b${i}`, type, [term.N, term.rank]));
  return {
    x: run.input("x", type, [M, K], { gap }),
    w: nf4 ? fourBits(run, "w", type, [N, K]) : run.weight("w", type, [N, K], { cold }),
    b: bias ? run.weight("bias", type, [N]) : null,
    terms: terms.map(({ rank, from }, i) => ({ down: columns(down, starts[i]!, rank), b: matrices[i]!, from })),
    /** What the terms add to element i of y. */
    added(i: number) {
      const [m, n] = [Math.floor(i / N), i % N];
      const sums = terms.flatMap(({ rank, from, N: own }, t) => {
        if (n < from || n >= from + own) return [];
        const at = (r: number) => down.at(m * width + starts[t]! + r);
        return [sumOfProducts(rank, at, (r) => matrices[t]!.at((n - from) * rank + r))];
      });
      return sums[0] ?? { value: 0, magnitude: 0, squares: 0 };
    },
    rank: Math.max(...terms.map(({ rank }) => rank)),
  };
}

/** Where a device adds a term to what it has stored, that has been rounded before. */
const roundedBetween = (tolerance: Tolerance, type: ComputeDType): Tolerance =>
  type === "bfloat16" ? { ...tolerance, magnitude: (tolerance.magnitude ?? 0) + 2 ** -8 } : tolerance;

function adapted(settings: AdaptedSettings, cold = false) {
  const { M, N, K, accumulate = false, gap = 0 } = settings;
  return opCase("adaptedForward", { ...settings, terms: JSON.stringify(settings.terms) }, (run: Run) => {
    const { x, w, b, terms, added, rank } = adaptedBuffers(run, settings, cold);
    const type = dtypes[settings.y];
    const y = accumulate ? run.input("y", type, [M, N], { output: true, gap }) : run.output("y", type, [M, N], { gap });
    run.run(({ ops }) => ops.adaptedForward(y, x, w.next(), b, terms, accumulate));
    const want = matmul(x.at, w.at, N, K);
    run.check(
      y,
      (i) => {
        const [base, more] = [want(i), added(i)];
        const start = (accumulate ? y.at(i) : 0) + (b ? b.at(i % N) : 0) + more.value;
        const whole = grown(start, base);
        return { ...whole, magnitude: whole.magnitude + more.magnitude, squares: whole.squares + more.squares };
      },
      roundedBetween(
        rounded(settings.nf4 && settings.x === "bf16" ? chain(K + rank) : exactChain(K + rank), type),
        type,
      ),
    );
  });
}

/** A row's bits are the same alone, among 7 rows and among `M` (promise 2). */
function adaptedAlone(settings: AdaptedSettings) {
  const { M, N, K } = settings;
  return opCase(
    "adaptedForward",
    { rows: "alone", ...settings, terms: JSON.stringify(settings.terms) },
    (run: SuiteRun) => {
      const { x, w, b, terms } = adaptedBuffers(run, settings);
      const output = (name: string) => run.slot(name, dtypes[settings.y], [M, N], null, { output: true });
      const [whole, sevens, ones] = [output("whole"), output("sevens"), output("ones")];
      const alone = [0, 1, 6, 13, M - 1];
      const elsewhere: Tolerance = {
        absolute: 2 * K * ROUNDINGS,
        relative: settings.y === "bf16" ? 2 ** -6 : 0,
        truncating: { absolute: 2 * K * truncation(K) },
      };
      run.run(({ ops }) => {
        const part = (y: typeof whole, r: number, count: number) => {
          const own = terms.map((term) => ({ ...term, down: rows(term.down, r, count) }));
          ops.adaptedForward(rows(y, r, count), rows(x, r, count), w, b, own);
        };
        part(whole, 0, M);
        for (let r = 0; r < M; r += 7) part(sevens, r, Math.min(7, M - r));
        for (const r of alone) part(ones, r, 1);
      });
      run.agree(sevens, 0, whole, 0, M, elsewhere);
      for (const r of alone) run.agree(ones, r, whole, r, 1, elsewhere);
    },
  );
}

/** Adapters of q, k and v, and of q and v alone. */
const three = [
  { rank: 16, from: 0, N: 64 },
  { rank: 16, from: 64, N: 32 },
  { rank: 16, from: 96, N: 32 },
];
const [q, , v] = three;

/** Terms that begin or end within a pair of panels, with columns of none between them. */
const apart = [
  { rank: 5, from: 16, N: 24 },
  { rank: 3, from: 48, N: 16 },
  { rank: 64, from: 64, N: 67 },
];

const adaptedCases: readonly OpCase[] = [
  adapted({ M: 70, N: 131, K: 100, x: "bf16", y: "f32", terms: apart.slice(1) }),
  adapted({ M: 7, N: 131, K: 1100, x: "bf16", y: "f32", terms: apart, bias: true, accumulate: true, gap: 3 }),
  adaptedAlone({ M: 40, N: 131, K: 70, x: "bf16", y: "bf16", terms: apart, bias: true }),
  adapted({ M: 1, N: 128, K: 64, x: "f32", y: "f32", terms: three }),
  adapted({ M: 33, N: 128, K: 100, x: "f32", y: "f32", terms: three, bias: true }),
  adapted({ M: 500, N: 128, K: 1025, x: "f32", y: "f32", terms: [q!, v!], gap: 5 }),
  adapted({ M: 7, N: 259, K: 33, x: "f32", y: "f32", terms: [{ rank: 5, from: 0, N: 259 }], accumulate: true, gap: 3 }),
  adapted({ M: 500, N: 40, K: 1500, x: "f32", y: "f32", terms: [{ rank: 64, from: 0, N: 40 }], accumulate: true }),
  adapted({ M: 1, N: 128, K: 64, x: "bf16", y: "bf16", terms: three }),
  adapted({ M: 33, N: 128, K: 100, x: "bf16", y: "bf16", terms: [q!, v!], bias: true }),
  adapted({ M: 100, N: 40, K: 33, x: "bf16", y: "f32", terms: [{ rank: 8, from: 0, N: 40 }], accumulate: true }),
  adaptedAlone({ M: 500, N: 128, K: 1100, x: "f32", y: "f32", terms: three }),
  adaptedAlone({ M: 120, N: 128, K: 70, x: "f32", y: "f32", terms: [q!, v!], bias: true }),
  adaptedAlone({ M: 120, N: 128, K: 70, x: "bf16", y: "bf16", terms: three }),
  adapted({ M: 33, N: 128, K: 128, x: "f32", y: "f32", terms: three, bias: true, nf4: true }),
  adapted({ M: 33, N: 128, K: 128, x: "bf16", y: "bf16", terms: three, bias: true, nf4: true }),
  adapted({
    M: 3,
    N: 40,
    K: 100,
    x: "bf16",
    y: "f32",
    terms: [{ rank: 8, from: 0, N: 40 }],
    accumulate: true,
    nf4: true,
  }),
  adaptedAlone({ M: 120, N: 128, K: 70, x: "f32", y: "f32", terms: three, nf4: true }),
  adaptedAlone({ M: 120, N: 128, K: 70, x: "bf16", y: "bf16", terms: three, nf4: true }),
];

interface InputSettings extends Product {
  readonly dy: ShortDType;
  readonly w: ShortDType;
  readonly dx: ShortDType;
  /** dy is exact in bfloat16. */
  readonly coarse?: boolean;
  readonly accumulate?: boolean;
  readonly factor?: number;
  readonly gap?: number;
  readonly nf4?: boolean;
}

function backwardInput(settings: InputSettings) {
  const { M, N, K, accumulate = false, coarse = false, factor = 1, gap = 0, nf4 = false } = settings;
  const out = dtypes[settings.dx];
  const exact = (coarse || settings.dy === settings.w) && !(nf4 && settings.w === "bf16");
  return opCase("matmulBackwardInput", { ...settings }, (run: Run) => {
    const dy = run.input("dy", dtypes[settings.dy], [M, N], { gap, coarse });
    const w = nf4 ? fourBits(run, "w", dtypes[settings.w], [N, K]) : run.weight("w", dtypes[settings.w], [N, K]);
    const dx = accumulate
      ? run.input("dx", out, [M, K], { output: true, gap })
      : run.output("dx", out, [M, K], { gap });
    run.run(({ ops }) => {
      for (let count = accumulate ? 1 : run.times; count > 0; count--)
        ops.matmulBackwardInput(dx, dy, w, accumulate, factor);
    });
    const want = times(matmulInputGradient(dy.at, w.at, N, K), factor);
    const tolerance = rounded(exact ? exactChain(N) : chain(N), out);
    run.check(dx, (i) => grown(accumulate ? dx.at(i) : 0, want(i)), tolerance);
    if (M * N * K > 1e5 || out !== "float32" || !exact || factor !== 1) return;
    run.differences(dx, wave, (moved) => productWith(matmul(moved, w.at, N, K), dy.at, M * N), slope);
  });
}

interface WeightSettings extends Product {
  readonly dy: ShortDType;
  readonly x: ShortDType;
  /** dy is exact in bfloat16. */
  readonly coarse?: boolean;
  readonly gap?: number;
}

function backwardWeight(settings: WeightSettings) {
  const { M, N, K, coarse = false, gap = 0 } = settings;
  const exact = coarse || settings.dy === settings.x;
  return opCase("matmulBackwardWeight", { ...settings }, (run: Run) => {
    const dy = run.input("dy", dtypes[settings.dy], [M, N], { gap, coarse });
    const x = run.input("x", dtypes[settings.x], [M, K], { gap });
    const w = run.weight("w", dtypes[settings.x], [N, K]);
    const dw = run.parameter("dw", w, { output: true });
    run.run(({ ops }) => {
      for (let times = run.times; times > 0; times--) ops.matmulBackwardWeight(dw, dy, x, w);
    });
    const want = matmulWeightGradient(dy.at, x.at, M, N, K);
    run.check(dw, (i) => grown(dw.at(i), want(i), run.times), exact ? exactChain(M) : chain(M), { rows: 4 });
    if (M * N * K > 1e5 || !exact) return;
    run.differences(dw, w.at, (moved) => productWith(matmul(x.at, moved, N, K), dy.at, M * N), slope, run.times);
  });
}

/** An arbitrary point at which to take a linear function's slope. */
const wave = (i: number) => Math.sin(3 * i);

/** Σ y · dy */
function productWith(y: ReturnType<typeof matmul>, dy: (i: number) => number, count: number): number {
  return dot(count, (i) => y(i).value, dy);
}

function biasGradient(settings: { M: number; N: number; dy: ShortDType; gap?: number }) {
  const { M, N, gap = 0 } = settings;
  return opCase("biasBackward", { ...settings }, (run: Run) => {
    const dy = run.input("dy", dtypes[settings.dy], [M, N], { gap });
    const dbias = run.input("dbias", "float32", [N], { output: true });
    run.run(({ ops }) => {
      for (let times = run.times; times > 0; times--) ops.biasBackward(dbias, dy);
    });
    const want = (n: number) =>
      sumOfProducts(
        M,
        (m) => dy.at(m * N + n),
        () => 1,
      );
    run.check(dbias, (n) => grown(dbias.at(n), want(n), run.times), { magnitude: ROUNDINGS }, { rows: 9 });
  });
}

/** A row's bits are the same alone, among 7 rows and among `M` (promise 2). */
function rowsAlone(settings: ForwardSettings) {
  const { M, N, K, bias = false, accumulate = false, nf4 = false } = settings;
  return opCase("matmulForward", { rows: "alone", ...settings }, (run: SuiteRun) => {
    const x = run.input("x", dtypes[settings.x], [M, K]);
    const w = nf4 ? fourBits(run, "w", dtypes[settings.w], [N, K]) : run.weight("w", dtypes[settings.w], [N, K]);
    const b = bias ? run.weight("bias", dtypes[settings.w], [N]) : null;
    const start = accumulate ? run.random.normal(M * N) : null;
    const output = (name: string) => run.slot(name, dtypes[settings.y], [M, N], start, { output: true });
    const [whole, sevens, ones] = [output("whole"), output("sevens"), output("ones")];
    const alone = [0, 1, 6, 13, 95, M - 1];
    // elsewhere the order may depend on M: both ways err within the chain's tolerance, for K terms of about 1
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

/** With zero rows, nothing is written and nothing fails. */
const empty = opCase("matmulForward", { M: 0, N: 33, K: 31 }, (run: SuiteRun) => {
  const x = run.slot("x", "float32", [0, 31], []);
  const w = run.weight("w", "float32", [33, 31]);
  const y = run.input("y", "float32", [4, 33]);
  const dw = run.parameter("dw", w, { output: true });
  run.run(({ ops }) => {
    ops.matmulForward(rows(y, 0, 0), x, w, null);
    ops.matmulBackwardInput(x, rows(y, 0, 0), w);
    ops.matmulBackwardWeight(dw, rows(y, 0, 0), x, w);
  });
  run.check(dw, dw.at, exactly);
});

/** NaN and infinities reach the outputs that depend on them, and no others. */
function special(dtype: ShortDType) {
  const [M, N, K] = [7, 33, 31];
  return opCase("matmulForward", { values: "nan-inf", M, N, K, x: dtype, w: dtype }, (run: SuiteRun) => {
    const values = run.random.normal(M * K);
    values[2 * K + 30] = Number.NaN;
    values[4 * K + 5] = Number.POSITIVE_INFINITY;
    const x = run.slot("x", dtypes[dtype], [M, K], values);
    const w = run.weight("w", dtypes[dtype], [N, K]);
    const y = run.output("y", "float32", [M, N]);
    run.run(({ ops }) => ops.matmulForward(y, x, w, null));
    run.check(y, matmul(x.at, w.at, N, K), exactChain(K));
  });
}

/** Where float32 operands are rounded to bfloat16, they round to nearest, ties to even; elsewhere they are not rounded. */
const operandRounding = opCase("matmulForward", { values: "between-bfloat16" }, (run: SuiteRun) => {
  const ulp = 2 ** -7;
  const values = [1 + ulp / 2, 1 + 1.5 * ulp, 1 + 0.49 * ulp, -1 - 0.51 * ulp, 3.3e38, 3.4e38, -3.4e38, 0, 1e-30];
  const [M, forwards] = [values.length, values.map(Math.fround)];
  const x = run.slot("x", "float32", [M, 1], forwards);
  const one = run.weightOf("one", "bfloat16", [1, 1], [1]);
  const [y, dx] = [run.output("y", "float32", [M, 1]), run.output("dx", "float32", [M, 1])];
  const hidden = run.slot("x of one", "bfloat16", [M, 1], [0, 0, 0, 1, 0, 0, 0, 0, 0]);
  const dw = run.parameter("dw", one, { at: () => 0, output: true });
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

/** The scalar head of reward models and critics: one output; all directions, in the types it runs in. */
const scalarSizes: readonly Product[] = [
  { M: 1, N: 1, K: 100 },
  { M: 7, N: 1, K: 33 },
  { M: 33, N: 1, K: 64 },
  { M: 500, N: 1, K: 257 },
];

const forwardCases: readonly OpCase[] = [
  ...scalarSizes.flatMap((size) => [
    forward({ ...size, x: "f32", w: "f32", y: "f32" }),
    forward({ ...size, x: "bf16", w: "bf16", y: "f32" }),
  ]),
  forward({ M: 33, N: 1, K: 64, x: "f32", w: "bf16", y: "f32" }),
  rowsAlone({ M: 120, N: 1, K: 1100, x: "f32", w: "f32", y: "f32" }),
  rowsAlone({ M: 500, N: 1, K: 70, x: "bf16", w: "bf16", y: "f32" }),
  rowsAlone({ M: 120, N: 1, K: 1100, x: "f32", w: "bf16", y: "f32" }),
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
  // adapters: few outputs, then few inputs
  forward({ M: 7, N: 16, K: 100, x: "f32", w: "f32", y: "f32", factor: 2 }),
  forward({ M: 481, N: 5, K: 1025, x: "f32", w: "f32", y: "f32", factor: 0.7, gap: 11 }),
  forward({ M: 33, N: 48, K: 64, x: "bf16", w: "bf16", y: "bf16", factor: -1.5 }),
  forward({ M: 33, N: 70, K: 16, x: "f32", w: "f32", y: "f32", accumulate: true, factor: 3, gap: 5 }),
  forward({ M: 9, N: 40, K: 3, x: "bf16", w: "bf16", y: "f32", bias: true, accumulate: true, factor: 0.5 }),
  rowsAlone({ M: 500, N: 16, K: 70, x: "f32", w: "f32", y: "f32" }),
  // in NF4: blocks that end within rows, a reduction in pieces, few rows and many
  ...sizes.map((size) => forward({ ...size, x: "f32", w: "f32", y: "f32", nf4: true })),
  forward({ M: 1, N: 259, K: 2050, x: "bf16", w: "bf16", y: "bf16", nf4: true }),
  forward({ M: 33, N: 48, K: 128, x: "bf16", w: "bf16", y: "bf16", bias: true, nf4: true, gap: 5 }),
  forward({ M: 9, N: 40, K: 33, x: "f32", w: "bf16", y: "f32", accumulate: true, nf4: true }),
  rowsAlone({ M: 120, N: 40, K: 1100, x: "f32", w: "f32", y: "f32", nf4: true }),
  rowsAlone({ M: 120, N: 40, K: 1100, x: "bf16", w: "bf16", y: "bf16", bias: true, nf4: true }),
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
  rowsAlone({ M: 130, N: 40, K: 1152, x: "bf16", w: "bf16", y: "bf16", bias: true }), // long, in whole groups of 32
  rowsAlone({ M: 600, N: 72, K: 64, x: "bf16", w: "bf16", y: "f32", accumulate: true }), // several blocks of rows
];

const backwardInputCases: readonly OpCase[] = [
  ...scalarSizes.flatMap((size) => [
    backwardInput({ ...size, dy: "f32", w: "f32", dx: "f32" }),
    backwardInput({ ...size, dy: "f32", w: "bf16", dx: "f32", coarse: true }),
    backwardInput({ ...size, dy: "f32", w: "bf16", dx: "bf16" }),
  ]),
  ...sizes.map((size) => backwardInput({ ...size, dy: "f32", w: "f32", dx: "f32" })),
  ...sizes.map((size) => backwardInput({ ...size, dy: "f32", w: "bf16", dx: "f32", coarse: true })),
  ...sizes.map((size) => backwardInput({ ...size, dy: "f32", w: "f32", dx: "f32", nf4: true })),
  backwardInput({ M: 33, N: 1030, K: 128, dy: "f32", w: "bf16", dx: "f32", accumulate: true, nf4: true }),
  backwardInput({ M: 13, N: 48, K: 100, dy: "f32", w: "bf16", dx: "f32" }),
  backwardInput({ M: 481, N: 70, K: 33, dy: "f32", w: "bf16", dx: "f32", accumulate: true, gap: 2 }),
  backwardInput({ M: 33, N: 1030, K: 40, dy: "f32", w: "bf16", dx: "f32" }),
  backwardInput({ M: 33, N: 1030, K: 40, dy: "f32", w: "f32", dx: "f32", accumulate: true, gap: 5 }),
  backwardInput({ M: 6, N: 33, K: 31, dy: "f32", w: "f32", dx: "f32", accumulate: true }),
  backwardInput({ M: 13, N: 33, K: 31, dy: "bf16", w: "bf16", dx: "bf16", gap: 3 }),
  backwardInput({ M: 33, N: 40, K: 70, dy: "f32", w: "bf16", dx: "bf16" }),
  backwardInput({ M: 33, N: 40, K: 70, dy: "bf16", w: "bf16", dx: "bf16", accumulate: true }),
  backwardInput({ M: 300, N: 640, K: 40, dy: "f32", w: "bf16", dx: "f32", coarse: true }),
  backwardInput({ M: 300, N: 640, K: 40, dy: "bf16", w: "bf16", dx: "f32" }),
  backwardInput({ M: 33, N: 259, K: 16, dy: "f32", w: "f32", dx: "f32", factor: 2, gap: 16 }),
  backwardInput({ M: 7, N: 64, K: 5, dy: "f32", w: "bf16", dx: "f32", coarse: true, factor: 0.7 }),
  backwardInput({ M: 33, N: 40, K: 16, dy: "bf16", w: "bf16", dx: "bf16", factor: -1.5 }),
];

const backwardWeightCases: readonly OpCase[] = [
  ...scalarSizes.flatMap((size) => [
    backwardWeight({ ...size, dy: "f32", x: "f32" }),
    backwardWeight({ ...size, dy: "f32", x: "bf16", coarse: true }),
    backwardWeight({ ...size, dy: "f32", x: "bf16" }),
  ]),
  ...sizes.map((size) => backwardWeight({ ...size, dy: "f32", x: "f32" })),
  ...sizes.map((size) => backwardWeight({ ...size, dy: "f32", x: "bf16", coarse: true })),
  backwardWeight({ M: 100, N: 40, K: 1025, dy: "f32", x: "bf16" }),
  backwardWeight({ M: 1100, N: 20, K: 40, dy: "f32", x: "bf16", coarse: true }),
  backwardWeight({ M: 257, N: 20, K: 301, dy: "f32", x: "bf16", gap: 7 }),
  backwardWeight({ M: 13, N: 33, K: 31, dy: "bf16", x: "bf16" }),
  backwardWeight({ M: 16_400, N: 8, K: 24, dy: "bf16", x: "bf16" }),
  backwardWeight({ M: 40, N: 70, K: 800, dy: "f32", x: "bf16", coarse: true }),
];

interface RealProduct extends Product {
  readonly use: Use;
  /** y is float32 and accumulated: the residual stream. */
  readonly residual?: boolean;
  /** y is float32: logits. */
  readonly logits?: boolean;
}

/** A layer's projections, and one product of a larger model. */
function training(s: Shapes): readonly RealProduct[] {
  const projections = [
    { N: s.Hkv * s.Dh, K: s.D }, // k, v
    { N: s.H * s.Dh, K: s.D }, // q
    { N: s.F, K: s.D }, // gate, up
    { N: s.D, K: s.F, residual: true }, // down; o has the shape of q
  ];
  return [
    ...projections.map((p) => ({ use: "training" as const, M: packedTokens(s), ...p })),
    { use: "large", ...s.large },
  ];
}

function decode(s: Shapes): readonly RealProduct[] {
  const products = [
    { N: s.F, K: s.D },
    { N: s.D, K: s.F, residual: true },
    { N: s.V, K: s.D, logits: true },
  ];
  return s.batches.flatMap((M) => products.map((p) => ({ use: "decode" as const, M, ...p })));
}

function realForward({ use, M, N, K, residual = false, logits = false }: RealProduct, dtype: ComputeDType) {
  const type = shortOf(dtype);
  const y = residual || logits ? "f32" : type;
  const one = forward({ M, N, K, x: type, w: type, y, accumulate: residual }, use === "decode");
  return timed(use, dtype, { M, N, K, residual }, one);
}

/** Rank of the adapters that are timed. */
const RANK = 16;

type MatmulOp = "matmulForward" | "adaptedForward" | "matmulBackwardInput" | "matmulBackwardWeight" | "biasBackward";

export const matmulOps: OpTable<MatmulOp> = {
  matmulForward: {
    cost: (_, y, x, w, bias, accumulate) => {
      const bytes = bytesOf(x) + weightBytes(w) + bytesOf(y) * (accumulate ? 2 : 1) + (bias ? weightBytes(bias) : 0);
      return product(rowsOf(x), w, bytes);
    },
    cases: forwardCases,
    real: (s) => computeDTypes.flatMap((dtype) => [...training(s), ...decode(s)].map((p) => realForward(p, dtype))),
  },
  adaptedForward: {
    cost: (_, y, x, w, bias, terms, accumulate) => {
      const own = terms.map(({ down, b }) => product(rowsOf(x), b, bytesOf(down) + weightBytes(b)));
      const bytes = bytesOf(x) + weightBytes(w) + bytesOf(y) * (accumulate ? 2 : 1) + (bias ? weightBytes(bias) : 0);
      const base = product(
        rowsOf(x),
        w,
        own.reduce((sum, term) => sum + term.bytes, bytes),
      );
      return { ...base, flops: own.reduce((sum, term) => sum + term.flops, base.flops) };
    },
    cases: adaptedCases,
    real: (s) =>
      computeDTypes.flatMap((dtype) =>
        [...training(s), ...decode(s)]
          .filter(({ logits }) => !logits)
          .map(({ use, M, N, K, residual = false }) => {
            const type = shortOf(dtype);
            const terms = [{ rank: RANK, from: 0, N }];
            const settings = { M, N, K, x: type, y: residual ? "f32" : type, terms, accumulate: residual } as const;
            return timed(use, dtype, { M, N, K, residual }, adapted(settings, use === "decode"));
          }),
      ),
  },
  matmulBackwardInput: {
    cost: (_, dx, dy, w, accumulate) =>
      product(rowsOf(dy), w, bytesOf(dy) + weightBytes(w) + bytesOf(dx) * (accumulate ? 2 : 1)),
    cases: backwardInputCases,
    real: (s) =>
      computeDTypes.flatMap((dtype) =>
        training(s).map(({ use, M, N, K }) => {
          const grad = shortOf(gradientType(s, dtype));
          const one = backwardInput({ M, N, K, dy: grad, w: shortOf(dtype), dx: grad, coarse: true });
          return timed(use, dtype, { M, N, K }, one);
        }),
      ),
  },
  matmulBackwardWeight: {
    cost: (_, dw, dy, x, w) => product(rowsOf(dy), w, bytesOf(dy) + bytesOf(x) + 2 * bytesOf(dw)),
    cases: backwardWeightCases,
    real: (s) =>
      computeDTypes.flatMap((dtype) =>
        training(s).map(({ use, M, N, K }) => {
          const grad = shortOf(gradientType(s, dtype));
          const one = backwardWeight({ M, N, K, dy: grad, x: shortOf(dtype), coarse: true });
          return timed(use, dtype, { M, N, K }, one);
        }),
      ),
  },
  biasBackward: {
    cost: (_, dbias, dy) => memory(bytesOf(dy) + 2 * bytesOf(dbias), elementCount(dy.shape)),
    cases: [
      biasGradient({ M: 1, N: 1, dy: "f32" }),
      biasGradient({ M: 33, N: 31, dy: "f32", gap: 5 }),
      biasGradient({ M: 100, N: 259, dy: "f32" }),
      biasGradient({ M: 13, N: 33, dy: "bf16" }),
    ],
    real: (s) =>
      gradientTypes(s).map((grad) => {
        const [T, N] = [packedTokens(s), (s.H + 2 * s.Hkv) * s.Dh];
        return timed("training", grad, { T, N }, biasGradient({ M: T, N, dy: shortOf(grad) }));
      }),
  },
};
