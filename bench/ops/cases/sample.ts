/** Sampling: which tokens are drawn, how often, from which random number; and what is recorded about them. */
import { SAMPLE_COUNTERS, type SamplingSettings } from "../../../src/device/device.ts";
import { rows } from "../../../src/tensor/tensor.ts";
import { memo, type OpTable, opCase, picks, type Run, type Slot, type SuiteRun, timed } from "../case.ts";
import { memory, rowsOf } from "../cost.ts";
import { logSoftmax } from "../reference.ts";
import { chiSquare, chiSquareLimit, cumulative, distribution, tokenAt, uniformFor } from "../reference-sampling.ts";
import { exactly, type Tolerance } from "../tolerance.ts";

/** A log-sum-exp in float32 and a difference, of logits of a few units divided by temperatures from 0.6. */
const LOGPROB = 1e-5;
const logprobs: Tolerance = { absolute: LOGPROB };
/**
 * Float32 exponentials move the running sum by a relative 1e-7. Closer to an edge than this, either token is right; the random
 * numbers are chosen to stay away from edges, so that every draw can be checked.
 */
const EDGE = 2e-6;

const plain: SamplingSettings = {
  seed: 0xdeadbeef,
  stream: 1,
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
};

function outputs(run: Run, B: number, suffix = "") {
  const output = (what: string, dtype: "int32" | "float32") => run.output(`${what}${suffix}`, dtype, [B]);
  return {
    ids: output("ids", "int32"),
    logprob: output("logprob", "float32"),
    sampling: output("samplingLogprob", "float32"),
  };
}

/**
 * Counters of B sequences: position, sample, prompt, step, each with its own slot. Prompts are drawn until `takes` accepts;
 * about half pass with Qwen's vocabulary, and nearly all with a small one.
 */
function counterRows(
  run: Run,
  B: number,
  takes: (counters: readonly number[], b: number) => boolean = () => true,
): Slot {
  const row = (b: number): readonly number[] => {
    for (let tries = 0; tries < 100; tries++) {
      const counters = [b, b % 7, run.random.integer(1 << 20), b % 5 === 0 ? -1 : 1 + (b % 3), b];
      if (takes(counters, b)) return counters;
    }
    throw new Error("nearly every draw is near an edge: choose other settings");
  };
  const all = Array.from({ length: B }, (_, b) => row(b)).flat();
  return run.filled("counters", "int32", [B, SAMPLE_COUNTERS], (i) => all[i]!);
}

/** Counters of one sequence. */
const countersOf = (counters: Slot, b: number) =>
  Array.from({ length: SAMPLE_COUNTERS }, (_, i) => counters.at(b * SAMPLE_COUNTERS + i));

/** Bit sets of `slots` sequences that have all seen the same tokens. */
function seenBits(run: Run, slots: number, V: number, ids: ReadonlySet<number>): Slot {
  const words = new Uint32Array(Math.ceil(V / 32));
  for (const id of ids) words[id >> 5]! |= 1 << (id & 31);
  return run.filled("seen", "uint32", [slots, words.length], (i) => words[i % words.length]!, { output: true });
}

function expectThat(condition: boolean, what: string): void {
  if (!condition) throw new Error(what);
}

interface DrawSettings extends Partial<SamplingSettings> {
  readonly V: number;
  readonly draws: number;
  /** All logits are equal, so that only ids decide what is kept. */
  readonly equal?: boolean;
  /** Standard deviation of the logits: with a large vocabulary, a wider one leaves room between the tokens' edges. */
  readonly spread?: number;
  /** Each draw has its own logits, as in decoding; else all share one row. */
  readonly apart?: boolean;
}

/**
 * Many draws: each token as its random number predicts it, their frequencies by χ², both log-probabilities of each, and its
 * mark. With a repetition penalty, a third of the tokens have been seen before.
 */
function draws(settings: DrawSettings) {
  return opCase("sample", { ...settings }, (run: Run) => {
    const { V, draws, equal = false, spread = 2, apart = false, ...chosen } = settings;
    // Fewer draws weaken the test of frequencies, but each draw is checked just as well.
    const B = run.slow && !apart ? Math.max(Math.min(draws, 6), Math.ceil(draws / 10)) : draws;
    const s = { ...plain, ...chosen };
    const shape = [apart ? B : 2, V] as const;
    const logits = equal
      ? run.filled("logits", "float32", shape, () => 1.5)
      : run.input("logits", "float32", shape, { deviation: spread });
    const rowOf = (b: number) => (apart ? B - 1 - b : 1);
    const logitRow = run.filled("logitRow", "int32", [B], rowOf);
    const before = new Set<number>();
    if (s.repetitionPenalty !== 1) for (let id = 1; id < V; id += 3) before.add(id);
    const row = memo((r) => Float64Array.from({ length: V }, (_, v) => logits.at(r * V + v)));
    const drawnFrom = (s: SamplingSettings) =>
      memo((r) => {
        const { probabilities, margin } = distribution(row(r), before, s);
        expectThat(margin >= EDGE, `a token is within ${margin} of a cut: choose other settings`);
        return { probabilities, sums: cumulative(probabilities) };
      });
    const full = memo((r) => logSoftmax(row(r), s.temperature || 1));
    const from = drawnFrom(s);
    const drawn = (counters: ArrayLike<number>, b: number) =>
      tokenAt(from(rowOf(b)).sums, uniformFor(counters, s.seed, s.stream));
    // Each separate row has to be sorted, so only a few are used.
    const checked = picks(B, apart ? 3 : B);
    const counters = counterRows(run, B, (each, b) => !checked.includes(b) || drawn(each, b).margin >= EDGE);
    const out = outputs(run, B);
    const best = apart ? outputs(run, B, " when greedy") : null;
    const seen = s.repetitionPenalty === 1 ? null : seenBits(run, B, V, before);
    run.run(
      ({ ops }) => ops.sample(out.ids, out.logprob, out.sampling, logits, logitRow, counters, seen, s),
      ({ ops }) => {
        if (best)
          ops.sample(best.ids, best.logprob, best.sampling, logits, logitRow, counters, null, {
            ...plain,
            temperature: 0,
          });
      },
    );

    const predicted = memo((b) => drawn(countersOf(counters, b), b).id);
    const some = { rows: checked };
    run.check(out.ids, predicted, exactly, some);
    run.check(out.logprob, (b) => full(rowOf(b)).logp[predicted(b)]!, logprobs, some);
    run.check(out.sampling, (b) => Math.log(from(rowOf(b)).probabilities[predicted(b)]!), logprobs, some);
    if (seen) {
      const width = Math.ceil(V / 32);
      const marked = (i: number) => {
        const id = predicted(Math.floor(i / width));
        return (seen.at(i) | (id >> 5 === i % width ? 1 << (id & 31) : 0)) >>> 0;
      };
      run.check(seen, marked, exactly, { ...some, columns: width });
    }
    if (best) {
      const first = memo((b) => row(rowOf(b)).indexOf(row(rowOf(b)).reduce((a, c) => Math.max(a, c))));
      run.check(best.ids, first, exactly, some);
      run.check(best.logprob, (b) => full(rowOf(b)).logp[first(b)]!, logprobs, some);
    }
    if (apart) return;
    const counts = new Float64Array(V);
    for (const b of checked) counts[predicted(b)]!++;
    const { value, freedom } = chiSquare(counts, from(1).probabilities);
    expectThat(value <= (freedom > 0 ? chiSquareLimit(freedom) : 1e-9), `χ² ${value} with ${freedom} degrees`);
  });
}

interface GreedySettings {
  readonly V: number;
  readonly steps: number;
  readonly repetitionPenalty: number;
}

/** Temperature 0: the largest logit, the lowest id among ties; each drawn token counts as seen in the next step. */
function greedy(settings: GreedySettings) {
  return opCase("sample", { temperature: 0, ...settings }, (run: SuiteRun) => {
    const { V, steps, repetitionPenalty } = settings;
    const values = run.random.normal(2 * V, 3).map((x) => Math.round(x * 2) / 2); // many ties
    const logits = run.slot("logits", "float32", [2, V], values);
    const logitRow = run.slot("logitRow", "int32", [2], [1, 0]);
    const counters = counterRows(run, 2);
    const seen = seenBits(run, 2, V, new Set([0]));
    const each = Array.from({ length: steps }, (_, i) => outputs(run, 2, ` ${i}`));
    run.run(({ ops }) => {
      for (const out of each)
        ops.sample(out.ids, out.logprob, out.sampling, logits, logitRow, counters, seen, {
          ...plain,
          temperature: 0,
          topK: 3,
          repetitionPenalty,
        });
    });
    const past = [new Set([0]), new Set([0])];
    for (const out of each) {
      const wanted = [0, 1].map((b) => {
        const row = logits.values.slice((1 - b) * V, (2 - b) * V);
        const [marked, { logp }] = [past[b]!, logSoftmax(row, 1)];
        const scores = row.map((x, i) => (marked.has(i) ? (x > 0 ? x / repetitionPenalty : x * repetitionPenalty) : x));
        const id = scores.indexOf(scores.reduce((a, c) => Math.max(a, c)));
        if (repetitionPenalty !== 1) marked.add(id);
        return { id, full: logp[id]!, drawn: logSoftmax(scores, 1).logp[id]! };
      });
      const column = (key: "id" | "full" | "drawn") => wanted.map((row) => row[key]);
      run.check(out.ids, column("id"), exactly);
      run.check(out.logprob, column("full"), logprobs);
      run.check(out.sampling, column("drawn"), logprobs);
    }
  });
}

/** A row with a NaN, with +∞ or without any finite logit gives −1; −∞ is simply never drawn, and other rows are unaffected. */
function notFinite(temperature: number) {
  return opCase("sample", { values: "nan-inf", temperature }, (run: SuiteRun) => {
    const [B, V] = [7, 37];
    const values = run.random.normal(B * V);
    values[1 * V + 3] = Number.NaN;
    values[2 * V + 36] = Number.NaN; // in the tail of a vector
    values[3 * V + 8] = Number.POSITIVE_INFINITY;
    values.fill(Number.NEGATIVE_INFINITY, 4 * V, 5 * V);
    values.fill(Number.NEGATIVE_INFINITY, 5 * V, 6 * V - 1); // one left: the last
    const logits = run.slot("logits", "float32", [B, V], values);
    const logitRow = run.slot("logitRow", "int32", [B], [0, 1, 2, 3, 4, 5, 6]);
    const out = outputs(run, B);
    const counters = counterRows(run, B);
    run.run(({ ops }) =>
      ops.sample(out.ids, out.logprob, out.sampling, logits, logitRow, counters, null, { ...plain, temperature }),
    );
    const tokens = [0, 6].map((b) => {
      const { probabilities } = distribution(logits.values.slice(b * V, (b + 1) * V), new Set(), {
        ...plain,
        temperature,
      });
      const u = uniformFor(countersOf(counters, b), plain.seed, plain.stream);
      return tokenAt(cumulative(probabilities), u).id;
    });
    run.check(out.ids, [tokens[0]!, -1, -1, -1, -1, V - 1, tokens[1]!], exactly);
    for (const [path, logprob] of run.values(out.logprob)) {
      const exact = run.paths.some(({ name, equalBits }) => name === path && equalBits);
      const certain = Math.abs(logprob[5]!) <= (exact ? 0 : LOGPROB); // the only token left
      expectThat(certain && [0, 6].every((b) => logprob[b]! < 0), `on ${path}: a good row's logprob is not its own`);
    }
  });
}

/**
 * Logits that only the penalty takes beyond float32 give −1 with a finite logprob, if the largest score becomes infinite; one
 * that falls to −∞ is never drawn.
 */
function penaltyOverflows(repetitionPenalty: number, chosen: Partial<SamplingSettings>) {
  return opCase("sample", { values: "overflow", repetitionPenalty, ...chosen }, (run: SuiteRun) => {
    const [B, V] = [3, 37];
    const values = run.random.normal(B * V);
    values.fill(-3e38, 0, V); // all seen: times a penalty above 1, or divided by one below
    values[1 * V + 5] = 3e38;
    values[2 * V + 5] = -3e38;
    const logits = run.slot("logits", "float32", [B, V], values);
    const logitRow = run.slot("logitRow", "int32", [B], [0, 1, 2]);
    const seen = seenBits(run, B, V, new Set(Array.from({ length: V }, (_, id) => id)));
    const [out, counters] = [outputs(run, B), counterRows(run, B)];
    const s = { ...plain, ...chosen, repetitionPenalty };
    run.run(({ ops }) => ops.sample(out.ids, out.logprob, out.sampling, logits, logitRow, counters, seen, s));
    const infinite = repetitionPenalty > 1 ? [0] : [1];
    for (const [path, ids] of run.values(out.ids))
      for (let b = 0; b < B; b++)
        expectThat(
          infinite.includes(b) ? ids[b] === -1 : ids[b]! >= 0 && (b < 2 || ids[b] !== 5),
          `on ${path}: row ${b} gives token ${ids[b]}`,
        );
    for (const output of [out.logprob, out.sampling])
      for (const [path, values] of run.values(output))
        expectThat(values.every(Number.isFinite), `on ${path}: log-probabilities ${values}`);
  });
}

/** The same counters draw the same token, with the same recorded bits, at any place in any batch. */
function anyBatch(settings: Partial<SamplingSettings>) {
  return opCase("sample", { rows: "any-batch", ...settings }, (run: SuiteRun) => {
    const [B, V] = [33, 259];
    const s = { ...plain, ...settings };
    const logits = run.input("logits", "float32", [B, V], { deviation: 2 });
    const order = run.random.permutation(B);
    const counters = counterRows(run, B);
    const shuffled = order.flatMap((b) => countersOf(counters, b));
    const counters2 = run.slot("counters in another order", "int32", [B, 5], shuffled);
    const ascending = Array.from({ length: B }, (_, b) => b);
    const [row, row2] = [run.slot("row", "int32", [B], ascending), run.slot("row 2", "int32", [B], order)];
    const [whole, alone, other] = [outputs(run, B, " whole"), outputs(run, B, " alone"), outputs(run, B, " other")];
    run.run(({ ops }) => {
      ops.sample(whole.ids, whole.logprob, whole.sampling, logits, row, counters, null, s);
      ops.sample(other.ids, other.logprob, other.sampling, logits, row2, counters2, null, s);
      for (let b = 0; b < B; b++) {
        const [ids, logprob, sampling] = [alone.ids, alone.logprob, alone.sampling].map((t) => rows(t, b, 1));
        ops.sample(ids!, logprob!, sampling!, logits, rows(row, b, 1), rows(counters, b, 1), null, s);
      }
    });
    for (const key of ["ids", "logprob", "sampling"] as const) {
      run.same(alone[key], 0, whole[key], 0, B);
      for (const [at, b] of order.entries()) run.same(other[key], at, whole[key], b, 1);
    }
  });
}

/** Another seed, stream or step draws other tokens. */
const streams = opCase("sample", { streams: "differ" }, (run: SuiteRun) => {
  const [B, V] = [64, 259];
  const logits = run.slot("logits", "float32", [1, V], new Array(V).fill(0));
  const row = run.slot("row", "int32", [B], new Array(B).fill(0));
  const counters = counterRows(run, B);
  const variants = [plain, { ...plain, seed: 1 }, { ...plain, stream: 2 }];
  const each = variants.map((_, i) => outputs(run, B, ` ${i}`));
  run.run(({ ops }) => {
    for (const [i, s] of variants.entries()) {
      const out = each[i]!;
      ops.sample(out.ids, out.logprob, out.sampling, logits, row, counters, null, s);
    }
  });
  for (const [i, s] of variants.entries()) {
    const want = Array.from({ length: B }, (_, b) =>
      Math.floor(uniformFor(countersOf(counters, b), s.seed, s.stream) * V),
    );
    run.check(each[i]!.ids, want, exactly);
  }
});

export const sampleOps: OpTable<"sample"> = {
  sample: {
    // The scores are read again to draw from them.
    cost: (_, ids, _logprob, _sampling, logits) => {
      const read = rowsOf(ids) * (logits.shape[1] ?? 1);
      return { ...memory(4 * read, 6 * read, 2 * read), between: 4 * read };
    },
    cases: [
      draws({ V: 1, draws: 10 }),
      draws({ V: 259, draws: 4000 }),
      draws({ V: 33, draws: 4000, temperature: 0.7 }),
      draws({ V: 31, draws: 4000, temperature: 2 }),
      draws({ V: 259, draws: 4000, topK: 5 }),
      draws({ V: 259, draws: 500, topK: 1 }),
      draws({ V: 33, draws: 2000, topK: 1000 }),
      draws({ V: 259, draws: 4000, topP: 0.9 }),
      draws({ V: 259, draws: 500, topP: 1e-4 }),
      draws({ V: 259, draws: 4000, topP: 0.8, topK: 20, temperature: 0.6 }),
      draws({ V: 259, draws: 4000, minP: 0.1 }),
      draws({ V: 259, draws: 4000, minP: 0.05, topP: 0.95, topK: 50, temperature: 1.5 }),
      draws({ V: 100, draws: 4000, repetitionPenalty: 1.3 }),
      draws({ V: 100, draws: 4000, repetitionPenalty: 0.7, topP: 0.7, temperature: 1.2 }),
      // more tokens near a cut than are ranked against one another
      draws({ V: 3001, draws: 20, topK: 900, temperature: 0.9 }),
      draws({ V: 3001, draws: 20, topP: 0.95 }),
      draws({ V: 3000, draws: 20, minP: 0.001, topP: 0.9, topK: 2000, repetitionPenalty: 1.2 }),
      draws({ V: 3000, draws: 20, topK: 1700, equal: true }),
      draws({ V: 3000, draws: 20, topP: 0.7001, equal: true }),
      draws({ V: 33, draws: 2000, topK: 4, equal: true }),
      draws({ V: 33, draws: 2000, topP: 0.51, equal: true }),
      // the vocabulary of Qwen
      draws({ V: 151936, draws: 12, spread: 4 }),
      draws({ V: 151936, draws: 12, spread: 4, topP: 0.5 }),
      // the tail estimated from a part of the row, and the last token found without ranking all
      draws({ V: 9001, draws: 20, spread: 3, topP: 0.95 }),
      draws({ V: 20000, draws: 12, spread: 2, topP: 0.9, repetitionPenalty: 1.2 }),
      draws({ V: 9001, draws: 20, topP: 0.7001, equal: true }),
      draws({ V: 151936, draws: 12, spread: 4, topK: 50, temperature: 0.7 }),
      draws({ V: 151936, draws: 12, spread: 4, minP: 0.001 }),
      greedy({ V: 259, steps: 6, repetitionPenalty: 1.8 }),
      greedy({ V: 31, steps: 2, repetitionPenalty: 1 }),
      notFinite(1),
      notFinite(0),
      notFinite(0.7),
      ...[100, 0.01].flatMap((penalty) =>
        [{}, { temperature: 0 }, { topP: 0.9 }, { topK: 5, minP: 0.1 }].map((s) => penaltyOverflows(penalty, s)),
      ),
      anyBatch({}),
      anyBatch({ temperature: 0.7, topP: 0.9, topK: 40, minP: 0.01 }),
      streams,
      draws({ V: 259, draws: 7, spread: 1, apart: true }),
      draws({ V: 259, draws: 7, spread: 1, apart: true, topK: 50, topP: 0.95, repetitionPenalty: 1.1 }),
    ],
    real: (s) => {
      const [V, B] = [s.V, Math.max(...s.batches)];
      const step = (B: number, named: Record<string, number>, settings: Partial<SamplingSettings> = {}) =>
        timed("decode", "float32", { B, V, ...named }, draws({ V, draws: B, apart: true, ...settings }));
      return [
        ...s.batches.map((size) => step(size, {})),
        step(B, { topK: 50, topP: 0.95 }, { topK: 50, topP: 0.95 }),
        step(B, { penalty: 1.1 }, { repetitionPenalty: 1.1 }),
      ];
    },
  },
};
