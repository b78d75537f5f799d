/** Elementwise float32 work and type conversions: all exact. */
import { bfloat16ToNumber, numberToBfloat16 } from "../../../src/tensor/dtype.ts";
import { elementCount } from "../../../src/tensor/tensor.ts";
import {
  bfloat16Gradients,
  dtypes,
  type OpTable,
  opCase,
  type Run,
  type Settings,
  type ShortDType,
  type SuiteRun,
  timed,
} from "../case.ts";
import { bytesOf, memory } from "../cost.ts";
import type { Shapes } from "../shapes.ts";
import { exactly, rounded } from "../tolerance.ts";

const lengths = [0, 1, 31, 33, 16385] as const;

function add(n: number) {
  return opCase("add", { n }, (run: Run) => {
    const y = run.input("y", "float32", [n], { output: true });
    const x = run.input("x", "float32", [n]);
    run.run(({ ops }) => ops.add(y, x));
    run.check(y, (i) => Math.fround(y.at(i) + x.at(i)), exactly);
  });
}

/** Elementwise work on a matrix covers all of its elements. */
function scale(settings: Settings, shape: readonly number[], factor: number) {
  return opCase("scale", settings, (run: Run) => {
    const x = run.input("x", "float32", shape, { output: true });
    run.run(({ ops }) => ops.scale(x, factor));
    run.check(x, (i) => Math.fround(x.at(i) * Math.fround(factor)), exactly);
  });
}

/** Of what the forward pass left, whatever tanh it used. */
function softcap(n: number, cap: number, deviation: number) {
  return opCase("softcapForward", { n, cap, deviation }, (run: Run) => {
    const x = run.input("x", "float32", [n], { output: true, deviation });
    run.run(({ ops }) => ops.softcapForward(x, cap));
    run.check(x, (i) => cap * Math.tanh(x.at(i) / cap), { relative: 1e-6, absolute: 1e-30 });
  });
}

function softcapSlope(n: number, cap: number, grad: ShortDType = "f32") {
  return opCase("softcapBackward", { n, cap, grad }, (run: Run) => {
    const dx = run.input("dx", dtypes[grad], [n], { output: true });
    const z = run.input("z", "float32", [n], { deviation: 0.5 });
    const y = run.filled("y", "float32", [n], (i) => cap * Math.tanh(z.at(i)));
    run.run(({ ops }) => ops.softcapBackward(dx, y, cap));
    const want = (i: number) => dx.at(i) * (1 - (y.at(i) / cap) ** 2);
    run.check(dx, want, rounded({ relative: 1e-6, absolute: 4e-7 }, dtypes[grad]));
  });
}

function fill(n: number) {
  return opCase("fill", { n }, (run: Run) => {
    const y = run.input("y", "float32", [n], { output: true });
    run.run(({ ops }) => ops.fill(y, -1.5));
    run.check(y, () => -1.5, exactly);
  });
}

const toBfloat16 = (x: number) => bfloat16ToNumber(numberToBfloat16(Math.fround(x)));

function cast(from: ShortDType, to: ShortDType, n: number) {
  return opCase("cast", { from, to, n }, (run: Run) => {
    const x = run.input("x", dtypes[from], [n], { deviation: 100 });
    const y = run.output("y", dtypes[to], [n]);
    run.run(({ ops }) => ops.cast(y, x));
    run.check(y, (i) => (to === "bf16" ? toBfloat16(x.at(i)) : x.at(i)), exactly);
  });
}

/** Ties to even, the largest values, subnormals, infinities and NaN, bit for bit, in whole vectors and in a tail. */
const roundings = opCase("cast", { from: "f32", to: "bf16", values: "every-rounding" }, (run: SuiteRun) => {
  const patterns: number[] = [];
  for (const high of [0x0000, 0x0001, 0x007f, 0x0080, 0x3f80, 0x3f81, 0x4049, 0x7f7f, 0x7f80, 0x7f81, 0x7fc0, 0x7fff])
    for (const low of [0x0000, 0x0001, 0x7fff, 0x8000, 0x8001, 0xffff])
      for (const sign of [0, 0x8000]) patterns.push(((high | sign) << 16) | low);
  const n = patterns.length + 1;
  const source = run.slot("bits", "int32", [n], [...patterns, 0x3f808000]);
  const y = run.slot("y", "bfloat16", [n], null, { output: true });
  run.run(({ ops }) => ops.cast(y, { ...source, dtype: "float32" }));
  const view = new DataView(new ArrayBuffer(4));
  const want = Float64Array.from(source.values, (bits) => {
    view.setInt32(0, bits);
    const x = view.getFloat32(0);
    view.setUint32(0, numberToBfloat16(x) << 16);
    return Number.isNaN(x) ? Number.NaN : view.getFloat32(0);
  });
  run.check(y, want, exactly);
});

const kinds: readonly (readonly [ShortDType, ShortDType])[] = [
  ["f32", "f32"],
  ["f32", "bf16"],
  ["bf16", "f32"],
  ["bf16", "bf16"],
];

/** As large as the embedding's gradient: clipping, the optimizer's casts. */
const size = ({ V, D }: Shapes) => V * D;
export const flatOps: OpTable<"scale" | "softcapForward" | "softcapBackward" | "add" | "fill" | "cast"> = {
  scale: {
    cost: (_, x) => memory(2 * bytesOf(x), elementCount(x.shape)),
    cases: [...lengths.map((n) => scale({ n }, [n], 0.37)), scale({ T: 3, D: 11 }, [3, 11], 2)],
    // Its own inverse, so that values stay finite over any number of runs.
    real: (s) => [timed("training", "float32", { n: size(s) }, scale({}, [size(s)], -1))],
  },
  softcapForward: {
    cost: (_, x) => memory(2 * bytesOf(x), 3 * elementCount(x.shape), elementCount(x.shape)),
    cases: [...lengths.map((n) => softcap(n, 30, 40)), softcap(33, 3, 0.3), softcap(33, 30, 1e3)],
    real: (s) => [timed("training", "float32", { n: size(s) }, softcap(size(s), 30, 1))],
  },
  softcapBackward: {
    cost: (_, dx, y) => memory(2 * bytesOf(dx) + bytesOf(y), 4 * elementCount(dx.shape)),
    cases: [...lengths.map((n) => softcapSlope(n, 30)), bfloat16Gradients(softcapSlope(33, 30, "bf16"))],
    real: (s) => [timed("training", "float32", { n: size(s) }, softcapSlope(size(s), 30))],
  },
  add: {
    cost: (_, y, x) => memory(2 * bytesOf(y) + bytesOf(x), elementCount(x.shape)),
    cases: lengths.map(add),
    real: (s) => [timed("training", "float32", { n: size(s) }, add(size(s)))],
  },
  fill: {
    cost: (_, x) => memory(bytesOf(x)),
    cases: lengths.map(fill),
    real: (s) => [timed("training", "float32", { n: size(s) }, fill(size(s)))],
  },
  cast: {
    cost: (_, y, x) => memory(bytesOf(y) + bytesOf(x)),
    cases: [...kinds.flatMap(([from, to]) => [1, 33, 16400].map((n) => cast(from, to, n))), roundings],
    real: (s) => [
      timed("training", "float32", { n: size(s), from: "bfloat16" }, cast("bf16", "f32", size(s))),
      timed("training", "bfloat16", { n: size(s), from: "float32" }, cast("f32", "bf16", size(s))),
    ],
  },
};
