/** Parameters converted into the device's layout and back: every source type, in parts, padding included. */
import type { Ops } from "../../../src/device/device.ts";
import { numberToBfloat16 } from "../../../src/tensor/dtype.ts";
import { dtypes, type OpCase, type OpName, opCase, type ShortDType, type SuiteRun } from "../case.ts";
import { exactly } from "../tolerance.ts";

/** IEEE 754 binary16 to a number. */
function half(bits: number): number {
  const [exponent, fraction, sign] = [(bits >> 10) & 31, bits & 1023, bits & 0x8000 ? -1 : 1];
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

/** All 65,536 float16 values, as a norm's weight and as a matrix. */
function halves(to: ShortDType, shape: readonly number[]) {
  return opCase("loadParameter", { from: "f16", to, shape: shape.join("×") }, (run: SuiteRun) => {
    const bits = Float64Array.from({ length: 65536 }, (_, i) => i);
    const source = run.slot("halves", "float16", [65536], bits);
    const w = run.weightOf("shape", "float32", shape, new Float64Array(65536));
    const target = run.output("w", dtypes[to], [65536]);
    const back = run.output("back", "float32", [65536]);
    run.run((device) => {
      const loaded = { ...w, address: target.address, dtype: dtypes[to] };
      device.loadParameter(loaded, source.address, "float16", 0, shape[0]!);
      device.saveParameter(back.address, "float32", loaded, 0, shape[0]!);
    });
    const expected = Float64Array.from(bits, half);
    run.check(back, to === "f32" ? expected : expected.map(roundTo), exactly);
  });
}

/** The nearest bfloat16. */
function roundTo(x: number): number {
  if (Number.isNaN(x)) return x;
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, numberToBfloat16(x) << 16);
  return view.getFloat32(0);
}

interface LoadSettings {
  readonly N: number;
  readonly K: number;
  readonly from: ShortDType;
  readonly to: ShortDType;
  /** Rows to load, and to save, at once. */
  readonly at: number;
}

/** A matrix loaded and saved in parts that begin and end inside its panels. */
function roundTrip(settings: LoadSettings) {
  const { N, K, at } = settings;
  const [from, to] = [dtypes[settings.from], dtypes[settings.to]];
  return opCase("saveParameter", { ...settings }, (run: SuiteRun) => {
    const source = run.slot("source", from, [N, K], run.random.normal(N * K));
    const w = run.weightOf("w", to, [N, K], source.values);
    const flat = run.output("packed", to, [w.elements]);
    const back = run.output("back", from, [N, K]);
    run.run((device) => {
      const packed = { ...w, address: flat.address };
      const size = from === "float32" ? 4 : 2;
      for (let r = 0; r < N; r += at)
        device.loadParameter(packed, source.address + r * K * size, from, r, Math.min(at, N - r));
      for (let r = 0; r < N; r += at)
        device.saveParameter(back.address + r * K * size, from, packed, r, Math.min(at, N - r));
    });
    const stored = run.values(flat);
    const narrow = from === "float32" && to === "bfloat16";
    run.check(back, narrow ? source.values.map(roundTo) : source.values, exactly);
    // padding is zero, and all other elements are present
    for (const [path, values] of stored) {
      const zeros = values.filter((x) => x === 0).length;
      if (zeros !== w.elements - N * K) throw new Error(`on ${path}: ${zeros} zeros, ${w.elements - N * K} of padding`);
    }
  });
}

/** Some rows of a matrix are replaced; the others stay unchanged. */
const someRows = opCase("loadParameter", { N: 40, K: 5, rows: "10…29" }, (run: SuiteRun) => {
  const [N, K] = [40, 5];
  const w = run.weight("w", "float32", [N, K]);
  const flat = run.parameter("packed", w, { at: w.at, output: true });
  const source = run.slot("source", "float32", [20, K], run.random.normal(20 * K));
  const read = run.output("read", "float32", [7, K]);
  run.run((device) => {
    const packed = { ...w, address: flat.address };
    device.loadParameter(packed, source.address, "float32", 10, 20);
    device.saveParameter(read.address, "float32", packed, 27, 7);
  });
  const want = (i: number) => (i >= 10 * K && i < 30 * K ? source.values[i - 10 * K]! : w.at(i));
  run.check(flat, want, exactly);
  run.check(read, (i) => want(27 * K + i), exactly);
});

/** A norm's weight or a bias, loaded and saved in parts. */
const vector = opCase("saveParameter", { N: 37, to: "bf16" }, (run: SuiteRun) => {
  const source = run.slot("source", "float32", [37], run.random.normal(37));
  const target = run.output("w", "bfloat16", [37]);
  const back = run.output("back", "float32", [37]);
  const w = { name: "w", address: target.address, dtype: "bfloat16", shape: [37], elements: 37 } as const;
  run.run((device) => {
    device.loadParameter(w, source.address, "float32", 0, 20);
    device.loadParameter(w, source.address + 80, "float32", 20, 17);
    device.saveParameter(back.address, "float32", w, 0, 5);
    device.saveParameter(back.address + 20, "float32", w, 5, 32);
  });
  run.check(back, source.values.map(roundTo), exactly);
});

const kinds: readonly (readonly [ShortDType, ShortDType])[] = [
  ["f32", "f32"],
  ["f32", "bf16"],
  ["bf16", "f32"],
  ["bf16", "bf16"],
];

/** The device's own functions for parameters, which are not ops: none of them is timed. */
export const weightWays: Readonly<Record<Exclude<OpName, keyof Ops>, { readonly cases: readonly OpCase[] }>> = {
  loadParameter: {
    cases: [
      halves("f32", [65536]),
      halves("bf16", [65536]),
      halves("f32", [64, 1024]),
      halves("bf16", [64, 1024]),
      someRows,
    ],
  },
  saveParameter: {
    cases: [
      ...kinds.map(([from, to]) => roundTrip({ N: 37, K: 31, from, to, at: 37 })),
      ...kinds.map(([from, to]) => roundTrip({ N: 50, K: 7, from, to, at: 11 })),
      roundTrip({ N: 16, K: 3, from: "f32", to: "f32", at: 16 }),
      roundTrip({ N: 1, K: 1, from: "f32", to: "f32", at: 1 }),
      vector,
    ],
  },
};
