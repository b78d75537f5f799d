/** AdamW over several steps, and the sum of squares for gradient clipping. */
import type { AdamWSettings, Weight } from "../../../src/device/device.ts";
import { mastersOf } from "../../../src/optim/adamw.ts";
import { bfloat16ToNumber, numberToBfloat16 } from "../../../src/tensor/dtype.ts";
import { elementCount, type Tensor } from "../../../src/tensor/tensor.ts";
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
    const low = dtype === "float32" ? null : run.parameter("low", w, { at: w.at, output: true, dtype });
    // Masters in two halves start as the parameter: their lower halves are zero.
    const halves = low !== null && run.device.masterDType === "uint16";
    const master = halves
      ? run.filled("master", "uint16", [w.elements], () => 0, { output: true })
      : run.parameter("master", w, { at: w.at, output: true });
    const whole = halves ? run.parameter("whole", w, { at: () => 0, output: true }) : null;
    const m = run.parameter("m", w, later ? { output: true } : { at: () => 0, output: true });
    const v = run.parameter("v", w, { at: later ? mapped(w.at, (x) => 0.25 + x * x) : () => 0, output: true });
    const gradients = Array.from({ length: later ? 1 : 5 }, (_, i) =>
      run.parameter(`g${i}`, w, { deviation: i === 2 ? 1e-3 : 1 }),
    );
    const hyper = { learningRate: 1e-3, beta1: 0.9, beta2, epsilon: 1e-8, weightDecay: decay, gradientScale: scale };
    const step = (i: number) => i + (later ? 3 : 1);
    // In float32 the weight is its own master; in bfloat16 the stored weight is the rounded master.
    const stored = { ...w, dtype, address: (low ?? master).address };
    run.run(
      ({ ops }) => {
        for (const [i, g] of gradients.entries()) ops.adamw(stored, master, m, v, g, { ...hyper, step: step(i) });
      },
      ({ ops }) => {
        if (whole) ops.addMasters(whole, stored, master);
      },
    );
    const grads = gradients.map((g) => g.at);
    const want = memo((i) =>
      reference(
        { weight: halves ? low.at(i) : w.at(i), m: m.at(i), v: v.at(i) },
        grads.map((g) => g(i)),
        hyper,
        step,
      ),
    );
    const some = { rows: 6, columns: 6 };
    run.check(whole ?? master, (i) => want(i).weight, steps, some);
    run.check(m, (i) => want(i).m, mean, some);
    run.check(v, (i) => want(i).v, square, some);
    if (low) run.check(low, (i) => want(i).weight, rounded(steps, dtype), some);
  });
}

/** Bytes of a parameter that is not float32, which a step writes and, if it is a half of the master, reads. */
function writtenBeside(w: Weight, master: Tensor): number {
  return w.dtype === "float32" ? 0 : weightBytes(w) * (master.dtype === "uint16" ? 2 : 1);
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

const words = new DataView(new ArrayBuffer(4));
function numberOf(bits: number): number {
  words.setUint32(0, bits);
  return words.getFloat32(0);
}
function bitsOf(value: number): number {
  words.setFloat32(0, value);
  return words.getUint32(0);
}
/** What two halves keep of a master: all but the last bit of one that lies in the middle and is rounded down. */
const keptBits = (bits: number): number => ((bits & 0x1ffff) === 0x8000 ? bits - 1 : bits);

/**
 * Masters in two halves through a step that changes none: the bits of each stay, but for one that lies in the middle of two
 * bfloat16 numbers and is rounded down, which loses its last bit. Upper halves are as the parameter is stored, so where the
 * lower half is 0x8000 or more they are one more than the master's own.
 */
const halved = {
  ...opCase("adamw", { masters: "two-halves" }, (run: SuiteRun) => {
    const highs = [0x0000, 0x0001, 0x007f, 0x0080, 0x3f80, 0x3f81, 0x4049, 0x7f7e, 0x8000, 0xbf80, 0xbf81, 0xff7e];
    const lows = [0x0000, 0x0001, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xffff];
    const masters = highs.flatMap((high) => lows.map((low) => ((high << 16) | low) >>> 0));
    const n = masters.length;
    // As the kernel is given what rounding to nearest even never leaves: a tie rounded up to an odd number.
    const upper = (bits: number) => (bits + 0x8000) >>> 16;
    const p = run.slot(
      "p",
      "bfloat16",
      [n],
      masters.map((bits) => bfloat16ToNumber(upper(bits))),
      { output: true },
    );
    const lower = run.slot(
      "lower",
      "uint16",
      [n],
      masters.map((bits) => bits & 0xffff),
      { output: true },
    );
    const zeros = (name: string) => run.slot(name, "float32", [n], new Array(n).fill(0), { output: true });
    const [m, v, g, y] = [zeros("m"), zeros("v"), zeros("g"), zeros("y")];
    const w = { name: "p", address: p.address, dtype: "bfloat16", shape: [n], elements: n } as const;
    const hyper = { learningRate: 0.5, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0, gradientScale: 1 };
    run.run(({ ops }) => {
      ops.adamw(w, lower, m, v, g, { ...hyper, step: 1 });
      ops.addMasters(y, w, lower);
    });
    const kept = masters.map(keptBits);
    run.check(
      p,
      kept.map((bits) => bfloat16ToNumber(numberToBfloat16(numberOf(bits)))),
      exactly,
    );
    run.check(
      lower,
      kept.map((bits) => bits & 0xffff),
      exactly,
    );
    run.check(y, kept.map(numberOf), exactly);
  }),
  only: { kind: "cpu", reason: "a GPU's masters are float32 (masterDType)" },
} as const;

interface MasterSettings {
  readonly N: number;
  readonly K: number | null;
  /** Loaded in two parts, the first of so many rows; else the masters are the parameter. */
  readonly first: number | null;
}

/** Masters as they are loaded from row-major memory, and saved to it. */
function masters({ N, K, first }: MasterSettings) {
  const settings = { N, ...(K !== null && { K }), ...(first !== null && { first }) };
  return opCase("addMasters", settings, (run: SuiteRun) => {
    const inner = K === null ? [] : [K];
    const layout = run.weight("layout", "bfloat16", [N, ...inner]);
    const low = run.parameter("low", layout, { at: layout.at, dtype: "bfloat16", output: true });
    const weight = { ...layout, address: low.address };
    const halves = run.device.masterDType === "uint16";
    const master = halves
      ? run.filled("master", "uint16", [layout.elements], () => 0, { output: true })
      : run.parameter("master", layout, { at: layout.at, output: true });
    const y = run.parameter("y", layout, { output: true });
    const source = run.input("source", "float32", [N, ...inner]);
    const back = run.output("back", "float32", [N, ...inner]);
    const own = mastersOf({ weight, master });
    run.run((device) => {
      for (const [from, count] of first === null ? [] : [[0, first] as const, [first, N - first] as const])
        device.loadParameter(own, source.address + 4 * from * (K ?? 1), "float32", from, count);
      device.saveParameter(back.address, "float32", own, 0, N);
      device.ops.addMasters(y, weight, master);
    });
    const want = (i: number) => {
      const loaded = first === null ? layout.at(i) : source.at(i);
      return halves ? numberOf(keptBits(bitsOf(loaded))) : loaded;
    };
    run.check(y, (i) => Math.fround(y.at(i) + want(i)), exactly);
    run.check(back, want, exactly);
    if (halves) run.check(low, (i) => bfloat16ToNumber(numberToBfloat16(want(i))), exactly);
  });
}

/** y += the masters, which are the parameter itself. */
function addMasters(N: number, K: number) {
  return opCase("addMasters", { N, K, start: "parameter" }, (run: Run) => {
    const w = run.weight("w", "bfloat16", [N, K]);
    const master =
      run.device.masterDType === "uint16"
        ? run.filled("master", "uint16", [w.elements], () => 0)
        : run.parameter("master", w, { at: w.at });
    const y = run.parameter("y", w, { output: true });
    run.run(({ ops }) => ops.addMasters(y, w, master));
    run.check(y, (i) => Math.fround(y.at(i) + w.at(i)), exactly, { rows: 6, columns: 6 });
  });
}

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

export const optimizerOps: OpTable<"adamw" | "addMasters" | "sumSquares"> = {
  adamw: {
    // reads and writes master, m, v; reads g; in bfloat16 also writes w, and reads it if it is a half of the master
    cost: (_, w, master, m, v, g) =>
      memory(
        bytesOf(g) + 2 * (bytesOf(m) + bytesOf(v)) + 2 * bytesOf(master) + writtenBeside(w, master),
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
      halved,
    ],
    real: ({ V: N, D: K }) =>
      computeDTypes.map((dtype) => {
        const one = adamw({ N, K, w: shortOf(dtype), decay: 0.1, beta2: 0.99, scale: 0.5, later: true });
        return timed("training", dtype, { N, K }, one);
      }),
  },
  addMasters: {
    cost: (_, y, w, master) =>
      memory(2 * bytesOf(y) + bytesOf(master) + (master.dtype === "uint16" ? weightBytes(w) : 0), w.elements),
    cases: [
      addMasters(33, 31),
      masters({ N: 37, K: null, first: 16 }),
      masters({ N: 33, K: 31, first: 16 }),
      masters({ N: 48, K: 33, first: 32 }),
      masters({ N: 70, K: 8000, first: 64 }), // more than is whole at once
    ],
    real: ({ V: N, D: K }) => [timed("training", "bfloat16", { N, K }, addMasters(N, K))],
  },
  sumSquares: {
    cost: (_, _sum, x) => memory(bytesOf(x), 2 * elementCount(x.shape)),
    cases: [...[0, 1, 31, 33, 16384, 16385, 50001].map(sumSquares), ...extremes],
    // as large as the embedding's gradient
    real: ({ V, D }) => [timed("training", "float32", { n: V * D }, sumSquares(V * D))],
  },
};
