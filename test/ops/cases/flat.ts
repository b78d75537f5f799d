/** Flat float32 work, conversions of type, and moves of rows: all exact. */
import { numberToBfloat16 } from "../../../src/tensor/dtype.ts";
import { bfloat16Gradients, dtypes, exactly, type OpCase, opCase, type ShortDType } from "../harness.ts";

const lengths = [0, 1, 31, 33, 16385] as const;

function flat(op: "scale" | "add" | "fill", n: number): OpCase {
  return opCase(op, { n }, (run) => {
    const y = run.slot("y", "float32", [n], run.random.normal(n), { output: true });
    const x = run.slot("x", "float32", [n], run.random.normal(n));
    run.run(({ ops }) => {
      if (op === "scale") ops.scale(y, 0.37);
      else if (op === "add") ops.add(y, x);
      else ops.fill(y, -1.5);
    });
    const factor = Math.fround(0.37);
    const want = y.values.map((value, i) =>
      op === "scale" ? Math.fround(value * factor) : op === "add" ? Math.fround(value + x.values[i]!) : -1.5,
    );
    run.check(y, want, exactly);
  });
}

function cast(from: ShortDType, to: ShortDType, n: number): OpCase {
  return opCase("cast", { from, to, n }, (run) => {
    const x = run.slot("x", dtypes[from], [n], run.random.normal(n, 100));
    const y = run.slot("y", dtypes[to], [n], null, { output: true });
    // what the reference would be stored as is what the kernel must store
    const rounding = run.slot("rounded", dtypes[to], [n], x.values);
    run.run(({ ops }) => ops.cast(y, x));
    run.check(y, rounding.values, exactly);
  });
}

/** Ties to even, the largest values, subnormals, infinities and NaN, bit for bit, in whole vectors and in a tail. */
const roundings: OpCase = opCase("cast", { from: "f32", to: "bf16", values: "every-rounding" }, (run) => {
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

function gather(settings: RowSettings): OpCase {
  const { T, N, D } = settings;
  return opCase("gatherRows", { ...settings }, (run) => {
    const x = run.slot("x", "float32", [T, D], run.random.normal(T * D));
    const picked = Array.from({ length: N }, (_, i) => (i === 0 ? T - 1 : run.random.integer(T)));
    const index = run.slot("index", "int32", [N], picked);
    const y = run.slot("y", "float32", [N, D], null, { output: true });
    run.run(({ ops }) => ops.gatherRows(y, x, index));
    run.check(
      y,
      picked.flatMap((r) => [...x.values.subarray(r * D, (r + 1) * D)]),
      exactly,
    );
  });
}

function scatter(settings: RowSettings): OpCase {
  const { T, N, D, dy: dtype = "f32" } = settings;
  return opCase("scatterRows", { ...settings }, (run) => {
    const dy = run.slot("dy", dtypes[dtype], [N, D], run.random.normal(N * D));
    const picked = run.random.permutation(T).slice(0, N);
    const index = run.slot("index", "int32", [N], picked);
    const dx = run.slot("dx", "float32", [T, D], run.random.normal(T * D), { output: true });
    run.run(({ ops }) => {
      ops.scatterRows(dx, dy, index);
      ops.scatterRows(dx, dy, index);
    });
    const want = new Float64Array(T * D);
    for (const [i, r] of picked.entries()) want.set(dy.values.subarray(i * D, (i + 1) * D), r * D);
    run.check(dx, want, exactly);
  });
}

/** Flat work on a matrix runs over all of its elements. */
const twoDimensions: OpCase = opCase("scale", { T: 3, D: 11 }, (run) => {
  const x = run.slot("x", "float32", [3, 11], run.random.normal(33), { output: true });
  run.run(({ ops }) => ops.scale(x, 2));
  run.check(
    x,
    x.values.map((value) => 2 * value),
    exactly,
  );
});

const kinds: readonly (readonly [ShortDType, ShortDType])[] = [
  ["f32", "f32"],
  ["f32", "bf16"],
  ["bf16", "f32"],
  ["bf16", "bf16"],
];

export const flatCases: readonly OpCase[] = [
  ...(["scale", "add", "fill"] as const).flatMap((op) => lengths.map((n) => flat(op, n))),
  twoDimensions,
  ...kinds.flatMap(([from, to]) => [1, 33, 16400].map((n) => cast(from, to, n))),
  roundings,
  gather({ T: 1, N: 1, D: 1 }),
  gather({ T: 33, N: 50, D: 31 }),
  scatter({ T: 1, N: 1, D: 1 }),
  scatter({ T: 50, N: 33, D: 31 }),
  scatter({ T: 20, N: 0, D: 5 }),
  bfloat16Gradients(scatter({ T: 50, N: 33, D: 31, dy: "bf16" })),
];
