/** Rows of the embedding, and their gradient where ids repeat. */
import { dtypes, exactly, type OpCase, opCase, type ShortDType, type Tolerance } from "../harness.ts";

/** A row's gradient is a sum of as many terms as the id occurs, of any sign and about 1 each. */
const sums: Tolerance = { relative: 2 ** -20, absolute: 1e-5 };

interface Settings {
  readonly T: number;
  readonly V: number;
  readonly D: number;
  readonly w: ShortDType;
}

/** Ids with both ends of the vocabulary and many repeats. */
function idsOf(random: { integer(below: number): number }, T: number, V: number): number[] {
  return Array.from({ length: T }, (_, t) => (t === 0 ? V - 1 : t === 1 ? 0 : random.integer(Math.min(V, 9))));
}

function forward(settings: Settings): OpCase {
  const { T, V, D } = settings;
  return opCase("embeddingForward", { ...settings }, (run) => {
    const w = run.weight("w", dtypes[settings.w], [V, D], run.random.normal(V * D));
    const ids = run.slot("ids", "int32", [T], idsOf(run.random, T, V));
    const x = run.slot("x", "float32", [T, D], null, { output: true });
    run.run(({ ops }) => ops.embeddingForward(x, ids, w));
    const want = Float64Array.from(
      { length: T * D },
      (_, i) => w.values[ids.values[Math.floor(i / D)]! * D + (i % D)]!,
    );
    run.check(x, want, exactly);
  });
}

function backward(settings: Settings): OpCase {
  const { T, V, D } = settings;
  return opCase("embeddingBackward", { ...settings }, (run) => {
    const w = run.weight("w", dtypes[settings.w], [V, D], run.random.normal(V * D));
    const ids = run.slot("ids", "int32", [T], idsOf(run.random, T, V));
    const dx = run.slot("dx", "float32", [T, D], run.random.normal(T * D));
    const dw = run.parameter("dw", w, run.random.normal(V * D), true);
    run.run(({ ops }) => {
      ops.embeddingBackward(dw, dx, ids, w);
      ops.embeddingBackward(dw, dx, ids, w);
    });
    const want = Float64Array.from(dw.values);
    for (const [i, value] of dx.values.entries()) want[ids.values[Math.floor(i / D)]! * D + (i % D)]! += 2 * value;
    run.check(dw, want, sums);
    const loss = (moved: Float64Array) =>
      dx.values.reduce((sum, grad, i) => sum + grad * moved[ids.values[Math.floor(i / D)]! * D + (i % D)]!, 0);
    run.differences(dw, w.values, loss, { absolute: 1e-4 }, 2);
  });
}

const sizes = [
  { T: 1, V: 1, D: 1 },
  { T: 33, V: 259, D: 31 },
  { T: 100, V: 40, D: 130 },
  { T: 300, V: 5, D: 1100 },
] as const;

export const embeddingCases: readonly OpCase[] = [
  ...sizes.flatMap((size) => [forward({ ...size, w: "f32" }), forward({ ...size, w: "bf16" })]),
  ...sizes.flatMap((size) => [backward({ ...size, w: "f32" }), backward({ ...size, w: "bf16" })]),
];
