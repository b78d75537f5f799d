/** The LM head: log-probabilities of several targets per row, entropies, their gradients, and agreement with sampling. */
import { bytesPerElement } from "../../../src/tensor/dtype.ts";
import { elementCount, rows } from "../../../src/tensor/tensor.ts";
import {
  computeDTypes,
  dtypes,
  memo,
  type OpTable,
  opCase,
  picks,
  type Run,
  type ShortDType,
  type SuiteRun,
  shortOf,
  timed,
  type Values,
} from "../case.ts";
import { bytesOf, optional, product, rowsOf, weightBytes } from "../cost.ts";
import { grown, logSoftmax, type SoftmaxRow, sumOfProducts } from "../reference.ts";
import { gradientType, type Shapes } from "../shapes.ts";
import { exactly, rounded, roundedOperands, type Sum, type Tolerance } from "../tolerance.ts";

/** Logits of a few units, off by the product's rounding, plus a log-sum-exp and a difference. */
const logprobs: Tolerance = { absolute: 1e-5, relative: 2e-6 };
/** Two results, each with that error. */
const apart: Tolerance = { absolute: 2e-5, relative: 4e-6 };
/** Slopes are off by as much as the log-sum-exp: a few 2⁻¹⁹ of up to 12. */
const gradients: Tolerance = { magnitude: 2 ** -18, operands: roundedOperands };
const slope: Tolerance = { absolute: 1e-4, relative: 1e-4, operands: { absolute: 2e-2 } };

interface Settings {
  readonly N: number;
  readonly V: number;
  readonly D: number;
  readonly w: ShortDType;
  readonly temperature: number;
}

/** Targets per row: one, none, and several as at the end of a group's prompt. Entry numbers start at `from`. */
function entriesOf(N: number, from: number): number[] {
  const counts = Array.from({ length: N }, (_, r) => [1, 1, 0, 5, 1, 2][r % 6]!);
  const starts = [from];
  for (const count of counts) starts.push(starts.at(-1)! + count);
  return starts;
}

/** Entries of other chunks on both sides of this one's. */
const FIRST_ENTRY = 3;

function buffers(run: Run, { N, V, D, w: dtype }: Settings) {
  const starts = entriesOf(N, FIRST_ENTRY);
  const entries = starts.at(-1)! + 2;
  const rowOf = (e: number) => starts.findLastIndex((start) => start <= e);
  const lastEntry = starts.at(-1)! - 1;
  const hidden = run.input("hidden", dtypes[dtype], [N, D]);
  const w = run.weight("w", dtypes[dtype], [V, D], { deviation: 2 / Math.sqrt(D) });
  const logits = run.output("logits", "float32", [N, V]);
  const entryStart = run.filled("entryStart", "int32", [N + 1], (r) => starts[r]!);
  const drawn = Array.from({ length: entries }, (_, e) => (e === FIRST_ENTRY ? V - 1 : run.random.integer(V)));
  const targets = run.filled("targets", "int32", [entries], (e) => drawn[e]!);
  const inside = (e: number) => e >= FIRST_ENTRY && e <= lastEntry;
  /** An entry of the first row, one of the last row that has any, and these rows: each row costs a whole vocabulary. */
  const some = { entries: [FIRST_ENTRY, lastEntry], rows: [0, rowOf(lastEntry)] };
  return { starts, entries, rowOf, hidden, w, logits, entryStart, targets, inside, some };
}

/** Float64 logits before the temperature. */
function logitOf(hidden: Values, w: Values, D: number) {
  const row = memo((r) => Float64Array.from({ length: D }, (_, d) => hidden(r * D + d)));
  return (r: number, v: number): number => {
    const x = row(r);
    let sum = 0;
    for (let d = 0; d < D; d++) sum += x[d]! * w(v * D + d);
    return sum;
  };
}

function softmaxRows(hidden: Values, w: Values, { V, D, temperature }: Settings): (row: number) => SoftmaxRow {
  const logit = logitOf(hidden, w, D);
  return memo((r) =>
    logSoftmax(
      Float64Array.from({ length: V }, (_, v) => logit(r, v)),
      temperature,
    ),
  );
}

function forward(settings: Settings) {
  const { N, temperature } = settings;
  return opCase("lmHeadForward", { ...settings }, (run: Run) => {
    const b = buffers(run, settings);
    const logprob = run.input("logprob", "float32", [b.entries], { output: true });
    const [entropy, lse] = [run.output("entropy", "float32", [N]), run.output("lse", "float32", [N])];
    run.run(({ ops }) =>
      ops.lmHeadForward(logprob, entropy, lse, b.logits, b.hidden, b.w, b.entryStart, b.targets, temperature),
    );
    const wanted = softmaxRows(b.hidden.at, b.w.at, settings);
    const logprobOf = (e: number) => (b.inside(e) ? wanted(b.rowOf(e)).logp[b.targets.at(e)]! : logprob.at(e));
    run.check(logprob, logprobOf, logprobs, { rows: [0, ...b.some.entries, b.entries - 1] });
    run.check(entropy, (r) => wanted(r).entropy, logprobs, b.some);
    run.check(lse, (r) => wanted(r).lse, logprobs, b.some);
  });
}

/** @param settings `frozen`: the weight is not trained, so dw is absent; `once`: on the logits that forward left */
function backward(
  settings: Settings & { readonly grad?: ShortDType; readonly frozen?: boolean; readonly once?: boolean },
) {
  const { N, V, D, temperature, grad = "f32", frozen = false, once = false } = settings;
  return opCase("lmHeadBackward", { ...settings }, (run: Run) => {
    const b = buffers(run, settings);
    const { hidden, w, entryStart, targets, starts } = b;
    const forwardPass = softmaxRows(hidden.at, w.at, settings);
    const entropy = run.saved("entropy", "float32", [N], (r) => forwardPass(r).entropy);
    const lse = run.saved("lse", "float32", [N], (r) => forwardPass(r).lse);
    const dlogprob = run.input("dlogprob", "float32", [b.entries]);
    const dentropy = run.input("dentropy", "float32", [N]);
    const dhidden = run.output("dhidden", dtypes[grad], [N, D]);
    const dw = frozen ? null : run.parameter("dw", w, { output: true });
    run.save(({ ops }) => {
      const logprob = run.output("logprob", "float32", [b.entries]);
      ops.lmHeadForward(logprob, entropy, lse, b.logits, hidden, w, entryStart, targets, temperature);
    });
    run.run(({ ops }) => {
      for (let times = run.times; times > 0; times--) {
        if (once) ops.matmulForward(b.logits, hidden, w, null);
        ops.lmHeadBackward(
          ...([dhidden, dw, b.logits, dlogprob, dentropy, hidden, w, entryStart, targets, lse, entropy] as const),
          ...([temperature, !once] as const),
        );
      }
    });
    const logit = logitOf(hidden.at, w.at, D);
    /**
     * d log p_t / d z_j = [j = t] − p_j,  d H / d z_j = −p_j (log p_j + H),  z = logits / temperature; `size` is the scale of an error
     * of the log-sum-exp and of H.
     */
    const dlogit = (r: number, j: number) => {
      const logp = logit(r, j) / temperature - lse.at(r);
      const p = Math.exp(logp);
      let slope = -dentropy.at(r) * p * (logp + entropy.at(r));
      let size = Math.abs(dentropy.at(r)) * p + Math.abs(slope);
      for (let e = starts[r]!; e < starts[r + 1]!; e++) {
        const hit = targets.at(e) === j ? 1 : 0;
        slope += dlogprob.at(e) * (hit - p);
        size += Math.abs(dlogprob.at(e)) * (hit + p);
      }
      return { slope: slope / temperature, size: size / temperature };
    };
    const ofRow = memo((r) => Array.from({ length: V }, (_, j) => dlogit(r, j)));
    const ofToken = memo((j) => Array.from({ length: N }, (_, r) => dlogit(r, j)));
    const summed = (slopes: ReturnType<typeof ofRow>, other: Values): Sum => {
      const magnitude = slopes.reduce((sum, { size }, i) => sum + size * Math.abs(other(i)), 0);
      return { ...sumOfProducts(slopes.length, (i) => slopes[i]!.slope, other), magnitude };
    };
    const wantedHidden = (i: number) => summed(ofRow(Math.floor(i / D)), (v) => w.at(v * D + (i % D)));
    run.check(dhidden, wantedHidden, rounded(gradients, dtypes[grad]), { rows: b.some.rows.slice(1), columns: 4 });
    const weightGradient = (i: number) => summed(ofToken(Math.floor(i / D)), (r) => hidden.at(r * D + (i % D)));
    if (dw) {
      const wanted = (i: number) => grown(dw.at(i), weightGradient(i), run.times);
      // Tokens that are targets, and other tokens.
      run.check(dw, wanted, gradients, { rows: [targets.at(FIRST_ENTRY + 1), ...picks(V, 3)], columns: 4 });
    }
    const loss = (hidden: Values, w: Values) => {
      const rowAt = softmaxRows(hidden, w, settings);
      let sum = 0;
      for (let r = 0; r < N; r++) {
        sum += dentropy.at(r) * rowAt(r).entropy;
        for (let e = starts[r]!; e < starts[r + 1]!; e++) sum += dlogprob.at(e) * rowAt(r).logp[targets.at(e)]!;
      }
      return sum;
    };
    if (grad === "f32") run.differences(dhidden, hidden.at, (moved) => loss(moved, w.at), slope);
    if (dw) run.differences(dw, w.at, (moved) => loss(hidden.at, moved), slope, run.times);
  });
}

/**
 * Sampling records exactly what training computes, bit for bit: each row's logits computed alone and sampled in a batch of one,
 * compared with all rows at once (promise 2).
 */
function asSampled(settings: Settings) {
  const { N, V, temperature } = settings;
  return opCase("lmHeadForward", { rows: "as-sampled", ...settings }, (run: SuiteRun) => {
    const b = buffers(run, settings);
    const decodeLogits = run.output("decode logits", "float32", [N, V]);
    const row = run.slot("logitRow", "int32", [N], new Array(N).fill(0));
    const counters = run.slot(
      "counters",
      "int32",
      [N, 5],
      Array.from({ length: N * 5 }, (_, i) => (i % 5 === 0 ? i : 0)),
    );
    const ids = run.output("ids", "int32", [N]);
    const sampled = run.output("logprob", "float32", [N]);
    const drawn = run.output("samplingLogprob", "float32", [N]);
    const entryStart = run.slot(
      "one entry a row",
      "int32",
      [N + 1],
      Array.from({ length: N + 1 }, (_, r) => r),
    );
    const trained = run.output("trained logprob", "float32", [N]);
    const entropy = run.output("entropy", "float32", [N]);
    const lse = run.output("lse", "float32", [N]);
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
function chunks(settings: Settings) {
  const { N, temperature } = settings;
  return opCase("lmHeadForward", { rows: "in-chunks", ...settings }, (run: SuiteRun) => {
    const b = buffers(run, settings);
    const outputs = (name: string) => ({
      logprob: run.output(`logprob ${name}`, "float32", [b.entries]),
      entropy: run.output(`entropy ${name}`, "float32", [N]),
      lse: run.output(`lse ${name}`, "float32", [N]),
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

/** Logits of −∞ have probability zero; a NaN among a row's logits makes its results NaN. */
function special(values: "nan-row" | "nan-logit") {
  return opCase("lmHeadForward", { values }, (run: SuiteRun) => {
    const [N, V, D] = [3, 37, 1];
    const weights = run.random.normal(V * D);
    weights[5] = Number.NEGATIVE_INFINITY;
    if (values === "nan-logit") weights[20] = Number.NaN;
    const w = run.weightOf("w", "float32", [V, D], weights);
    const hidden = run.slot("hidden", "float32", [N, D], [1, values === "nan-row" ? Number.NaN : 0.5, 2]);
    const logits = run.output("logits", "float32", [N, V]);
    const entryStart = run.slot("entryStart", "int32", [N + 1], [0, 1, 2, 3]);
    const targets = run.slot("targets", "int32", [N], [5, 0, 36]);
    const output = (name: string) => run.output(name, "float32", [N]);
    const [logprob, entropy, lse] = [output("logprob"), output("entropy"), output("lse")];
    run.run(({ ops }) => ops.lmHeadForward(logprob, entropy, lse, logits, hidden, w, entryStart, targets, 1));
    const wanted = softmaxRows(hidden.at, w.at, { N, V, D, w: "f32", temperature: 1 });
    run.check(lse, (r) => wanted(r).lse, logprobs);
    run.check(entropy, (r) => wanted(r).entropy, logprobs);
    run.check(logprob, (r) => wanted(r).logp[targets.at(r)]!, logprobs);
  });
}

/** If the forward pass found a NaN, the row's gradient is NaN too, so that the gradient norm shows it. */
const nanGradient = opCase("lmHeadBackward", { values: "nan-row" }, (run: SuiteRun) => {
  const [N, V, D] = [2, 37, 3];
  const w = run.weight("w", "float32", [V, D]);
  const hidden = run.input("hidden", "float32", [N, D]);
  const logits = run.output("logits", "float32", [N, V]);
  const entryStart = run.slot("entryStart", "int32", [N + 1], [0, 1, 2]);
  const targets = run.slot("targets", "int32", [N], [3, 4]);
  const row = (name: string, bad: number, good: number) => run.slot(name, "float32", [N], [bad, good]);
  const [dlogprob, dentropy] = [row("dlogprob", 1, 1), row("dentropy", 0, 0)];
  const [lse, entropy] = [row("lse", Number.NaN, 4), row("entropy", Number.NaN, 3)];
  const dhidden = run.output("dhidden", "float32", [N, D]);
  const dw = run.parameter("dw", w, { at: () => 0, output: true });
  run.run(({ ops }) =>
    ops.lmHeadBackward(dhidden, dw, logits, dlogprob, dentropy, hidden, w, entryStart, targets, lse, entropy, 1, true),
  );
  for (const [path, values] of run.values(dhidden)) {
    const [bad, good] = [values.subarray(0, D), values.subarray(D)];
    if (!bad.every(Number.isNaN) || !good.every(Number.isFinite)) throw new Error(`on ${path}: dhidden is ${values}`);
  }
});

/** Equal logits of any size: −log V each, entropy log V, without overflow. */
const flat = opCase("lmHeadForward", { values: "flat" }, (run: SuiteRun) => {
  const [N, V] = [3, 259];
  const w = run.weightOf("w", "float32", [V, 1], new Array(V).fill(1));
  const hidden = run.slot("hidden", "float32", [N, 1], [0, 1e30, -1e30]);
  const logits = run.output("logits", "float32", [N, V]);
  const entryStart = run.slot("entryStart", "int32", [N + 1], [0, 0, 0, 0]);
  const targets = run.slot("targets", "int32", [1], [0]);
  const logprob = run.slot("logprob", "float32", [1], [5], { output: true });
  const [entropy, lse] = ["entropy", "lse"].map((name) => run.output(name, "float32", [N]));
  run.run(({ ops }) => ops.lmHeadForward(logprob, entropy!, lse!, logits, hidden, w, entryStart, targets, 1));
  run.check(entropy!, new Array(N).fill(Math.log(V)), logprobs);
  run.check(lse!, [Math.log(V), 1e30, -1e30], logprobs);
  run.check(logprob, [5], exactly);
});

const temperatures = [0, 0.1, 0.3, 0.6, 0.7, 0.85, 0.9, 1, 1.1, 1.3, 1.7, 2.5] as const;

/** A chunk of rows. A logit sums `D` products of numbers near 1; the temperature keeps logits small. */
const chunk = ({ headRows: N, V, D }: Shapes, w: ShortDType) => ({ N, V, D, w, temperature: Math.sqrt(D) });
const named = ({ headRows: N, V, D }: Shapes) => ({ N, V, D });

export const headOps: OpTable<"lmHeadForward" | "lmHeadBackward"> = {
  lmHeadForward: {
    // The logits are read again: no kernel here keeps them in registers.
    cost: (_, _logprob, _entropy, _lse, logits, hidden, w) => ({
      ...product(rowsOf(hidden), w, bytesOf(hidden) + weightBytes(w) + bytesOf(logits)),
      exponentials: elementCount(logits.shape),
      between: bytesOf(logits),
      own: bytesOf(logits),
    }),
    cases: [
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
    ],
    real: (s) => computeDTypes.map((dtype) => timed("training", dtype, named(s), forward(chunk(s, shortOf(dtype))))),
  },
  lmHeadBackward: {
    cost: (_, dhidden, dw, logits, _dlogprob, _dentropy, hidden, w, ...rest) => {
      const recompute = rest.at(-1) === true;
      const [one, elements] = [product(rowsOf(hidden), w, 0), elementCount(logits.shape)];
      const dlogits = elements * bytesPerElement(w.dtype);
      return {
        ...one,
        bytes: bytesOf(hidden) + weightBytes(w) + bytesOf(logits) + bytesOf(dhidden) + 2 * optional(dw),
        flops: (1 + (recompute ? 1 : 0) + (dw ? 1 : 0)) * one.flops,
        exponentials: elements,
        // Both products write and read logits and their gradients.
        between: (recompute ? bytesOf(hidden) + weightBytes(w) + bytesOf(logits) : 0) + 3 * dlogits,
        own: bytesOf(logits) + dlogits,
      };
    },
    cases: [
      backward({ N: 1, V: 1, D: 1, w: "f32", temperature: 1 }),
      backward({ N: 13, V: 59, D: 33, w: "f32", temperature: 1 }),
      backward({ N: 13, V: 59, D: 33, w: "f32", temperature: 1, frozen: true }),
      backward({ N: 13, V: 259, D: 24, w: "f32", temperature: 0.7 }),
      backward({ N: 13, V: 59, D: 33, w: "f32", temperature: 1, once: true }),
      backward({ N: 19, V: 100, D: 31, w: "bf16", temperature: 1.3, grad: "bf16", once: true }),
      backward({ N: 4, V: 9001, D: 5, w: "f32", temperature: 0.9 }),
      backward({ N: 19, V: 100, D: 31, w: "bf16", temperature: 1.3 }),
      backward({ N: 19, V: 100, D: 31, w: "bf16", temperature: 1.3, grad: "bf16" }),
      nanGradient,
    ],
    real: (s) =>
      computeDTypes.map((dtype) => {
        const settings = { ...chunk(s, shortOf(dtype)), grad: shortOf(gradientType(s, dtype)) };
        return timed("training", dtype, named(s), backward(settings));
      }),
  },
};
