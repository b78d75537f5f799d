/** Attention over packed segments, forward and backward. A group is a prompt and its completions, which attend to it. */
import type { AttentionShape } from "../../../src/device/device.ts";
import type { ComputeDType } from "../../../src/tensor/dtype.ts";
import { elementCount } from "../../../src/tensor/tensor.ts";
import {
  bfloat16Gradients,
  computeDTypes,
  dtypes,
  type OpTable,
  opCase,
  type Run,
  type ShortDType,
  type Slot,
  type SuiteRun,
  shortOf,
  timed,
  type Use,
} from "../case.ts";
import { bytesOf, type Cost, optional } from "../cost.ts";
import { dot } from "../reference.ts";
import { attention, attentionGradient, type Segment, widthOf } from "../reference-attention.ts";
import { gradientType, packedTokens, type Shapes } from "../shapes.ts";
import { bfloat16Rounding, rounded, type Tolerance } from "../tolerance.ts";

/**
 * Tensor cores take the weights and the scores' gradients as bfloat16, so each product has one more operand rounded to half a
 * unit in 2⁻⁸: the weights for out, the weights and dout for dv, dout and dS for dq and dk.
 */
const tensorCores: Tolerance = { magnitude: bfloat16Rounding };
/** Means of values up to 5, with weights as inexact as their scores: a few 2⁻²⁴ of up to 15. */
export const mean: Tolerance = { absolute: 8e-6 };
const lses: Tolerance = { absolute: 4e-6, relative: 1e-6 };
/** dS is a difference of two dot products of Dh terms; a prompt's dk and dv sum over all queries of its group. */
const gradient: Tolerance = { absolute: 3e-5, relative: 1e-5 };
/** With dout in bfloat16, paths that multiply in bfloat16 round P and dS to it, tensor cores too: one operand of each product. */
const gradientInBfloat16: Tolerance = { ...gradient, operands: { magnitude: bfloat16Rounding } };
const slope: Tolerance = { absolute: 1e-4, relative: 1e-3 };

/** The tolerance of a result from inputs of type `x`, stored as `stored`. */
export function from(x: ShortDType, tolerance: Tolerance, stored: ShortDType): Tolerance {
  return rounded(x === "bf16" ? { ...tolerance, tensorCores } : tolerance, dtypes[stored]);
}

/** A score is a dot product of Dh terms plus an exponential; a pair is a query and a key it attends to. */
function attentionCost(products: number, pairs: number, shape: AttentionShape, dtype: string, bytes: number): Cost {
  const scores = shape.heads * pairs;
  const flops = 2 * products * shape.headDim * scores;
  return { bytes, flops, exponentials: scores, unit: dtype === "bfloat16" ? "mma" : "float32" };
}

/** Pairs of a query and a key it attends to. */
function visiblePairs(segments: ArrayLike<number>, { window = Number.POSITIVE_INFINITY }: AttentionShape): number {
  /** Of the first `tokens` tokens of a sequence. */
  const from0 = (tokens: number) => {
    const growing = Math.min(tokens, window);
    return (growing * (growing + 1)) / 2 + (tokens > growing ? (tokens - growing) * window : 0);
  };
  let pairs = 0;
  for (let s = 0; s < segments.length; s += 4) {
    const [length, prefix] = [segments[s + 1]!, segments[s + 3]!];
    pairs += from0(prefix + length) - from0(prefix);
  }
  return pairs;
}

export interface Heads {
  readonly H: number;
  readonly Hkv: number;
  readonly Dh: number;
  /** Tokens that a token attends to; all by default. */
  readonly window?: number;
}

export interface AttentionSettings extends Heads {
  readonly x: ShortDType;
  /** Groups of prompt + completions, as lengths: "5+3,1 70+1" are two groups of two and of one completion. */
  readonly groups: string;
  readonly gap?: number;
}

export function shapeOf({ H, Hkv, Dh, window }: Heads): AttentionShape {
  const shape = { heads: H, kvHeads: Hkv, headDim: Dh, scale: 1 / Math.sqrt(Dh) };
  return window === undefined ? shape : { ...shape, window };
}

/** Segments of packed groups: a prompt, then its completions, which name it as their prefix. */
export function segmentsOf(groups: string): { segments: Segment[]; tokens: number } {
  const segments: Segment[] = [];
  let tokens = 0;
  for (const group of groups.split(" ")) {
    const [prompt = "0", completions] = group.split("+");
    const prefixStart = tokens;
    const prefixLength = Number(prompt);
    segments.push({ start: tokens, length: prefixLength, prefixStart: 0, prefixLength: 0 });
    tokens += prefixLength;
    for (const completion of completions?.split(",") ?? []) {
      segments.push({ start: tokens, length: Number(completion), prefixStart, prefixLength });
      tokens += Number(completion);
    }
  }
  return { segments, tokens };
}

function segmentTable(run: Run, segments: readonly Segment[], name = "segments"): Slot {
  const table = segments.flatMap((s) => [s.start, s.length, s.prefixStart, s.prefixLength]);
  return run.filled(name, "int32", [segments.length, 4], (i) => table[i]!);
}

export function buffers(run: Run, settings: AttentionSettings) {
  const { H, Hkv, Dh, x, groups, gap = 0 } = settings;
  const { segments, tokens } = segmentsOf(groups);
  const width = (H + 2 * Hkv) * Dh;
  return {
    shape: shapeOf(settings),
    segments,
    tokens,
    width,
    table: segmentTable(run, segments),
    qkv: run.input("qkv", dtypes[x], [tokens, width], { deviation: 1.5, gap }),
  };
}

function forward(settings: AttentionSettings & { readonly lse?: boolean }) {
  const { H, Dh, x, gap = 0, lse: wantLse = true } = settings;
  return opCase("attentionForward", { ...settings }, (run: Run) => {
    const { shape, segments, tokens, table, qkv } = buffers(run, settings);
    const out = run.output("out", dtypes[x], [tokens, H * Dh], { gap });
    const lse = wantLse ? run.output("lse", "float32", [tokens, H]) : null;
    run.run(({ ops }) => ops.attentionForward(out, lse, qkv, table, shape));
    const want = attention(qkv.at, segments, shape);
    run.check(out, want.out, from(x, mean, x), { rows: 6, columns: 5 });
    if (lse) run.check(lse, want.lse, lses, { rows: 6, columns: 3 });
  });
}

function scratchRows(run: Run, name: string, count: number, shape: AttentionShape): Slot {
  return run.output(name, "float32", [count, run.device.attentionScratchElements(shape)]);
}

interface BackwardSettings extends AttentionSettings {
  readonly grad?: ShortDType;
  readonly slopes?: boolean;
}

/** `coarse`: dout holds bfloat16 values. */
function backward(settings: BackwardSettings, coarse = false) {
  const { H, Dh, x, gap = 0, grad = "f32" } = settings;
  return opCase("attentionBackward", { ...settings }, (run: Run) => {
    const b = buffers(run, settings);
    const { tokens, shape, qkv, table } = b;
    const forwardPass = attention(qkv.at, b.segments, shape);
    const out = run.saved("out", dtypes[x], [tokens, H * Dh], (i) => forwardPass.out(i).value, { gap });
    const lse = run.saved("lse", "float32", [tokens, H], forwardPass.lse);
    const dout = run.input("dout", dtypes[grad], [tokens, H * Dh], { gap, coarse });
    const output = (name: string) => run.output(name, dtypes[grad], [tokens, b.width], { gap });
    const [dqkv, tight] = [output("dqkv"), output("dqkv with the least scratch")];
    const longest = Math.max(1, ...b.segments.map((s) => s.prefixLength));
    const total = b.segments.reduce((sum, s) => sum + s.prefixLength, 1);
    const least = scratchRows(run, "least scratch", longest, shape);
    const more = scratchRows(run, "more scratch", Math.max(total, tokens), shape);
    run.save(({ ops }) => ops.attentionForward(out, lse, qkv, table, shape));
    run.run(
      ({ ops }) => {
        for (let times = run.slow ? 1 : run.times; times > 0; times--)
          ops.attentionBackward(dqkv, dout, qkv, out, lse, table, more, shape);
      },
      ({ ops }) => ops.attentionBackward(tight, dout, qkv, out, lse, table, least, shape),
    );
    const given = { dout: dout.at, qkv: qkv.at, out: out.at, lse: lse.at };
    const want = attentionGradient(given, b.segments, shape, grad === "f32" && !coarse);
    const tolerance = grad === "bf16" ? rounded(gradientInBfloat16, dtypes[grad]) : from(x, gradient, grad);
    run.check(dqkv, want, tolerance, { rows: 4, columns: 6 });
    run.same(tight, 0, dqkv, 0, tokens);
    if (!settings.slopes) return;
    const loss = (moved: (i: number) => number) => {
      const { out } = attention(moved, b.segments, shape);
      return dot(elementCount(dout.shape), (i) => out(i).value, dout.at);
    };
    run.differences(dqkv, qkv.at, loss, slope);
  });
}

/**
 * A group with a shared prompt gives what each sequence (prompt and completion in one piece) gives alone. Not bit for bit:
 * alone, the completion's keys are counted from the prompt's start.
 */
function alone(settings: AttentionSettings) {
  const { H, Dh } = settings;
  return opCase("attentionForward", { prompt: "shared", ...settings }, (run: SuiteRun) => {
    const b = buffers(run, settings);
    const output = (name: string) => run.output(name, "float32", [b.tokens, H * Dh]);
    const packed = output("packed");
    const completions = b.segments.filter((s) => s.prefixLength > 0);
    const pieces = completions.map((s, i) => {
      const length = s.prefixLength + s.length;
      const order = Array.from({ length }, (_, j) =>
        j < s.prefixLength ? s.prefixStart + j : s.start + j - s.prefixLength,
      );
      return {
        segment: s,
        length,
        qkv: run.filled(`qkv ${i}`, "float32", [length, b.width], (at) =>
          b.qkv.at(order[Math.floor(at / b.width)]! * b.width + (at % b.width)),
        ),
        table: segmentTable(run, [{ start: 0, length, prefixStart: 0, prefixLength: 0 }], `segment ${i}`),
        out: run.output(`out ${i}`, "float32", [length, H * Dh]),
      };
    });
    run.run(({ ops }) => {
      ops.attentionForward(packed, null, b.qkv, b.table, b.shape);
      for (const piece of pieces) ops.attentionForward(piece.out, null, piece.qkv, piece.table, b.shape);
    });
    for (const { segment: s, length, out } of pieces)
      for (const [path, values] of run.values(out)) {
        const whole = run.values(packed).get(path)!;
        for (let j = s.prefixLength; j < length; j++)
          for (let d = 0; d < H * Dh; d++) {
            const [got, want] = [whole[(s.start + j - s.prefixLength) * H * Dh + d]!, values[j * H * Dh + d]!];
            if (Math.abs(got - want) > 3e-6) throw new Error(`on ${path}: ${got} packed, ${want} alone`);
          }
      }
  });
}

/** The forward pass of two heads over `groups`, with drawn values that `spoil` changes. */
function spoiled(
  values: string,
  groups: string,
  { Dh, x }: { readonly Dh: number; readonly x: ShortDType },
  spoil: (drawn: Float64Array, tokens: number, width: number) => void,
) {
  return opCase("attentionForward", { values, Dh, x, groups }, (run: SuiteRun) => {
    const shape = shapeOf({ H: 2, Hkv: 1, Dh });
    const { segments, tokens } = segmentsOf(groups);
    const width = widthOf(shape);
    const drawn = run.random.normal(tokens * width);
    spoil(drawn, tokens, width);
    const qkv = run.slot("qkv", dtypes[x], [tokens, width], drawn);
    const [out, lse] = [run.output("out", dtypes[x], [tokens, 2 * Dh]), run.output("lse", "float32", [tokens, 2])];
    const table = segmentTable(run, segments);
    run.run(({ ops }) => ops.attentionForward(out, lse, qkv, table, shape));
    const want = attention(qkv.at, segments, shape);
    run.check(lse, want.lse, lses);
    run.check(out, want.out, from(x, mean, x));
  });
}

/** A NaN in one sequence stays there: it reaches its later tokens and, from a prompt, its completions, but never other groups. */
function nan(Dh: number, x: ShortDType) {
  return spoiled("nan", "5+3,4 6", { Dh, x }, (drawn, _, width) => {
    const token = 6; // the first completion's second: its query and its key
    for (const column of [0, 2]) drawn[token * width + column * Dh] = Number.NaN;
    drawn[12 * width + 3 * Dh] = Number.NaN; // the second group's first token: its value
  });
}

/** Scores around 2³⁶, whose float32 neighbours are thousands apart: every query attends to the visible key with the largest. */
function huge(Dh: number, x: ShortDType) {
  return spoiled("huge", "70+3,40 6", { Dh, x }, (drawn, tokens, width) => {
    for (let t = 0; t < tokens; t++) {
      drawn.fill(0, t * width, t * width + 3 * Dh);
      drawn[t * width] = drawn[t * width + Dh] = 2 ** 20;
      drawn[t * width + 2 * Dh] = (((t * 37) % 127) + 1) * 2 ** 13;
    }
  });
}

/** A token that is a group by itself is NaN: so are its gradients, and those of no token before or behind it. */
function nanGradient(Dh: number) {
  return opCase("attentionBackward", { values: "nan", Dh, x: "bf16", groups: "5+3,4 1 6" }, (run: SuiteRun) => {
    const shape = shapeOf({ H: 2, Hkv: 1, Dh });
    const { segments, tokens } = segmentsOf("5+3,4 1 6");
    const width = widthOf(shape);
    const spoiled = 12;
    const draw = (columns: number) => {
      const values = run.random.normal(tokens * columns);
      return values.fill(Number.NaN, spoiled * columns, (spoiled + 1) * columns);
    };
    const qkv = run.slot("qkv", "bfloat16", [tokens, width], draw(width));
    const dout = run.slot("dout", "bfloat16", [tokens, 2 * Dh], draw(2 * Dh));
    const saved = attention(qkv.at, segments, shape);
    const out = run.saved("out", "bfloat16", [tokens, 2 * Dh], (i) => saved.out(i).value);
    const lse = run.saved("lse", "float32", [tokens, 2], saved.lse);
    const dqkv = run.output("dqkv", "bfloat16", [tokens, width]);
    const scratch = scratchRows(run, "scratch", tokens, shape);
    const table = segmentTable(run, segments);
    run.run(({ ops }) => ops.attentionBackward(dqkv, dout, qkv, out, lse, table, scratch, shape));
    const given = { dout: dout.at, qkv: qkv.at, out: out.at, lse: lse.at };
    run.check(dqkv, attentionGradient(given, segments, shape, false), rounded(gradientInBfloat16, "bfloat16"));
  });
}

/** For CPUs: the GPU's kernels scale a bfloat16 score and subtract the maximum in one rounding, and fail on such scores. */
export const hugeScores = [huge(24, "f32"), ...[24, 64, 128].map((Dh) => huge(Dh, "bf16"))];

export const heads: readonly Heads[] = [
  { H: 1, Hkv: 1, Dh: 16 },
  { H: 3, Hkv: 1, Dh: 24 },
  { H: 4, Hkv: 1, Dh: 64 },
  { H: 6, Hkv: 2, Dh: 16 },
  { H: 2, Hkv: 2, Dh: 128 },
];

/** Lengths around the block of 64 keys, in prompts and in completions. */
export const around = "1+1 63+2,64 64+65,1 65+63 130+5";

/** Windows shorter than a prompt, than a block of keys, and longer than some blocks; of one token, which sees itself. */
export const windows: readonly (Heads & { readonly groups: string })[] = [
  { H: 3, Hkv: 1, Dh: 24, window: 7, groups: "63+2,66 3+9" },
  { H: 2, Hkv: 1, Dh: 16, window: 90, groups: "150+30,3" },
  { H: 2, Hkv: 2, Dh: 64, window: 64, groups: "70+66,3" },
  { H: 2, Hkv: 1, Dh: 16, window: 1, groups: "5+3,7,1" },
];

/** Enough completions that a GPU sums a prompt's gradient in parts: more than 16 blocks of queries. */
const many = `20+${"1,".repeat(34)}2 3`;

/** A group as training packs it, and a single sequence of the same length. */
function packings(s: Shapes): readonly (readonly [Use, Record<string, number>, groups: string])[] {
  const { prompt, completion, samples } = s;
  const [T, group] = [packedTokens(s), `${prompt}+${Array(samples).fill(completion)}`];
  return [
    ["training", { prompt, completions: samples, length: completion }, group],
    ["large", { T }, String(T)],
  ];
}

/** The cases at a model's sizes; for gradients, `grad` is the type. */
function real(
  s: Shapes,
  make: (settings: BackwardSettings, dtype: ComputeDType) => ReturnType<typeof forward | typeof backward>,
) {
  const { H, Hkv, Dh } = s;
  return computeDTypes.flatMap((dtype) =>
    packings(s).map(([use, name, groups]) =>
      timed(use, dtype, { ...name, H, Dh }, make({ H, Hkv, Dh, x: shortOf(dtype), groups }, dtype)),
    ),
  );
}

export const attentionOps: OpTable<"attentionForward" | "attentionBackward"> = {
  attentionForward: {
    cost: (lengths, out, lse, qkv, segments, shape) => {
      const bytes = bytesOf(qkv) + bytesOf(out) + optional(lse);
      return attentionCost(2, visiblePairs(lengths.segments(segments), shape), shape, qkv.dtype, bytes);
    },
    cases: [
      ...heads.map((h) => forward({ ...h, x: "f32", groups: "5+3,7,1 33 1+31" })),
      ...heads.map((h) => forward({ ...h, x: "bf16", groups: "5+3,7,1 33 1+31" })),
      forward({ H: 3, Hkv: 1, Dh: 24, x: "f32", groups: around }),
      forward({ H: 4, Hkv: 1, Dh: 16, x: "bf16", groups: around }),
      forward({ H: 3, Hkv: 1, Dh: 24, x: "bf16", groups: "13+5,0,2", gap: 7 }),
      forward({ H: 2, Hkv: 1, Dh: 16, x: "f32", groups: "1", lse: false }),
      forward({ H: 2, Hkv: 1, Dh: 16, x: "f32", groups: "300" }),
      nan(24, "f32"),
      // tiles of 128 rows, in memory that 16-byte copies reach
      ...[64, 128].flatMap((Dh) => [
        nan(Dh, "bf16"),
        forward({ H: 4, Hkv: 2, Dh, x: "bf16", groups: "130+140,5 128+128 3+260", gap: 8 }),
        forward({ H: 2, Hkv: 1, Dh, x: "bf16", groups: "1+1 0+300,0", lse: false }),
      ]),
      alone({ H: 3, Hkv: 1, Dh: 24, x: "f32", groups: "5+3,7,1 63+65,2 64+64 130+5" }),
      ...windows.map((w) => forward({ ...w, x: "f32" })),
      ...windows.slice(0, 3).map((w) => forward({ ...w, x: "bf16" })),
    ],
    real: (s) => real(s, forward),
  },
  attentionBackward: {
    cost: (lengths, dqkv, dout, qkv, out, lse, segments, _scratch, shape) => {
      const bytes = bytesOf(dqkv) + bytesOf(dout) + bytesOf(qkv) + bytesOf(out) + bytesOf(lse);
      return attentionCost(5, visiblePairs(lengths.segments(segments), shape), shape, qkv.dtype, bytes);
    },
    cases: [
      ...heads.map((h) => backward({ ...h, x: "f32", groups: "5+3,7,1 9 1+11", slopes: true })),
      ...heads.map((h) => backward({ ...h, x: "bf16", groups: "5+3,7,1 9 1+11" })),
      ...heads.map((h) => bfloat16Gradients(backward({ ...h, x: "bf16", grad: "bf16", groups: "5+3,7,1 9 1+11" }))),
      backward({ H: 3, Hkv: 1, Dh: 24, x: "f32", groups: around }),
      backward({ H: 4, Hkv: 1, Dh: 16, x: "bf16", groups: around }),
      bfloat16Gradients(backward({ H: 4, Hkv: 1, Dh: 16, x: "bf16", grad: "bf16", groups: around })),
      bfloat16Gradients(backward({ H: 3, Hkv: 1, Dh: 24, x: "bf16", grad: "bf16", groups: "13+5,0,2", gap: 7 })),
      backward({ H: 3, Hkv: 1, Dh: 24, x: "f32", groups: "13+5,0,2", gap: 7 }),
      backward({ H: 2, Hkv: 1, Dh: 16, x: "f32", groups: "20+1,2,3,4,5,6,7,8,9" }),
      backward({ H: 2, Hkv: 1, Dh: 16, x: "f32", groups: many }),
      ...windows.slice(0, 2).map((w) => backward({ ...w, x: "f32" })),
      ...windows.slice(0, 2).map((w) => backward({ ...w, x: "bf16" })),
      bfloat16Gradients(backward({ ...windows[0]!, x: "bf16", grad: "bf16" })),
      bfloat16Gradients(backward({ H: 2, Hkv: 1, Dh: 16, x: "bf16", grad: "bf16", groups: many })),
      // tiles of 128 rows, in memory that 16-byte copies reach
      ...[64, 128].flatMap((Dh) =>
        (
          [
            { H: 2, Hkv: 1, groups: "130+5 128+129", gap: 8 },
            { H: 2, Hkv: 1, groups: "1+1 0+257,0" },
            { H: 1, Hkv: 1, groups: "150+5,200", window: 100 },
          ] as const
        ).map((settings) => bfloat16Gradients(backward({ ...settings, Dh, x: "bf16", grad: "bf16" }))),
      ),
      ...[64, 128].map((Dh) => bfloat16Gradients(nanGradient(Dh))),
      bfloat16Gradients(backward({ H: 2, Hkv: 1, Dh: 64, x: "bf16", grad: "bf16", groups: many })),
    ],
    real: (s) => real(s, (settings, dtype) => backward({ ...settings, grad: shortOf(gradientType(s, dtype)) }, true)),
  },
};
