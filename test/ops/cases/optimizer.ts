/** AdamW over several steps, and the sum of squares that the clipping takes. */
import type { AdamWSettings } from "../../../src/device/device.ts";
import { dtypes, type OpCase, opCase, rounded, type ShortDType, type Tolerance } from "../harness.ts";

/** A step rounds the weight once, to 2⁻²⁴ of itself, beside a step of the learning rate's size that is off by 1e-6. */
const steps: Tolerance = { relative: 2 ** -21, absolute: 1e-8 };
/** Gradients of about 1: the mean cancels, the mean square does not. */
const mean: Tolerance = { relative: 2 ** -21, absolute: 1e-7 };
const square: Tolerance = { relative: 2 ** -20 };

interface Settings {
  readonly N: number;
  readonly K: number;
  readonly w: ShortDType;
  readonly decay: number;
  readonly beta2: number;
  readonly scale: number;
}

const STEPS = 5;

function adamw(settings: Settings): OpCase {
  const { N, K, decay, beta2, scale } = settings;
  const dtype = dtypes[settings.w];
  return opCase("adamw", { ...settings }, (run) => {
    const count = N * K;
    const w = run.weight("w", "float32", [N, K], run.random.normal(count, 0.1));
    const master = run.parameter("master", w, w.values, true);
    const zeros = new Float64Array(count);
    const low = run.parameter("low", w, zeros, true, "bfloat16");
    const [m, v] = [run.parameter("m", w, zeros, true), run.parameter("v", w, zeros, true)];
    const gradients = Array.from({ length: STEPS }, (_, i) =>
      run.parameter(`g${i}`, w, run.random.normal(count, i === 2 ? 1e-3 : 1)),
    );
    const hyper = { learningRate: 1e-3, beta1: 0.9, beta2, epsilon: 1e-8, weightDecay: decay, gradientScale: scale };
    // In float32 the weight is its own master; in bfloat16 the stored weight follows a float32 master.
    const stored = { ...w, dtype, address: dtype === "float32" ? master.address : low.address };
    run.run(({ ops }) => {
      for (const [i, g] of gradients.entries()) ops.adamw(stored, master, m, v, g, { ...hyper, step: i + 1 });
    });
    const want = reference(
      w.values,
      gradients.map((g) => g.values),
      hyper,
    );
    run.check(master, want.weights, steps);
    run.check(m, want.m, mean);
    run.check(v, want.v, square);
    if (dtype === "bfloat16") run.check(low, want.weights, rounded(steps, dtype));
  });
}

/** Loshchilov & Hutter 2019, algorithm 2, as in torch.optim.AdamW, with the betas that float32 holds. */
function reference(start: Float64Array, gradients: Float64Array[], s: Omit<AdamWSettings, "step">) {
  const [beta1, beta2] = [Math.fround(s.beta1), Math.fround(s.beta2)];
  const weights = Float64Array.from(start);
  const [m, v] = [new Float64Array(start.length), new Float64Array(start.length)];
  for (const [step, g] of gradients.entries())
    for (const [i, raw] of g.entries()) {
      const grad = raw * s.gradientScale;
      m[i] = beta1 * m[i]! + (1 - beta1) * grad;
      v[i] = beta2 * v[i]! + (1 - beta2) * grad * grad;
      const mean = m[i]! / (1 - beta1 ** (step + 1));
      const square = v[i]! / (1 - beta2 ** (step + 1));
      weights[i]! *= 1 - s.learningRate * s.weightDecay;
      weights[i]! -= (s.learningRate * mean) / (Math.sqrt(square) + s.epsilon);
    }
  return { weights, m, v };
}

/** A gradient of exactly zero moves nothing but by decay; the padding of a parameter stays zero. */
const still: OpCase = opCase("adamw", { gradient: "zero", N: 33, K: 3 }, (run) => {
  const w = run.weight("w", "float32", [33, 3], run.random.normal(99));
  const zeros = new Float64Array(99);
  const master = run.parameter("master", w, w.values, true);
  const [m, v, g] = [
    run.parameter("m", w, zeros, true),
    run.parameter("v", w, zeros, true),
    run.parameter("g", w, zeros),
  ];
  const settings = {
    learningRate: 0.5,
    beta1: 0.9,
    beta2: 0.99,
    epsilon: 1e-8,
    weightDecay: 0,
    step: 1,
    gradientScale: 1,
  };
  run.run(({ ops }) => ops.adamw({ ...w, address: master.address }, master, m, v, g, settings));
  run.check(master, w.values, {});
  run.check(m, zeros, {});
});

function sumSquares(n: number): OpCase {
  return opCase("sumSquares", { n }, (run) => {
    const x = run.slot("x", "float32", [n], run.random.normal(n));
    const sum = run.slot("sum", "float64", [1], null, { output: true });
    run.run(({ ops }) => ops.sumSquares(sum, x));
    // float64 sums of float32 squares, which are exact
    const total = x.values.reduce((a, b) => a + b * b, 0);
    run.check(sum, [total], { relative: 1e-13 });
  });
}

/** Squares beyond float32, and a NaN. */
const extremes: OpCase[] = [
  [1e30, 1e30],
  [1, Number.NaN, 2],
  [1, Number.NEGATIVE_INFINITY],
].map((values, i) =>
  opCase("sumSquares", { values: ["huge", "nan", "inf"][i]! }, (run) => {
    const x = run.slot("x", "float32", [values.length], values);
    const sum = run.slot("sum", "float64", [1], null, { output: true });
    run.run(({ ops }) => ops.sumSquares(sum, x));
    run.check(sum, [x.values.reduce((a, b) => a + b * b, 0)], { relative: 1e-13 });
  }),
);

export const optimizerCases: readonly OpCase[] = [
  adamw({ N: 1, K: 1, w: "f32", decay: 0, beta2: 0.999, scale: 1 }),
  adamw({ N: 33, K: 31, w: "f32", decay: 0.1, beta2: 0.999, scale: 0.37 }),
  adamw({ N: 33, K: 31, w: "bf16", decay: 0.1, beta2: 0.95, scale: 0.37 }),
  adamw({ N: 20, K: 7, w: "f32", decay: 0, beta2: 0.9999, scale: 1 }),
  adamw({ N: 259, K: 100, w: "bf16", decay: 0.01, beta2: 0.999, scale: 1 }),
  still,
  ...[0, 1, 31, 33, 16384, 16385, 50001].map(sumSquares),
  ...extremes,
];
