/** Sampling: which tokens, how often, from which random number; and what is recorded of them. */
import type { SamplingSettings } from "../../../src/device/device.ts";
import { rows } from "../../../src/tensor/tensor.ts";
import { type CaseRun, exactly, type OpCase, opCase } from "../harness.ts";
import type { Slot } from "../memory.ts";
import { logSoftmax } from "../reference.ts";
import { chiSquare, chiSquareLimit, cumulative, distribution, tokenAt, uniformFor } from "../reference-sampling.ts";

/** A log-sum-exp in float32 and a difference, of logits of a few units divided by temperatures from 0.6. */
const LOGPROB = 1e-5;
/**
 * Float32 exponentials move the running sum by about 1e-7 of it, so nearer to an edge than this either token is right: random
 * numbers are chosen that keep away from edges, and then every draw is checked.
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

function outputs(run: CaseRun, B: number, suffix = "") {
  const output = (what: string, dtype: "int32" | "float32") =>
    run.slot(`${what}${suffix}`, dtype, [B], null, { output: true });
  return {
    ids: output("ids", "int32"),
    logprob: output("logprob", "float32"),
    sampling: output("samplingLogprob", "float32"),
  };
}

/**
 * Counters of B sequences: position, sample, prompt, step, and each its own slot. The prompt is drawn until `takes` agrees;
 * about half do with the vocabulary of Qwen, and nearly all with a small one.
 */
function counterRows(run: CaseRun, B: number, takes: (counters: readonly number[]) => boolean = () => true): Slot {
  const row = (b: number): readonly number[] => {
    for (let tries = 0; tries < 100; tries++) {
      const counters = [b, b % 7, run.random.integer(1 << 20), b % 5 === 0 ? -1 : 1 + (b % 3), b];
      if (takes(counters)) return counters;
    }
    throw new Error("nearly every draw is near an edge: choose other settings");
  };
  return run.slot("counters", "int32", [B, 5], Array.from({ length: B }, (_, b) => row(b)).flat());
}

/** Bit sets of `slots` sequences that have all seen the same tokens. */
function seenBits(run: CaseRun, slots: number, V: number, ids: ReadonlySet<number>): Slot {
  const words = new Uint32Array(Math.ceil(V / 32));
  for (const id of ids) words[id >> 5]! |= 1 << (id & 31);
  const all = Array.from({ length: slots }, () => [...words]).flat();
  return run.slot("seen", "uint32", [slots, words.length], all, { output: true });
}

const isSeen = (bits: Float64Array, slot: number, V: number, id: number) =>
  ((bits[slot * Math.ceil(V / 32) + (id >> 5)]! >>> (id & 31)) & 1) === 1;

function expectThat(condition: boolean, path: string, what: string): void {
  if (!condition) throw new Error(`on ${path}: ${what}`);
}

interface DrawSettings extends Partial<SamplingSettings> {
  readonly V: number;
  readonly draws: number;
  /** All logits equal: what is kept then is a matter of ids alone. */
  readonly equal?: boolean;
  /** Standard deviation of the logits: with a large vocabulary a wider one leaves room between the edges of tokens. */
  readonly spread?: number;
}

/**
 * Many draws from one row: each token as its random number predicts it, their frequencies by χ², both log-probabilities
 * of each. With a repetition penalty a third of the tokens have been seen before.
 */
function draws(settings: DrawSettings): OpCase {
  return opCase("sample", { ...settings }, (run) => {
    const { V, draws, equal = false, spread = 2, ...chosen } = settings;
    // Frequencies say less then, each draw as much.
    const B = run.slow ? Math.max(Math.min(draws, 6), Math.ceil(draws / 10)) : draws;
    const s = { ...plain, ...chosen };
    const logits = run.slot(
      "logits",
      "float32",
      [2, V],
      equal ? new Array(2 * V).fill(1.5) : run.random.normal(2 * V, spread),
    );
    const row = logits.values.slice(V);
    const logitRow = run.slot("logitRow", "int32", [B], new Array(B).fill(1));
    const before = new Set([...row.keys()].filter((i) => s.repetitionPenalty !== 1 && i % 3 === 1));
    const { probabilities, margin } = distribution(row, before, s);
    if (margin < EDGE) throw new Error(`a token lies within ${margin} of a cut: choose other settings`);
    const sums = cumulative(probabilities);
    const drawn = (counters: ArrayLike<number>) => tokenAt(sums, uniformFor(counters, s.seed, s.stream));
    const counters = counterRows(run, B, (each) => drawn(each).margin >= EDGE);
    const out = outputs(run, B);
    const seen = s.repetitionPenalty === 1 ? null : seenBits(run, B, V, before);
    run.run(({ ops }) => ops.sample(out.ids, out.logprob, out.sampling, logits, logitRow, counters, seen, s));

    const { logp } = logSoftmax(row, s.temperature || 1);
    const predicted = Array.from({ length: B }, (_, b) => drawn(counters.values.subarray(b * 5, b * 5 + 5)).id);
    const [logprob, sampling] = [run.values(out.logprob), run.values(out.sampling)];
    const marks = seen ? run.values(seen) : null;
    for (const [path, ids] of run.values(out.ids)) {
      const counts = new Float64Array(V);
      for (const [b, id] of ids.entries()) {
        expectThat(predicted[b] === id, path, `draw ${b} is ${id}, not ${predicted[b]}`);
        counts[id]!++;
        const [full, warped] = [logprob.get(path)![b]!, sampling.get(path)![b]!];
        expectThat(Math.abs(full - logp[id]!) <= LOGPROB, path, `logprob ${b} is ${full}, not ${logp[id]}`);
        const want = Math.log(probabilities[id]!);
        expectThat(Math.abs(warped - want) <= LOGPROB, path, `samplingLogprob ${b} is ${warped}, not ${want}`);
        if (marks) expectThat(isSeen(marks.get(path)!, b, V, id), path, `token ${id} of draw ${b} is unmarked`);
      }
      const { value, freedom } = chiSquare(counts, probabilities);
      expectThat(value <= (freedom > 0 ? chiSquareLimit(freedom) : 1e-9), path, `χ² ${value} with ${freedom} degrees`);
    }
  });
}

interface GreedySettings {
  readonly V: number;
  readonly steps: number;
  readonly repetitionPenalty: number;
}

/** Temperature 0: the largest logit, the lowest id among equals; each token drawn counts as seen in the next step. */
function greedy(settings: GreedySettings): OpCase {
  return opCase("sample", { temperature: 0, ...settings }, (run) => {
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
      run.check(out.logprob, column("full"), { absolute: LOGPROB });
      run.check(out.sampling, column("drawn"), { absolute: LOGPROB });
    }
  });
}

/** A row with a NaN, with +∞ or without any finite logit gives −1; −∞ is only never drawn, and neighbours go on. */
function notFinite(temperature: number): OpCase {
  return opCase("sample", { values: "nan-inf", temperature }, (run) => {
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
      const u = uniformFor(counters.values.subarray(b * 5, b * 5 + 5), plain.seed, plain.stream);
      return tokenAt(cumulative(probabilities), u).id;
    });
    run.check(out.ids, [tokens[0]!, -1, -1, -1, -1, V - 1, tokens[1]!], exactly);
    for (const [path, logprob] of run.values(out.logprob)) {
      const exact = run.paths.some(({ name, equalBits }) => name === path && equalBits);
      const certain = Math.abs(logprob[5]!) <= (exact ? 0 : LOGPROB); // the only token there is
      expectThat(certain && [0, 6].every((b) => logprob[b]! < 0), path, "a good row's logprob is not its own");
    }
  });
}

/** The same counters draw the same token, with the same bits recorded, wherever in whichever batch they stand. */
function anyBatch(settings: Partial<SamplingSettings>): OpCase {
  return opCase("sample", { rows: "any-batch", ...settings }, (run) => {
    const [B, V] = [33, 259];
    const s = { ...plain, ...settings };
    const logits = run.slot("logits", "float32", [B, V], run.random.normal(B * V, 2));
    const order = run.random.permutation(B);
    const counters = counterRows(run, B);
    const shuffled = order.flatMap((b) => [...counters.values.subarray(b * 5, b * 5 + 5)]);
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
const streams: OpCase = opCase("sample", { streams: "differ" }, (run) => {
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
      Math.floor(uniformFor(counters.values.subarray(b * 5, b * 5 + 5), s.seed, s.stream) * V),
    );
    run.check(each[i]!.ids, want, exactly);
  }
});

export const sampleCases: readonly OpCase[] = [
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
  // more tokens near a cut than are ranked one against another
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
  draws({ V: 151936, draws: 12, spread: 4, topK: 50, temperature: 0.7 }),
  draws({ V: 151936, draws: 12, spread: 4, minP: 0.001 }),
  greedy({ V: 259, steps: 6, repetitionPenalty: 1.8 }),
  greedy({ V: 31, steps: 2, repetitionPenalty: 1 }),
  notFinite(1),
  notFinite(0),
  notFinite(0.7),
  anyBatch({}),
  anyBatch({ temperature: 0.7, topP: 0.9, topK: 40, minP: 0.01 }),
  streams,
];
