/** The LM head: log-probabilities of several targets a row, entropies, their gradients, and sampling's agreement. */
import { rows } from "../../../src/tensor/tensor.ts";
import {
  bfloat16Rounding,
  type CaseRun,
  dtypes,
  exactly,
  type OpCase,
  opCase,
  rounded,
  type ShortDType,
  type Tolerance,
} from "../harness.ts";
import { logSoftmax, matmul, matmulInputGradient, matmulWeightGradient, type SoftmaxRow } from "../reference.ts";

/** Logits of a few units, off by the product's rounding; a log-sum-exp and a difference on top. */
const logprobs: Tolerance = { absolute: 1e-5, relative: 2e-6 };
/** Two results that are each off by so much. */
const apart: Tolerance = { absolute: 2e-5, relative: 4e-6 };
/** Sums over the vocabulary of p·(log p + H), each a difference. */
const gradients: Tolerance = { absolute: 2e-5, relative: 2e-5, operands: { magnitude: bfloat16Rounding } };
const slope: Tolerance = { absolute: 1e-4, relative: 1e-4, operands: { absolute: 2e-2 } };

interface Settings {
  readonly N: number;
  readonly V: number;
  readonly D: number;
  readonly w: ShortDType;
  readonly temperature: number;
}

/** Targets a row: one, none, and several as at the end of a group's prompt. Entry numbers begin at `from`. */
function entriesOf(N: number, from: number): number[] {
  const counts = Array.from({ length: N }, (_, r) => [1, 1, 0, 5, 1, 2][r % 6]!);
  const starts = [from];
  for (const count of counts) starts.push(starts.at(-1)! + count);
  return starts;
}

/** Entries of other chunks on both sides of this one's. */
const FIRST_ENTRY = 3;

function buffers(run: CaseRun, { N, V, D, w: dtype }: Settings) {
  const starts = entriesOf(N, FIRST_ENTRY);
  const entries = starts.at(-1)! + 2;
  const inside = (e: number) => e >= FIRST_ENTRY && e < starts.at(-1)!;
  return {
    starts,
    entries,
    inside,
    rowOf: (e: number) => starts.findLastIndex((start) => start <= e),
    hidden: run.slot("hidden", dtypes[dtype], [N, D], run.random.normal(N * D)),
    w: run.weight("w", dtypes[dtype], [V, D], run.random.normal(V * D, 2 / Math.sqrt(D))),
    logits: run.slot("logits", "float32", [N, V], null, { output: true }),
    entryStart: run.slot("entryStart", "int32", [N + 1], starts),
    targets: run.slot(
      "targets",
      "int32",
      [entries],
      Array.from({ length: entries }, (_, e) => (e === FIRST_ENTRY ? V - 1 : run.random.integer(V))),
    ),
  };
}

function softmaxRows(hidden: Float64Array, w: Float64Array, { N, V, D, temperature }: Settings) {
  const logits = matmul(hidden, w, N, V, D).value;
  return Array.from({ length: N }, (_, r) => logSoftmax(logits.subarray(r * V, (r + 1) * V), temperature));
}

function forward(settings: Settings): OpCase {
  const { N, temperature } = settings;
  return opCase("lmHeadForward", { ...settings }, (run) => {
    const b = buffers(run, settings);
    const logprob = run.slot("logprob", "float32", [b.entries], run.random.normal(b.entries), { output: true });
    const entropy = run.slot("entropy", "float32", [N], null, { output: true });
    const lse = run.slot("lse", "float32", [N], null, { output: true });
    run.run(({ ops }) =>
      ops.lmHeadForward(logprob, entropy, lse, b.logits, b.hidden, b.w, b.entryStart, b.targets, temperature),
    );
    const wanted = softmaxRows(b.hidden.values, b.w.values, settings);
    run.check(
      logprob,
      logprob.values.map((old, e) => (b.inside(e) ? wanted[b.rowOf(e)]!.logp[b.targets.values[e]!]! : old)),
      logprobs,
    );
    run.check(
      entropy,
      wanted.map((row) => row.entropy),
      logprobs,
    );
    run.check(
      lse,
      wanted.map((row) => row.lse),
      logprobs,
    );
  });
}

/** @param settings `frozen`: the weight is not trained, so there is no dw */
function backward(settings: Settings & { readonly grad?: ShortDType; readonly frozen?: boolean }): OpCase {
  const { N, V, D, temperature, grad = "f32", frozen = false } = settings;
  return opCase("lmHeadBackward", { ...settings }, (run) => {
    const b = buffers(run, settings);
    const wanted = softmaxRows(b.hidden.values, b.w.values, settings);
    const column = (f: (row: (typeof wanted)[number]) => number) => wanted.map(f);
    const entropy = run.slot(
      "entropy",
      "float32",
      [N],
      column((row) => row.entropy),
    );
    const lse = run.slot(
      "lse",
      "float32",
      [N],
      column((row) => row.lse),
    );
    const dlogprob = run.slot("dlogprob", "float32", [b.entries], run.random.normal(b.entries));
    const dentropy = run.slot("dentropy", "float32", [N], run.random.normal(N));
    const dhidden = run.slot("dhidden", dtypes[grad], [N, D], null, { output: true });
    const dw = frozen ? null : run.parameter("dw", b.w, run.random.normal(V * D), true);
    run.run(({ ops }) => {
      for (let twice = 0; twice < 2; twice++)
        ops.lmHeadBackward(
          dhidden,
          dw,
          b.logits,
          dlogprob,
          dentropy,
          b.hidden,
          b.w,
          b.entryStart,
          b.targets,
          lse,
          entropy,
          temperature,
        );
    });
    // d log p_t / d z_j = [j = t] − p_j,  d H / d z_j = −p_j (log p_j + H),  z = logits / temperature
    const dlogits = new Float64Array(N * V);
    for (const [r, row] of wanted.entries())
      for (let j = 0; j < V; j++) {
        const p = Math.exp(row.logp[j]!);
        let sum = -dentropy.values[r]! * p * (row.logp[j]! + row.entropy);
        for (let e = b.starts[r]!; e < b.starts[r + 1]!; e++)
          sum += dlogprob.values[e]! * ((b.targets.values[e] === j ? 1 : 0) - p);
        dlogits[r * V + j] = sum / temperature;
      }
    const input = matmulInputGradient(dlogits, b.w.values, N, V, D);
    run.check(dhidden, input.value, rounded(gradients, dtypes[grad]), input.magnitude);
    const grown = matmulWeightGradient(dlogits, b.hidden.values, N, V, D);
    if (dw)
      run.check(
        dw,
        grown.value.map((value, i) => dw.values[i]! + 2 * value),
        gradients,
        grown.magnitude.map((size) => 2 * size),
      );
    const loss = (hidden: Float64Array, w: Float64Array) => {
      let sum = 0;
      for (const [r, row] of softmaxRows(hidden, w, settings).entries()) {
        sum += dentropy.values[r]! * row.entropy;
        for (let e = b.starts[r]!; e < b.starts[r + 1]!; e++)
          sum += dlogprob.values[e]! * row.logp[b.targets.values[e]!]!;
      }
      return sum;
    };
    if (grad === "f32") run.differences(dhidden, b.hidden.values, (moved) => loss(moved, b.w.values), slope);
    if (dw) run.differences(dw, b.w.values, (moved) => loss(b.hidden.values, moved), slope, 2);
  });
}

/**
 * What sampling records is what training computes, to the bit: each row's logits made alone and sampled from in a batch
 * of one, against all rows at once (promise 2).
 */
function asSampled(settings: Settings): OpCase {
  const { N, V, temperature } = settings;
  return opCase("lmHeadForward", { rows: "as-sampled", ...settings }, (run) => {
    const b = buffers(run, settings);
    const decodeLogits = run.slot("decode logits", "float32", [N, V], null, { output: true });
    const row = run.slot("logitRow", "int32", [N], new Array(N).fill(0));
    const counters = run.slot(
      "counters",
      "int32",
      [N, 5],
      Array.from({ length: N * 5 }, (_, i) => (i % 5 === 0 ? i : 0)),
    );
    const ids = run.slot("ids", "int32", [N], null, { output: true });
    const sampled = run.slot("logprob", "float32", [N], null, { output: true });
    const drawn = run.slot("samplingLogprob", "float32", [N], null, { output: true });
    const entryStart = run.slot(
      "one entry a row",
      "int32",
      [N + 1],
      Array.from({ length: N + 1 }, (_, r) => r),
    );
    const trained = run.slot("trained logprob", "float32", [N], null, { output: true });
    const entropy = run.slot("entropy", "float32", [N], null, { output: true });
    const lse = run.slot("lse", "float32", [N], null, { output: true });
    const plain = { seed: 7, stream: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 };
    run.run(({ ops }) => {
      for (let r = 0; r < N; r++) {
        const logits = rows(decodeLogits, r, 1);
        ops.matmulForward(logits, rows(b.hidden, r, 1), b.w, null);
        ops.sample(rows(ids, r, 1), rows(sampled, r, 1), rows(drawn, r, 1), logits, row, rows(counters, r, 1), null, {
          ...plain,
          temperature,
        });
      }
      ops.lmHeadForward(trained, entropy, lse, b.logits, b.hidden, b.w, entryStart, ids, temperature || 1);
    });
    run.agree(sampled, 0, trained, 0, N, apart);
    run.same(drawn, 0, sampled, 0, N);
    run.agree(decodeLogits, 0, b.logits, 0, N, apart);
  });
}

/** The same rows in one chunk, in chunks of 5, and one by one: equal bits. */
function chunks(settings: Settings): OpCase {
  const { N, temperature } = settings;
  return opCase("lmHeadForward", { rows: "in-chunks", ...settings }, (run) => {
    const b = buffers(run, settings);
    const outputs = (name: string) => ({
      logprob: run.slot(`logprob ${name}`, "float32", [b.entries], null, { output: true }),
      entropy: run.slot(`entropy ${name}`, "float32", [N], null, { output: true }),
      lse: run.slot(`lse ${name}`, "float32", [N], null, { output: true }),
    });
    const sizes = [N, 5, 1] as const;
    const results = sizes.map((size) => outputs(`by ${size}`));
    run.run(({ ops }) => {
      for (const [i, size] of sizes.entries())
        for (let r = 0; r < N; r += size) {
          const count = Math.min(size, N - r);
          const part = <T extends Parameters<typeof rows>[0]>(t: T) => rows(t, r, count);
          const { logprob, entropy, lse } = results[i]!;
          ops.lmHeadForward(
            logprob,
            part(entropy),
            part(lse),
            part(b.logits),
            part(b.hidden),
            b.w,
            rows(b.entryStart, r, count + 1),
            b.targets,
            temperature,
          );
        }
    });
    const whole = results[0]!;
    for (const other of results.slice(1))
      for (const key of ["logprob", "entropy", "lse"] as const) {
        const all = key === "logprob" ? b.entries : N;
        run.agree(other[key], 0, whole[key], 0, all, apart);
      }
  });
}

/** Logits of −∞ have no probability; a NaN among a row's logits makes its results NaN. */
function special(values: "nan-row" | "nan-logit"): OpCase {
  return opCase("lmHeadForward", { values }, (run) => {
    const [N, V, D] = [3, 37, 1];
    const weights = run.random.normal(V * D);
    weights[5] = Number.NEGATIVE_INFINITY;
    if (values === "nan-logit") weights[20] = Number.NaN;
    const w = run.weight("w", "float32", [V, D], weights);
    const hidden = run.slot("hidden", "float32", [N, D], [1, values === "nan-row" ? Number.NaN : 0.5, 2]);
    const logits = run.slot("logits", "float32", [N, V], null, { output: true });
    const entryStart = run.slot("entryStart", "int32", [N + 1], [0, 1, 2, 3]);
    const targets = run.slot("targets", "int32", [N], [5, 0, 36]);
    const output = (name: string) => run.slot(name, "float32", [N], null, { output: true });
    const [logprob, entropy, lse] = [output("logprob"), output("entropy"), output("lse")];
    run.run(({ ops }) => ops.lmHeadForward(logprob, entropy, lse, logits, hidden, w, entryStart, targets, 1));
    const wanted = softmaxRows(hidden.values, w.values, { N, V, D, w: "f32", temperature: 1 });
    const column = (f: (row: SoftmaxRow) => number) => wanted.map(f);
    run.check(
      lse,
      column((row) => row.lse),
      logprobs,
    );
    run.check(
      entropy,
      column((row) => row.entropy),
      logprobs,
    );
    run.check(
      logprob,
      wanted.map((row, r) => row.logp[targets.values[r]!]!),
      logprobs,
    );
  });
}

/** Where the forward pass found a NaN, the row's gradient is NaN too, so that the norm of the gradients shows it. */
const nanGradient: OpCase = opCase("lmHeadBackward", { values: "nan-row" }, (run) => {
  const [N, V, D] = [2, 37, 3];
  const w = run.weight("w", "float32", [V, D], run.random.normal(V * D));
  const hidden = run.slot("hidden", "float32", [N, D], run.random.normal(N * D));
  const logits = run.slot("logits", "float32", [N, V], null, { output: true });
  const entryStart = run.slot("entryStart", "int32", [N + 1], [0, 1, 2]);
  const targets = run.slot("targets", "int32", [N], [3, 4]);
  const row = (name: string, bad: number, good: number) => run.slot(name, "float32", [N], [bad, good]);
  const [dlogprob, dentropy] = [row("dlogprob", 1, 1), row("dentropy", 0, 0)];
  const [lse, entropy] = [row("lse", Number.NaN, 4), row("entropy", Number.NaN, 3)];
  const dhidden = run.slot("dhidden", "float32", [N, D], null, { output: true });
  const dw = run.parameter("dw", w, new Float64Array(V * D), true);
  run.run(({ ops }) =>
    ops.lmHeadBackward(dhidden, dw, logits, dlogprob, dentropy, hidden, w, entryStart, targets, lse, entropy, 1),
  );
  for (const [path, values] of run.values(dhidden)) {
    const [bad, good] = [values.subarray(0, D), values.subarray(D)];
    if (!bad.every(Number.isNaN) || !good.every(Number.isFinite)) throw new Error(`on ${path}: dhidden is ${values}`);
  }
});

/** Equal logits, however large: −log V each, entropy log V, without overflow. */
const flat: OpCase = opCase("lmHeadForward", { values: "flat" }, (run) => {
  const [N, V] = [3, 259];
  const w = run.weight("w", "float32", [V, 1], new Array(V).fill(1));
  const hidden = run.slot("hidden", "float32", [N, 1], [0, 1e30, -1e30]);
  const logits = run.slot("logits", "float32", [N, V], null, { output: true });
  const entryStart = run.slot("entryStart", "int32", [N + 1], [0, 0, 0, 0]);
  const targets = run.slot("targets", "int32", [1], [0]);
  const logprob = run.slot("logprob", "float32", [1], [5], { output: true });
  const [entropy, lse] = ["entropy", "lse"].map((name) => run.slot(name, "float32", [N], null, { output: true }));
  run.run(({ ops }) => ops.lmHeadForward(logprob, entropy!, lse!, logits, hidden, w, entryStart, targets, 1));
  run.check(entropy!, new Array(N).fill(Math.log(V)), logprobs);
  run.check(lse!, [Math.log(V), 1e30, -1e30], logprobs);
  run.check(logprob, [5], exactly);
});

const temperatures = [0, 0.1, 0.3, 0.6, 0.7, 0.85, 0.9, 1, 1.1, 1.3, 1.7, 2.5] as const;

export const headCases: readonly OpCase[] = [
  forward({ N: 1, V: 1, D: 1, w: "f32", temperature: 1 }),
  forward({ N: 13, V: 259, D: 33, w: "f32", temperature: 1 }),
  forward({ N: 33, V: 100, D: 24, w: "f32", temperature: 0.7 }),
  forward({ N: 13, V: 259, D: 33, w: "bf16", temperature: 1.3 }),
  forward({ N: 4, V: 20003, D: 5, w: "f32", temperature: 0.9 }),
  chunks({ N: 33, V: 259, D: 33, w: "f32", temperature: 0.7 }),
  chunks({ N: 33, V: 259, D: 33, w: "bf16", temperature: 1 }),
  ...temperatures.map((temperature) => asSampled({ N: 19, V: 259, D: 33, w: "f32", temperature })),
  asSampled({ N: 19, V: 1030, D: 64, w: "bf16", temperature: 0.9 }),
  asSampled({ N: 40, V: 33, D: 1100, w: "bf16", temperature: 1 }),
  special("nan-row"),
  special("nan-logit"),
  flat,
  backward({ N: 1, V: 1, D: 1, w: "f32", temperature: 1 }),
  backward({ N: 13, V: 59, D: 33, w: "f32", temperature: 1 }),
  backward({ N: 13, V: 59, D: 33, w: "f32", temperature: 1, frozen: true }),
  backward({ N: 13, V: 259, D: 24, w: "f32", temperature: 0.7 }),
  backward({ N: 4, V: 9001, D: 5, w: "f32", temperature: 0.9 }),
  backward({ N: 19, V: 100, D: 31, w: "bf16", temperature: 1.3 }),
  backward({ N: 19, V: 100, D: 31, w: "bf16", temperature: 1.3, grad: "bf16" }),
  nanGradient,
];
