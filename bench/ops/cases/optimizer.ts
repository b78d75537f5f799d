/** AdamW over several steps, and the sum of squares for gradient clipping. */
import type { AdamWSettings, MomentMaps, Weight } from "../../../src/device/device.ts";
import { mastersOf } from "../../../src/optim/adamw.ts";
import { bfloat16ToNumber, type ComputeDType, numberToBfloat16 } from "../../../src/tensor/dtype.ts";
import { dynamicMap, nearestCodes } from "../../../src/tensor/dynamic-map.ts";
import { elementCount, type Tensor } from "../../../src/tensor/tensor.ts";
import {
  computeDTypes,
  dtypes,
  mapped,
  memo,
  type OperandTypes,
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
import { philox } from "../reference-sampling.ts";
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

/**
 * Bytes of a parameter and its master that a step reads and writes; a parameter that is not float32 is read only if it is a half
 * of the master, or if there is none.
 */
function parameterBytes(w: Weight, master: Tensor | null): number {
  if (w.dtype === "float32") return 2 * weightBytes(w);
  if (master === null) return 2 * weightBytes(w);
  return 2 * bytesOf(master) + weightBytes(w) * (master.dtype === "uint16" ? 2 : 1);
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
  only: { on: ({ kind }: OperandTypes) => kind === "cpu", reason: "a GPU's masters are float32 (masterDType)" },
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

/** A parameter without masters stands in for them. */
const ownMasters = opCase("addMasters", { N: 33, K: 31, master: "none" }, (run: SuiteRun) => {
  const w = run.weight("w", "bfloat16", [33, 31]);
  const y = run.parameter("y", w, { output: true });
  run.run(({ ops }) => ops.addMasters(y, w, null));
  run.check(y, (i) => Math.fround(y.at(i) + w.at(i)), exactly);
});

const [signedMap, unsignedMap] = [dynamicMap(true), dynamicMap(false)];
const maps = [signedMap, unsignedMap].flatMap((map) => [...map]);
const nearest = [signedMap, unsignedMap].flatMap((map) => [...nearestCodes(map)]);

const momentMaps = (run: Run): MomentMaps => ({
  numbers: run.filled("numbers", "float32", [2, 256], (i) => maps[i]!),
  nearest: run.filled("nearest", "uint8", [2, 65_536], (i) => nearest[i]!),
});

/** bitsandbytes' quantization of a block on a CPU, but for single zeros. */
function quantized(
  numbers: readonly number[],
  isSigned: boolean,
): { readonly codes: number[]; readonly absmax: number } {
  const absmax = numbers.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  if (absmax === 0) return { codes: numbers.map(() => 0), absmax };
  const inverse = Math.fround(1 / absmax);
  const codes = numbers.map((x) => {
    if (x === 0) return isSigned ? 127 : 0;
    const normed = Math.min(1, Math.max(-1, Math.fround(x * inverse)));
    const at = Math.trunc(Math.fround(Math.fround(Math.fround(normed + 1) * 0.5) * 65_535 + 0.5));
    return nearest[at + (isSigned ? 0 : 65_536)]!;
  });
  return { codes, absmax };
}

/**
 * One step from moments in 8 bits. With betas of ½ and gradients that are exact in bfloat16 every path computes the same moments,
 * so their codes are compared exactly.
 */
function eightBit({ n, start }: { readonly n: number; readonly start: "coded" | "zero" }) {
  return opCase("adamw8bit", { n, start }, (run: SuiteRun) => {
    const blocks = Math.ceil(n / 256);
    const isZero = start === "zero";
    const code = () => (isZero ? 0 : run.random.integer(256));
    const coded = (name: string) => ({
      codes: run.slot(`${name} codes`, "uint8", [n], Array.from({ length: n }, code), { output: true }),
      absmax: run.slot(
        `${name} absmax`,
        "float32",
        [blocks],
        Array.from({ length: blocks }, () => (isZero ? 0 : (1 + run.random.integer(100)) / 64)),
        { output: true },
      ),
    });
    const [m, v] = [coded("m"), coded("v")];
    const start0 = Array.from({ length: n }, () => run.random.integer(2001) / 1000 - 1);
    const master = run.slot("master", "float32", [n], start0, { output: true });
    // Some gradients are 0, and so are all of the second block.
    const drawn = run.random.normal(n);
    const raw = Array.from({ length: n }, (_, i) =>
      i % 7 === 3 || (isZero && i >= 256) ? 0 : bfloat16ToNumber(numberToBfloat16(Math.fround(drawn[i]!))),
    );
    const g = run.slot("g", "float32", [n], raw);
    const of = momentMaps(run);
    const w = { name: "w", address: master.address, dtype: "float32", shape: [n], elements: n } as const;
    const hyper = {
      learningRate: 1e-3,
      beta1: 0.5,
      beta2: 0.5,
      epsilon: 1e-8,
      weightDecay: 0.1,
      gradientScale: 0.25,
      step: 2,
    };
    run.run(({ ops }) => ops.adamw8bit(w, master, m, v, of, g, hyper));
    const decoded = (moment: typeof m, map: Float32Array, i: number) =>
      Math.fround(map[moment.codes.at(i)]! * moment.absmax.at(Math.floor(i / 256)));
    const half = (a: number, b: number) => Math.fround(a / 2 + b / 2);
    const first = raw.map((x, i) => half(decoded(m, signedMap, i), x / 4));
    const second = raw.map((x, i) => half(decoded(v, unsignedMap, i), (x / 4) ** 2));
    for (const [moment, numbers, isSigned] of [
      [m, first, true],
      [v, second, false],
    ] as const) {
      const each = Array.from({ length: blocks }, (_, b) => quantized(numbers.slice(256 * b, 256 * b + 256), isSigned));
      run.check(
        moment.codes,
        each.flatMap(({ codes }) => codes),
        exactly,
      );
      run.check(
        moment.absmax,
        each.map(({ absmax }) => absmax),
        exactly,
      );
    }
    const want = (i: number) => {
      const mean = first[i]! / (1 - 0.5 ** 2);
      const square = second[i]! / (1 - 0.5 ** 2);
      return master.at(i) * (1 - 1e-4) - (1e-3 * mean) / (Math.sqrt(square) + 1e-8);
    };
    run.check(master, want, steps);
  });
}

/** The first step of a parameter with padding, which stays zero. */
const eightBitPadded = opCase("adamw8bit", { N: 33, K: 31 }, (run: SuiteRun) => {
  const w = run.weight("w", "float32", [33, 31], { deviation: 0.1 });
  const master = run.parameter("master", w, { at: w.at, output: true });
  const blocks = Math.ceil(w.elements / 256);
  const moment = (name: string) => ({
    codes: run.slot(`${name} codes`, "uint8", [w.elements], new Array(w.elements).fill(0), { output: true }),
    absmax: run.slot(`${name} absmax`, "float32", [blocks], new Array(blocks).fill(0), { output: true }),
  });
  const [m, v] = [moment("m"), moment("v")];
  const gradients = [run.parameter("g0", w), run.parameter("g1", w)];
  const of = momentMaps(run);
  const hyper = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.1, gradientScale: 1 };
  run.run(({ ops }) => {
    for (const [i, g] of gradients.entries())
      ops.adamw8bit({ ...w, address: master.address }, master, m, v, of, g, { ...hyper, step: i + 1 });
  });
  // In the second step a moment is off by up to half the distance of two codes, a fifth of it where they are far apart.
  const want = (i: number) => {
    const grads = gradients.map((g) => g.at(i));
    return reference({ weight: w.at(i), m: 0, v: 0 }, grads, hyper, (i) => i + 1).weight;
  };
  run.check(master, want, { absolute: 4e-4 });
});

/** A step at a model's sizes: the weight is compared, whose moments are all 0 at first. */
function eightBitReal(N: number, K: number, dtype: ComputeDType) {
  return opCase("adamw8bit", { N, K, w: shortOf(dtype) }, (run: Run) => {
    const w = run.weight("w", "float32", [N, K]);
    const low = dtype === "float32" ? null : run.parameter("low", w, { at: w.at, output: true, dtype });
    const halves = low !== null && run.device.masterDType === "uint16";
    const master = halves
      ? run.filled("master", "uint16", [w.elements], () => 0, { output: true })
      : run.parameter("master", w, { at: w.at, output: true });
    const blocks = Math.ceil(w.elements / 256);
    const zero: Values = () => 0;
    const moment = (name: string) => ({
      codes: run.filled(`${name} codes`, "uint8", [w.elements], zero, { output: true }),
      absmax: run.filled(`${name} absmax`, "float32", [blocks], zero, { output: true }),
    });
    const [m, v] = [moment("m"), moment("v")];
    const g = run.parameter("g", w);
    const of = momentMaps(run);
    const stored = { ...w, dtype, address: (low ?? master).address };
    const hyper = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, gradientScale: 1 };
    run.run(({ ops }) => ops.adamw8bit(stored, master, m, v, of, g, { ...hyper, step: 1 }));
    const want = memo((i) => reference({ weight: (low ?? w).at(i), m: 0, v: 0 }, [g.at(i)], hyper, () => 1).weight);
    run.check(low ?? master, want, low ? rounded(steps, dtype) : steps, { rows: 6, columns: 6 });
  });
}

/** Decay alone moves a parameter without masters, to numbers between two of bfloat16, which its random numbers round. */
function randomlyRounded(n: number, op: "adamw" | "adamw8bit", first = 0) {
  return opCase(op, { n, master: "none", ...(first > 0 && { first }) }, (run: SuiteRun) => {
    const values = Array.from(
      { length: n },
      () => run.random.integer(2 ** 15) + (run.random.integer(2) ? 0x8000 : 0),
    ).map((bits) =>
      // Subnormal numbers and what is not finite are left out.
      bfloat16ToNumber((bits & 0x807f) | (0x3000 + ((bits & 0x0f80) | 0x0080))),
    );
    const p = run.slot("p", "bfloat16", [n], values, { output: true });
    const zeros = (name: string, dtype: "float32" | "uint8", count: number) =>
      run.slot(name, dtype, [count], new Array(count).fill(0), { output: true });
    const g = zeros("g", "float32", n);
    const w = { name: "p", address: p.address, dtype: "bfloat16", shape: [n], elements: n } as const;
    const rounding = { seed: 0xfedcba98, stream: 7, parameter: 5, ...(first > 0 && { first }) };
    const hyper = {
      learningRate: 0.5,
      beta1: 0.9,
      beta2: 0.99,
      epsilon: 1e-8,
      weightDecay: 0.01,
      gradientScale: 1,
      step: 3,
    };
    if (op === "adamw") {
      const [m, v] = [zeros("m", "float32", n), zeros("v", "float32", n)];
      run.run(({ ops }) => ops.adamw(w, null, m, v, g, { ...hyper, rounding }));
    } else {
      const moment = (name: string) => ({
        codes: zeros(`${name} codes`, "uint8", n),
        absmax: zeros(`${name} absmax`, "float32", Math.ceil(n / 256)),
      });
      const [m, v, of] = [moment("m"), moment("v"), momentMaps(run)];
      run.run(({ ops }) => ops.adamw8bit(w, null, m, v, of, g, { ...hyper, rounding }));
    }
    const decay = Math.fround(1 - Math.fround(Math.fround(0.5) * Math.fround(0.01)));
    const want = values.map((value, i) => {
      const block = first / 8 + Math.floor(i / 8);
      const words = philox([block % 2 ** 32, Math.floor(block / 2 ** 32), 3, 5], [0xfedcba98, 7]);
      const noise = (words[Math.floor((i % 8) / 2)]! >>> (i % 2 ? 16 : 0)) & 0xffff;
      return bfloat16ToNumber((bitsOf(Math.fround(value * decay)) + noise) >>> 16);
    });
    run.check(p, want, exactly);
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

export const optimizerOps: OpTable<"adamw" | "adamw8bit" | "addMasters" | "sumSquares"> = {
  adamw: {
    // reads and writes master, m, v; reads g; in bfloat16 also writes w, and reads it if it is a half of the master
    cost: (_, w, master, m, v, g) =>
      memory(bytesOf(g) + 2 * (bytesOf(m) + bytesOf(v)) + parameterBytes(w, master), 14 * w.elements),
    cases: [
      adamw({ N: 1, K: 1, w: "f32", decay: 0, beta2: 0.999, scale: 1 }),
      adamw({ N: 33, K: 31, w: "f32", decay: 0.1, beta2: 0.999, scale: 0.37 }),
      adamw({ N: 33, K: 31, w: "bf16", decay: 0.1, beta2: 0.95, scale: 0.37 }),
      adamw({ N: 20, K: 7, w: "f32", decay: 0, beta2: 0.9999, scale: 1 }),
      adamw({ N: 259, K: 100, w: "bf16", decay: 0.01, beta2: 0.999, scale: 1 }),
      adamw({ N: 33, K: 31, w: "bf16", decay: 0.1, beta2: 0.99, scale: 0.5, later: true }),
      still,
      halved,
      ...[1, 255, 1000].map((n) => randomlyRounded(n, "adamw")),
      // A piece of a parameter, whose elements are counted on, beyond 2³² blocks too.
      ...[2048, 2 ** 36 + 8].map((first) => randomlyRounded(300, "adamw", first)),
    ],
    real: ({ V: N, D: K }) =>
      computeDTypes.map((dtype) => {
        const one = adamw({ N, K, w: shortOf(dtype), decay: 0.1, beta2: 0.99, scale: 0.5, later: true });
        return timed("training", dtype, { N, K }, one);
      }),
  },
  adamw8bit: {
    cost: (_, w, master, m, v, _maps, g) =>
      memory(
        bytesOf(g) +
          2 * [m, v].reduce((sum, { codes, absmax }) => sum + bytesOf(codes) + bytesOf(absmax), 0) +
          parameterBytes(w, master),
        26 * w.elements,
      ),
    cases: [
      ...[1, 255, 256, 257, 4099].map((n) => eightBit({ n, start: "coded" })),
      eightBit({ n: 300, start: "zero" }),
      eightBitPadded,
      ...[256, 1000].map((n) => randomlyRounded(n, "adamw8bit")),
      ...[2048, 2 ** 36 + 256].map((first) => randomlyRounded(300, "adamw8bit", first)),
    ],
    real: ({ V: N, D: K }) =>
      computeDTypes.map((dtype) => timed("training", dtype, { N, K }, eightBitReal(N, K, dtype))),
  },
  addMasters: {
    cost: (_, y, w, master) =>
      memory(
        2 * bytesOf(y) + (master ? bytesOf(master) : 0) + (master?.dtype === "float32" ? 0 : weightBytes(w)),
        w.elements,
      ),
    cases: [
      addMasters(33, 31),
      ownMasters,
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
