/** AdamW over several steps, and the sum of squares for gradient clipping. */
import type { AdamWSettings } from "../../../src/device/device.ts";
import { elementCount } from "../../../src/tensor/tensor.ts";
import {
  computeDTypes,
  dtypes,
  mapped,
  memo,
  type OpTable,
  opCase,
  type Run,
  type ShortDType,
  type SuiteRun,
  shortOf,
  timed,
  type Values,
} from "../case.ts";
import { bytesOf, memory, weightBytes } from "../cost.ts";
import { exactly, rounded, type Tolerance } from "../tolerance.ts";

/** A step rounds the weight once, to 2⁻²⁴ of itself, plus a step of the learning rate's size with an error of 1e-6. */
const steps: Tolerance = { relative: 2 ** -21, absolute: 1e-8 };
/** For gradients of about 1 the mean cancels; the mean square does not. */
const mean: Tolerance = { relative: 2 ** -21, absolute: 1e-7 };
const square: Tolerance = { relative: 2 ** -20 };

interface Settings {
  readonly N: number;
  readonly K: number;
  readonly w: ShortDType;
  readonly decay: number;
  readonly beta2: number;
  readonly scale: number;
  /** One step with moments of earlier ones; else the first five. */
  readonly later?: boolean;
}

function adamw(settings: Settings) {
  const { N, K, decay, beta2, scale, later = false } = settings;
  const dtype = dtypes[settings.w];
  return opCase("adamw", { ...settings }, (run: Run) => {
    const w = run.weight("w", "float32", [N, K], { deviation: 0.1 });
    const master = run.parameter("master", w, { at: w.at, output: true });
    const low = dtype === "float32" ? null : run.parameter("low", w, { at: w.at, output: true, dtype });
    const m = run.parameter("m", w, later ? { output: true } : { at: () => 0, output: true });
    const v = run.parameter("v", w, { at: later ? mapped(w.at, (x) => 0.25 + x * x) : () => 0, output: true });
    const gradients = Array.from({ length: later ? 1 : 5 }, (_, i) =>
      run.parameter(`g${i}`, w, { deviation: i === 2 ? 1e-3 : 1 }),
    );
    const hyper = { learningRate: 1e-3, beta1: 0.9, beta2, epsilon: 1e-8, weightDecay: decay, gradientScale: scale };
    const step = (i: number) => i + (later ? 3 : 1);
    // In float32 the weight is its own master; in bfloat16 the stored weight is rounded from a float32 master.
    const stored = { ...w, dtype, address: (low ?? master).address };
    run.run(({ ops }) => {
      for (const [i, g] of gradients.entries()) ops.adamw(stored, master, m, v, g, { ...hyper, step: step(i) });
    });
    const grads = gradients.map((g) => g.at);
    const want = memo((i) =>
      reference(
        { weight: w.at(i), m: m.at(i), v: v.at(i) },
        grads.map((g) => g(i)),
        hyper,
        step,
      ),
    );
    const some = { rows: 6, columns: 6 };
    run.check(master, (i) => want(i).weight, steps, some);
    run.check(m, (i) => want(i).m, mean, some);
    run.check(v, (i) => want(i).v, square, some);
    if (low) run.check(low, (i) => want(i).weight, rounded(steps, dtype), some);
  });
}

interface State {
  readonly weight: number;
  readonly m: number;
  readonly v: number;
}

/** Loshchilov & Hutter 2019, algorithm 2, as in torch.optim.AdamW, for one weight; betas are rounded to float32. */
function reference(
  start: State,
  gradients: readonly number[],
  s: Omit<AdamWSettings, "step">,
  step: (i: number) => number,
): State {
  const [beta1, beta2] = [Math.fround(s.beta1), Math.fround(s.beta2)];
  let { weight, m, v } = start;
  for (const [i, raw] of gradients.entries()) {
    const grad = raw * s.gradientScale;
    m = beta1 * m + (1 - beta1) * grad;
    v = beta2 * v + (1 - beta2) * grad * grad;
    const mean = m / (1 - beta1 ** step(i));
    const square = v / (1 - beta2 ** step(i));
    weight *= 1 - s.learningRate * s.weightDecay;
    weight -= (s.learningRate * mean) / (Math.sqrt(square) + s.epsilon);
  }
  return { weight, m, v };
}

/** A gradient of exactly zero changes a weight by decay only; the padding of a parameter stays zero. */
const still = opCase("adamw", { gradient: "zero", N: 33, K: 3 }, (run: SuiteRun) => {
  const w = run.weight("w", "float32", [33, 3]);
  const zero: Values = () => 0;
  const master = run.parameter("master", w, { at: w.at, output: true });
  const [m, v] = [run.parameter("m", w, { at: zero, output: true }), run.parameter("v", w, { at: zero, output: true })];
  const g = run.parameter("g", w, { at: zero });
  const hyper = { learningRate: 0.5, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0 };
  run.run(({ ops }) =>
    ops.adamw({ ...w, address: master.address }, master, m, v, g, { ...hyper, step: 1, gradientScale: 1 }),
  );
  run.check(master, w.at, exactly);
  run.check(m, zero, exactly);
});

/** Float64 sums of float32 squares, which are exact. */
const squares: Tolerance = { relative: 1e-13 };

function sumOfSquares(count: number, x: Values): number {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += x(i) * x(i);
  return sum;
}

function sumSquares(n: number) {
  return opCase("sumSquares", { n }, (run: Run) => {
    const x = run.input("x", "float32", [n]);
    const sum = run.output("sum", "float64", [1]);
    run.run(({ ops }) => ops.sumSquares(sum, x));
    run.check(sum, () => sumOfSquares(n, x.at), squares);
  });
}

/** Squares that overflow float32, and a NaN. */
const extremes = [
  [1e30, 1e30],
  [1, Number.NaN, 2],
  [1, Number.NEGATIVE_INFINITY],
].map((values, i) =>
  opCase("sumSquares", { values: ["huge", "nan", "inf"][i]! }, (run: SuiteRun) => {
    const x = run.slot("x", "float32", [values.length], values);
    const sum = run.output("sum", "float64", [1]);
    run.run(({ ops }) => ops.sumSquares(sum, x));
    run.check(sum, [sumOfSquares(values.length, x.at)], squares);
  }),
);

export const optimizerOps: OpTable<"adamw" | "sumSquares"> = {
  adamw: {
    // reads and writes master, m, v; reads g; in bfloat16 also writes w
    cost: (_, w, master, m, v, g) =>
      memory(
        bytesOf(g) + 2 * (bytesOf(m) + bytesOf(v)) + 2 * bytesOf(master) + (w.dtype === "float32" ? 0 : weightBytes(w)),
        14 * w.elements,
      ),
    cases: [
      adamw({ N: 1, K: 1, w: "f32", decay: 0, beta2: 0.999, scale: 1 }),
      adamw({ N: 33, K: 31, w: "f32", decay: 0.1, beta2: 0.999, scale: 0.37 }),
      adamw({ N: 33, K: 31, w: "bf16", decay: 0.1, beta2: 0.95, scale: 0.37 }),
      adamw({ N: 20, K: 7, w: "f32", decay: 0, beta2: 0.9999, scale: 1 }),
      adamw({ N: 259, K: 100, w: "bf16", decay: 0.01, beta2: 0.999, scale: 1 }),
      adamw({ N: 33, K: 31, w: "bf16", decay: 0.1, beta2: 0.99, scale: 0.5, later: true }),
      still,
    ],
    real: ({ V: N, D: K }) =>
      computeDTypes.map((dtype) => {
        const one = adamw({ N, K, w: shortOf(dtype), decay: 0.1, beta2: 0.99, scale: 0.5, later: true });
        return timed("training", dtype, { N, K }, one);
      }),
  },
  sumSquares: {
    cost: (_, _sum, x) => memory(bytesOf(x), 2 * elementCount(x.shape)),
    cases: [...[0, 1, 31, 33, 16384, 16385, 50001].map(sumSquares), ...extremes],
    // as large as the embedding's gradient
    real: ({ V, D }) => [timed("training", "float32", { n: V * D }, sumSquares(V * D))],
  },
};
