/** Flat float32 work, conversions of type, and moves of rows: all exact. */
import { bfloat16ToNumber, numberToBfloat16 } from "../../../src/tensor/dtype.ts";
import { elementCount } from "../../../src/tensor/tensor.ts";
import {
  bfloat16Gradients,
  dtypes,
  type OpTable,
  opCase,
  picks,
  type Run,
  type Settings,
  type ShortDType,
  type SuiteRun,
  timed,
} from "../case.ts";
import { bytesOf, memory } from "../cost.ts";
import { packedTokens, type Shapes } from "../shapes.ts";
import { exactly } from "../tolerance.ts";

const lengths = [0, 1, 31, 33, 16385] as const;

function add(n: number) {
  return opCase("add", { n }, (run: Run) => {
    const y = run.input("y", "float32", [n], { output: true });
    const x = run.input("x", "float32", [n]);
    run.run(({ ops }) => ops.add(y, x));
    run.check(y, (i) => Math.fround(y.at(i) + x.at(i)), exactly);
  });
}

/** Flat work on a matrix runs over all of its elements. */
function scale(settings: Settings, shape: readonly number[], factor: number) {
  return opCase("scale", settings, (run: Run) => {
    const x = run.input("x", "float32", shape, { output: true });
    run.run(({ ops }) => ops.scale(x, factor));
    run.check(x, (i) => Math.fround(x.at(i) * Math.fround(factor)), exactly);
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

interface RowSettings {
  readonly T: number;
  readonly N: number;
  readonly D: number;
  readonly dy?: ShortDType;
}

function gather(settings: RowSettings) {
  const { T, N, D } = settings;
  return opCase("gatherRows", { ...settings }, (run: Run) => {
    const x = run.input("x", "float32", [T, D]);
    const picked = Array.from({ length: N }, (_, i) => (i === 0 ? T - 1 : run.random.integer(T)));
    const index = run.filled("index", "int32", [N], (i) => picked[i]!);
    const y = run.output("y", "float32", [N, D]);
    run.run(({ ops }) => ops.gatherRows(y, x, index));
    run.check(y, (i) => x.at(picked[Math.floor(i / D)]! * D + (i % D)), exactly);
  });
}

function scatter(settings: RowSettings) {
  const { T, N, D, dy: dtype = "f32" } = settings;
  return opCase("scatterRows", { ...settings }, (run: Run) => {
    const dy = run.input("dy", dtypes[dtype], [N, D]);
    const order = run.random.permutation(T);
    const picked = order.slice(0, N);
    const index = run.filled("index", "int32", [N], (i) => picked[i]!);
    const dx = run.input("dx", "float32", [T, D], { output: true });
    run.run(({ ops }) => {
      for (let times = run.times; times > 0; times--) ops.scatterRows(dx, dy, index);
    });
    const from = new Map(picked.map((row, i) => [row, i]));
    const want = (i: number) => {
      const row = from.get(Math.floor(i / D));
      return row === undefined ? 0 : dy.at(row * D + (i % D));
    };
    run.check(dx, want, exactly, { rows: picks(T, 15).map((i) => order[i]!) });
  });
}

const kinds: readonly (readonly [ShortDType, ShortDType])[] = [
  ["f32", "f32"],
  ["f32", "bf16"],
  ["bf16", "f32"],
  ["bf16", "bf16"],
];

/** As large as the embedding's gradient: clipping, the optimizer's casts. */
const size = ({ V, D }: Shapes) => V * D;
/** The rows of the head among all. */
const rowsOfHead = (s: Shapes) => ({ T: packedTokens(s), N: s.samples * s.completion, D: s.D });

export const flatOps: OpTable<"scale" | "add" | "fill" | "cast" | "gatherRows" | "scatterRows"> = {
  scale: {
    cost: (_, x) => memory(2 * bytesOf(x), elementCount(x.shape)),
    cases: [...lengths.map((n) => scale({ n }, [n], 0.37)), scale({ T: 3, D: 11 }, [3, 11], 2)],
    // Its own inverse: any number of runs stays finite.
    real: (s) => [timed("training", "float32", { n: size(s) }, scale({}, [size(s)], -1))],
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
  gatherRows: {
    cost: (_, y, _x, index) => memory(2 * bytesOf(y) + bytesOf(index)),
    cases: [gather({ T: 1, N: 1, D: 1 }), gather({ T: 33, N: 50, D: 31 })],
    real: (s) => [timed("training", "float32", { ...rowsOfHead(s) }, gather(rowsOfHead(s)))],
  },
  scatterRows: {
    // All rows are set to zero first, those of dy written again.
    cost: (_, dx, dy, index) => ({ ...memory(bytesOf(dx) + bytesOf(dy) + bytesOf(index)), between: bytesOf(dy) }),
    cases: [
      scatter({ T: 1, N: 1, D: 1 }),
      scatter({ T: 50, N: 33, D: 31 }),
      scatter({ T: 20, N: 0, D: 5 }),
      bfloat16Gradients(scatter({ T: 50, N: 33, D: 31, dy: "bf16" })),
    ],
    real: (s) => [timed("training", "float32", { ...rowsOfHead(s) }, scatter(rowsOfHead(s)))],
  },
};
