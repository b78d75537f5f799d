/** The tokens of a decode step, rows of the embedding, and their gradient where ids repeat. */
import {
  computeDTypes,
  dtypes,
  type OpTable,
  opCase,
  picks,
  type Run,
  type ShortDType,
  shortOf,
  timed,
} from "../case.ts";
import { bytesOf, memory, rowsOf, weightBytes } from "../cost.ts";
import { packedTokens, usesOf } from "../shapes.ts";
import { exactly, type Tolerance } from "../tolerance.ts";

/** A row's gradient is a sum of one term per occurrence of the id, of any sign and about 1 each. */
const sums: Tolerance = { relative: 2 ** -20, absolute: 1e-5 };

interface Settings {
  readonly T: number;
  readonly V: number;
  readonly D: number;
  readonly w: ShortDType;
}

/** Ids with both ends of the vocabulary and many repeats; `among`: from this many ids. */
function idsOf(run: Run, { T, V }: Settings, among: number) {
  const ids = Array.from({ length: T }, (_, t) =>
    t === 0 ? V - 1 : t === 1 ? 0 : run.random.integer(Math.min(V, among)),
  );
  return run.filled("ids", "int32", [T], (t) => ids[t]!);
}

function forward(settings: Settings, among = 9) {
  const { T, V, D } = settings;
  return opCase("embeddingForward", { ...settings }, (run: Run) => {
    const w = run.weight("w", dtypes[settings.w], [V, D]);
    const ids = idsOf(run, settings, among);
    const x = run.output("x", "float32", [T, D]);
    run.run(({ ops }) => ops.embeddingForward(x, ids, w));
    run.check(x, (i) => w.at(ids.at(Math.floor(i / D)) * D + (i % D)), exactly);
  });
}

function backward(settings: Settings, among = 9) {
  const { T, V, D } = settings;
  return opCase("embeddingBackward", { ...settings }, (run: Run) => {
    const w = run.weight("w", dtypes[settings.w], [V, D]);
    const ids = idsOf(run, settings, among);
    const dx = run.input("dx", "float32", [T, D]);
    const dw = run.parameter("dw", w, { output: true });
    run.run(({ ops }) => {
      for (let times = run.times; times > 0; times--) ops.embeddingBackward(dw, dx, ids, w);
    });
    const tokens = new Map<number, number[]>();
    for (let t = 0; t < T; t++) tokens.set(ids.at(t), [...(tokens.get(ids.at(t)) ?? []), t]);
    const grown = (i: number) => {
      const rows = tokens.get(Math.floor(i / D)) ?? [];
      return rows.reduce((sum, t) => sum + run.times * dx.at(t * D + (i % D)), dw.at(i));
    };
    run.check(dw, grown, sums, { rows: [...picks(V, 3), ...picks(T, 9).map((t) => ids.at(t))] });
    const loss = (moved: (i: number) => number) => {
      let sum = 0;
      for (let i = 0; i < T * D; i++) sum += dx.at(i) * moved(ids.at(Math.floor(i / D)) * D + (i % D));
      return sum;
    };
    run.differences(dw, w.at, loss, { absolute: 1e-4 }, run.times);
  });
}

const small = [
  { T: 1, V: 1, D: 1 },
  { T: 33, V: 259, D: 31 },
  { T: 100, V: 40, D: 130 },
  { T: 300, V: 5, D: 1100 },
].flatMap((size): Settings[] => [
  { ...size, w: "f32" },
  { ...size, w: "bf16" },
]);

/** As in a real packed batch: about half as many distinct ids as tokens. */
const different = (T: number) => Math.ceil(T / 2);

/** Rows that keep their token, rows that take a sampled one, two of them the same, and one that was not sampled. */
function next(B: number) {
  return opCase("nextTokens", { B }, (run: Run) => {
    const sampled = Array.from({ length: B }, (_, i) => (i % 5 === 3 ? -1 : run.random.integer(50_000)));
    const rows = Array.from({ length: B }, (_, b) => (b % 3 === 1 ? -1 : run.random.integer(B)));
    const ids = run.filled("ids", "int32", [B], (i) => sampled[i]!);
    const from = run.filled("from", "int32", [B], (b) => rows[b]!);
    const tokens = run.filled("tokens", "int32", [B], (b) => 7 * b, { output: true });
    run.run(({ ops }) => ops.nextTokens(tokens, ids, from));
    run.check(tokens, (b) => (rows[b]! < 0 ? 7 * b : Math.max(sampled[rows[b]!]!, 0)), exactly);
  });
}

export const embeddingOps: OpTable<"nextTokens" | "embeddingForward" | "embeddingBackward"> = {
  nextTokens: {
    cost: (_, tokens, _ids, from) => memory(2 * bytesOf(tokens) + bytesOf(from)),
    cases: [1, 3, 64, 300].map(next),
    real: (s) => s.batches.map((B) => timed("decode", "float32", { B }, next(B))),
  },
  embeddingForward: {
    cost: (_, x, ids, w) => memory(bytesOf(x) + bytesOf(ids) + rowsOf(x) * (weightBytes(w) / (w.shape[0] ?? 1))),
    cases: small.map((settings) => forward(settings)),
    real: (s) =>
      computeDTypes.flatMap((dtype) =>
        usesOf(s).map(([use, T]) => {
          const size = { T, V: s.V, D: s.D };
          return timed(use, dtype, size, forward({ ...size, w: shortOf(dtype) }, different(T)));
        }),
      ),
  },
  embeddingBackward: {
    cost: (_, _dw, dx, ids) => memory(3 * bytesOf(dx) + bytesOf(ids), rowsOf(dx) * (dx.shape[1] ?? 1)),
    cases: small.map((settings) => backward(settings)),
    real: (s) => {
      const size = { T: packedTokens(s), V: s.V, D: s.D };
      return [timed("training", "float32", size, backward({ ...size, w: "f32" }, different(size.T)))];
    },
  },
};
