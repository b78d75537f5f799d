/** The LM head on one chunk of rows, and drawing tokens from logits. */
import { SAMPLE_COUNTERS, type SamplingSettings } from "../../src/device/device.ts";
import { bytesPerElement, type ComputeDType } from "../../src/tensor/dtype.ts";
import {
  type Benches,
  computeDTypes,
  EXPONENTIAL,
  near,
  type OpBench,
  operandRounding,
  picks,
  sizesText,
} from "./case.ts";
import type { Shapes } from "./shapes.ts";
import type { Input, InputWeight, Values, Workspace } from "./workspace.ts";

/** Logits of size 8 and more, differences of them, and float32's exponential. */
const TOLERANCE = 2 ** -16;
const START = 0.5;

/** log softmax of `count` logits: log-sum-exp and entropy in nats. */
function softmaxOf(count: number, logit: Values): { lse: number; entropy: number; logits: Float64Array } {
  const logits = Float64Array.from({ length: count }, (_, i) => logit(i));
  const top = logits.reduce((a, b) => Math.max(a, b));
  const lse = top + Math.log(logits.reduce((sum, x) => sum + Math.exp(x - top), 0));
  const entropy = logits.reduce((sum, x) => sum - Math.exp(x - lse) * (x - lse), 0);
  return { lse, entropy, logits };
}

/** The head's logits are kept near 1: a row of hidden states against the vocabulary, over √D. */
const temperatureOf = ({ D }: Shapes) => Math.sqrt(D);

function logitOf(hidden: Input, weight: InputWeight, row: number, { D, ...s }: Shapes): Values {
  const x = Float64Array.from({ length: D }, (_, d) => hidden.at(row * D + d));
  const temperature = temperatureOf({ D, ...s });
  return (v) => {
    let sum = 0;
    for (let d = 0; d < D; d++) sum += x[d]! * weight.at(v * D + d);
    return sum / temperature;
  };
}

function headBuffers(w: Workspace, s: Shapes, dtype: ComputeDType) {
  const { headRows: N, V, D } = s;
  const target = (row: number) => (row * 7919 + 13) % V;
  const range = Array.from({ length: N + 1 }, (_, i) => i);
  return {
    target,
    hidden: w.input("hidden", dtype, [N, D]),
    weight: w.weight("w", dtype, [V, D]),
    logits: w.output("logits", "float32", [N, V]),
    logprob: w.output("logprob", "float32", [N]),
    entropy: w.output("entropy", "float32", [N]),
    lse: w.output("lse", "float32", [N]),
    entryStart: w.integers("entry start", [N + 1], range),
    targets: w.integers("targets", [N], range.slice(0, N).map(target)),
  };
}

function forward(s: Shapes, dtype: ComputeDType): OpBench {
  const { headRows: N, V, D } = s;
  return {
    op: "lmHeadForward",
    use: "training",
    dtype,
    sizes: sizesText({ N, V, D }),
    flops: N * V * (2 * D + EXPONENTIAL),
    bytes: (N * D + V * D) * bytesPerElement(dtype) + 4 * N * V,
    open(w) {
      const b = headBuffers(w, s, dtype);
      return {
        run: () =>
          w.device.ops.lmHeadForward(
            ...([b.logprob, b.entropy, b.lse, b.logits, b.hidden, b.weight, b.entryStart, b.targets] as const),
            temperatureOf(s),
          ),
        verify() {
          const [logprob, entropy, lse] = [w.values(b.logprob), w.values(b.entropy), w.values(b.lse)];
          for (const r of picks(N, 2)) {
            const want = softmaxOf(V, logitOf(b.hidden, b.weight, r, s));
            near(`lse[${r}]`, lse[r], want.lse, TOLERANCE * Math.abs(want.lse));
            near(`logprob[${r}]`, logprob[r], want.logits[b.target(r)]! - want.lse, TOLERANCE * Math.abs(want.lse));
            near(`entropy[${r}]`, entropy[r], want.entropy, TOLERANCE * want.entropy);
          }
        },
      };
    },
  };
}

function backward(s: Shapes, dtype: ComputeDType): OpBench {
  const { headRows: N, V, D } = s;
  return {
    op: "lmHeadBackward",
    use: "training",
    dtype,
    sizes: sizesText({ N, V, D }),
    flops: N * V * (6 * D + EXPONENTIAL + 6),
    bytes: (N * D + V * D) * bytesPerElement(dtype) + 4 * (N * V + N * D + 2 * V * D),
    open(w) {
      const b = headBuffers(w, s, dtype);
      const temperature = temperatureOf(s);
      const dlogprob = w.input("dlogprob", "float32", [N]);
      const dentropy = w.input("dentropy", "float32", [N]);
      const dhidden = w.output("dhidden", "float32", [N, D]);
      const dw = w.input("dw", "float32", [b.weight.elements], () => START);
      const inputs = [b.hidden, b.weight, b.entryStart, b.targets] as const;
      w.device.ops.lmHeadForward(b.logprob, b.entropy, b.lse, b.logits, ...inputs, temperature);
      return {
        run: () =>
          w.device.ops.lmHeadBackward(
            ...([dhidden, dw, b.logits, dlogprob, dentropy, ...inputs, b.lse, b.entropy] as const),
            temperature,
          ),
        verify() {
          const [lse, entropy] = [w.values(b.lse), w.values(b.entropy)];
          // The slopes of the logits are float32, and what both products round where the weight is bfloat16.
          const rounds = w.roundsOperands && dtype === "bfloat16";
          const rounded = (terms: Float64Array) => (rounds ? operandRounding(terms) : 0);
          const slope = (r: number, v: number, logit: number) => {
            const logp = logit - lse[r]!;
            const p = Math.exp(logp);
            const ofTarget = dlogprob.at(r) * ((v === b.target(r) ? 1 : 0) - p);
            return (ofTarget - dentropy.at(r) * p * (logp + entropy[r]!)) / temperature;
          };
          const [last] = picks(N, 2).slice(-1) as [number];
          const logits = softmaxOf(V, logitOf(b.hidden, b.weight, last, s)).logits;
          const slopes = logits.map((z, v) => slope(last, v, z));
          const row = w.values(dhidden, last);
          const size = slopes.reduce((sum, g) => sum + Math.abs(g), 0);
          for (const d of picks(D, 4)) {
            const terms = slopes.map((g, v) => g * b.weight.at(v * D + d));
            const want = terms.reduce((sum, term) => sum + term, 0);
            near(`dhidden[${last}, ${d}]`, row[d], want, TOLERANCE * (size + Math.abs(want)) + rounded(terms));
          }
          for (const v of [b.target(0), ...picks(V, 3)]) {
            const grads = Float64Array.from({ length: N }, (_, r) => slope(r, v, logitOf(b.hidden, b.weight, r, s)(v)));
            const size = grads.reduce((sum, g) => sum + Math.abs(g), START);
            const got = w.parameterRow(dw, b.weight, v);
            for (const d of picks(D, 3)) {
              const terms = grads.map((g, r) => g * b.hidden.at(r * D + d));
              const want = terms.reduce((sum, term) => sum + term, START);
              near(`dw[${v}, ${d}]`, got[d], want, TOLERANCE * size + rounded(terms));
            }
          }
        },
      };
    },
  };
}

interface Draw {
  readonly B: number;
  readonly V: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly penalty?: number;
}

function sample({ B, V, topK = 0, topP = 1, penalty = 1 }: Draw): OpBench {
  const settings: SamplingSettings = {
    seed: 42,
    stream: 0,
    temperature: 1,
    topK,
    topP,
    minP: 0,
    repetitionPenalty: penalty,
  };
  const truncated = topK > 0 || topP < 1;
  return {
    op: "sample",
    use: "decode",
    dtype: "float32",
    sizes: sizesText({
      B,
      V,
      ...(topK > 0 ? { topK } : {}),
      ...(topP < 1 ? { topP } : {}),
      ...(penalty === 1 ? {} : { penalty }),
    }),
    flops: B * V * (2 * EXPONENTIAL + 6),
    bytes: 4 * B * V,
    open(w) {
      const logits = w.input("logits", "float32", [B, V]);
      const [ids, logprob] = [w.output("ids", "int32", [B]), w.output("logprob", "float32", [B])];
      const drawn = w.output("sampling logprob", "float32", [B]);
      const each = <T>(value: (b: number) => T) => Array.from({ length: B }, (_, b) => value(b));
      const logitRow = w.integers(
        "logit row",
        [B],
        each((b) => B - 1 - b),
      );
      const counters = w.integers("counters", [B, SAMPLE_COUNTERS], each((b) => [b, 0, 1, 2, b]).flat());
      const words = Math.ceil(V / 32);
      const marks =
        penalty === 1
          ? null
          : w.integers(
              "seen",
              [B, words],
              each((b) => b % 2).flatMap((bit) => Array(words).fill(bit)),
            );
      const seen = marks && { ...marks, dtype: "uint32" as const };
      const draw = (s: SamplingSettings) =>
        w.device.ops.sample(ids, logprob, drawn, logits, logitRow, counters, seen, s);
      return {
        run: () => draw(settings),
        verify() {
          for (const greedy of [false, true]) {
            if (greedy) draw({ ...settings, temperature: 0, repetitionPenalty: 1 });
            const [id, full, own] = [w.values(ids), w.values(logprob), w.values(drawn)];
            for (const b of picks(B, 3)) {
              const want = softmaxOf(V, (v) => logits.at((B - 1 - b) * V + v));
              const chosen = id[b]!;
              if (greedy) near(`greedy id[${b}]`, chosen, want.logits.indexOf(Math.max(...want.logits)), 0);
              near(`id[${b}]`, chosen, V / 2 - 0.5, V / 2);
              near(`logprob[${b}]`, full[b], want.logits[chosen]! - want.lse, TOLERANCE * want.lse);
              // What was cut off raises the rest; without a cut the two are one.
              if (!greedy && penalty === 1)
                near(
                  `sampling logprob[${b}]`,
                  own[b],
                  truncated ? full[b]! / 2 : full[b]!,
                  truncated ? -full[b]! / 2 : 1e-4,
                );
            }
          }
        },
      };
    },
  };
}

export function headBenches(s: Shapes): Benches<"lmHeadForward" | "lmHeadBackward" | "sample"> {
  const largest = Math.max(...s.batches);
  return {
    lmHeadForward: computeDTypes.map((dtype) => forward(s, dtype)),
    lmHeadBackward: computeDTypes.map((dtype) => backward(s, dtype)),
    sample: [
      ...s.batches.map((B) => sample({ B, V: s.V })),
      sample({ B: largest, V: s.V, topK: 50, topP: 0.95 }),
      sample({ B: largest, V: s.V, penalty: 1.1 }),
    ],
  };
}
