/**
 * Attention over packed segments, forward and backward, and over pages token by token: against the reference, and against
 * each other in every bit.
 */
import type { AttentionShape } from "../../../src/device/device.ts";
import { PAGE_TOKENS } from "../../../src/device/device.ts";
import { rows, type Tensor } from "../../../src/tensor/tensor.ts";
import {
  bfloat16Gradients,
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
import type { Slot } from "../memory.ts";
import { dot } from "../reference.ts";
import { attention, attentionGradient, type Segment } from "../reference-attention.ts";

/**
 * Tensor cores take weights and the scores' gradients as bfloat16, so each product has one operand more that is rounded
 * to half a unit in 2⁻⁸: the weights in out, the weights and dout in dv, dout and dS in dq and dk.
 */
const tensorCores: Tolerance = { magnitude: bfloat16Rounding };
/** Means of values up to 5, by weights that are off by as much as their scores: a few 2⁻²⁴ of up to 15. */
const mean: Tolerance = { absolute: 8e-6 };
const lses: Tolerance = { absolute: 4e-6, relative: 1e-6 };
/** dS is a difference of two dot products of Dh terms; dk and dv of a prompt sum over all queries of its group. */
const gradient: Tolerance = { absolute: 3e-5, relative: 1e-5 };
const slope: Tolerance = { absolute: 1e-4, relative: 1e-3 };

/** A float32 dout is rounded like the weights and dS that it is multiplied by: two operands of a product are off. */
const tensorCoresTwice: Tolerance = { magnitude: 2 * bfloat16Rounding };

/** The tolerance of a result from inputs of type `x`, stored as `stored`. */
function from(x: ShortDType, tolerance: Tolerance, stored: ShortDType, cores = tensorCores): Tolerance {
  return rounded(x === "bf16" ? { ...tolerance, tensorCores: cores } : tolerance, dtypes[stored]);
}

interface Heads {
  readonly H: number;
  readonly Hkv: number;
  readonly Dh: number;
}

interface Settings extends Heads {
  readonly x: ShortDType;
  /** Groups of prompt + completions, as lengths: "5+3,1 70+1" are two groups of two and of one completion. */
  readonly groups: string;
  readonly gap?: number;
}

function shapeOf({ H, Hkv, Dh }: Heads): AttentionShape {
  return { heads: H, kvHeads: Hkv, headDim: Dh, scale: 1 / Math.sqrt(Dh) };
}

/** Segments of packed groups: a prompt, then its completions, which name it as their prefix. */
function segmentsOf(groups: string): { segments: Segment[]; tokens: number } {
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

function segmentTable(run: CaseRun, segments: readonly Segment[], name = "segments"): Slot {
  const table = segments.flatMap((s) => [s.start, s.length, s.prefixStart, s.prefixLength]);
  return run.slot(name, "int32", [segments.length, 4], table);
}

function buffers(run: CaseRun, settings: Settings) {
  const { H, Hkv, Dh, x, groups, gap = 0 } = settings;
  const { segments, tokens } = segmentsOf(groups);
  const width = (H + 2 * Hkv) * Dh;
  return {
    shape: shapeOf(settings),
    segments,
    tokens,
    width,
    table: segmentTable(run, segments),
    qkv: run.slot("qkv", dtypes[x], [tokens, width], run.random.normal(tokens * width, 1.5), { gap }),
  };
}

function forward(settings: Settings & { readonly lse?: boolean }): OpCase {
  const { H, Dh, gap = 0, lse: wantLse = true } = settings;
  return opCase("attentionForward", { ...settings }, (run) => {
    const { shape, segments, tokens, table, qkv } = buffers(run, settings);
    const out = run.slot("out", dtypes[settings.x], [tokens, H * Dh], null, { output: true, gap });
    const lse = wantLse ? run.slot("lse", "float32", [tokens, H], null, { output: true }) : null;
    run.run(({ ops }) => ops.attentionForward(out, lse, qkv, table, shape));
    const want = attention(qkv.values, segments, shape, tokens);
    run.check(out, want.out, from(settings.x, mean, settings.x), want.magnitude);
    if (lse) run.check(lse, want.lse, lses);
  });
}

/** out and lse as the forward pass leaves them. */
function saved(run: CaseRun, settings: Settings & { readonly grad?: ShortDType }, b: ReturnType<typeof buffers>) {
  const { H, Dh, x, gap = 0, grad = "f32" } = settings;
  const want = attention(b.qkv.values, b.segments, b.shape, b.tokens);
  return {
    out: run.slot("out", dtypes[x], [b.tokens, H * Dh], want.out, { gap }),
    lse: run.slot("lse", "float32", [b.tokens, H], want.lse),
    dout: run.slot("dout", dtypes[grad], [b.tokens, H * Dh], run.random.normal(b.tokens * H * Dh), { gap }),
  };
}

function scratchRows(run: CaseRun, name: string, count: number, shape: AttentionShape): Slot {
  return run.slot(name, "float32", [count, run.device.attentionScratchElements(shape)], null, { output: true });
}

function longestPrefix(segments: readonly Segment[]): number {
  return Math.max(1, ...segments.map((s) => s.prefixLength));
}

function backward(settings: Settings & { readonly grad?: ShortDType; readonly slopes?: boolean }): OpCase {
  const { grad = "f32" } = settings;
  return opCase("attentionBackward", { ...settings }, (run) => {
    const b = buffers(run, settings);
    const { out, lse, dout } = saved(run, settings, b);
    const output = (name: string) =>
      run.slot(name, dtypes[grad], [b.tokens, b.width], null, { output: true, gap: settings.gap ?? 0 });
    const [dqkv, roomy] = [output("dqkv"), output("dqkv with room")];
    const tight = scratchRows(run, "least scratch", longestPrefix(b.segments), b.shape);
    const total = b.segments.reduce((sum, s) => sum + s.prefixLength, 1);
    const large = scratchRows(run, "more scratch", total, b.shape);
    run.run(({ ops }) => {
      for (let times = run.slow ? 1 : 2; times > 0; times--)
        ops.attentionBackward(dqkv, dout, b.qkv, out, lse, b.table, tight, b.shape);
      ops.attentionBackward(roomy, dout, b.qkv, out, lse, b.table, large, b.shape);
    });
    const want = attentionGradient(dout.values, b.qkv.values, out.values, b.segments, b.shape);
    const cores = grad === "f32" ? tensorCoresTwice : tensorCores;
    run.check(dqkv, want.dqkv, from(settings.x, gradient, grad, cores), want.magnitude);
    run.same(roomy, 0, dqkv, 0, b.tokens);
    if (!settings.slopes) return;
    const loss = (moved: Float64Array) => dot(attention(moved, b.segments, b.shape, b.tokens).out, dout.values);
    run.differences(dqkv, b.qkv.values, loss, slope);
  });
}

/**
 * A group with a shared prompt gives what each sequence, prompt and completion in one piece, gives alone. Not to the
 * bit: alone, the completion's keys are counted from the prompt's start.
 */
function alone(settings: Settings): OpCase {
  const { H, Dh } = settings;
  return opCase("attentionForward", { prompt: "shared", ...settings }, (run) => {
    const b = buffers(run, settings);
    const output = (name: string) => run.slot(name, "float32", [b.tokens, H * Dh], null, { output: true });
    const packed = output("packed");
    const completions = b.segments.filter((s) => s.prefixLength > 0);
    const pieces = completions.map((s, i) => {
      const length = s.prefixLength + s.length;
      const order = Array.from({ length }, (_, j) =>
        j < s.prefixLength ? s.prefixStart + j : s.start + j - s.prefixLength,
      );
      const values = order.flatMap((t) => [...b.qkv.values.subarray(t * b.width, (t + 1) * b.width)]);
      return {
        segment: s,
        length,
        qkv: run.slot(`qkv ${i}`, "float32", [length, b.width], values),
        table: segmentTable(run, [{ start: 0, length, prefixStart: 0, prefixLength: 0 }], `segment ${i}`),
        out: run.slot(`out ${i}`, "float32", [length, H * Dh], null, { output: true }),
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

/**
 * Pages for every segment, handed out in random order, and what decoding needs to know of each token: where it is
 * stored, which pages it sees, and how many tokens of its prompt and its completion.
 */
function paging(run: CaseRun, { segments, tokens }: ReturnType<typeof segmentsOf>) {
  const pagesIn = (length: number) => Math.ceil(length / PAGE_TOKENS);
  const count = segments.reduce((sum, s) => sum + pagesIn(s.length), 1); // one page stays unused
  const order = run.random.permutation(count);
  const pages = segments.map((s) => order.splice(0, pagesIn(s.length)));
  const width = Math.max(...segments.map((s) => pagesIn(s.prefixLength) + pagesIn(s.length)));
  const ints = (name: string, columns: number) => ({
    name,
    columns,
    values: new Int32Array(tokens * columns).fill(-1),
  });
  const [page, offset, table] = [ints("page", 1), ints("offset", 1), ints("page table", width)];
  const [prompt, completion] = [ints("prompt lengths", 1), ints("completion lengths", 1)];
  for (const [i, s] of segments.entries()) {
    const owner = segments.findIndex((p) => p.start === s.prefixStart && p.length === s.prefixLength);
    const seen = s.prefixLength > 0 ? [...pages[owner]!, ...pages[i]!] : pages[i]!;
    for (let j = 0; j < s.length; j++) {
      const t = s.start + j;
      page.values[t] = pages[i]![Math.floor(j / PAGE_TOKENS)]!;
      offset.values[t] = j % PAGE_TOKENS;
      table.values.set(seen, t * width);
      // a prompt's own tokens are decoded as a prompt that grows
      prompt.values[t] = s.prefixLength > 0 ? s.prefixLength : j + 1;
      completion.values[t] = s.prefixLength > 0 ? j + 1 : 0;
    }
  }
  const slot = (c: typeof page) =>
    run.slot(c.name, "int32", c.columns === 1 ? [tokens] : [tokens, c.columns], c.values);
  return {
    count,
    page: slot(page),
    offset: slot(offset),
    table: slot(table),
    promptLengths: slot(prompt),
    completionLengths: slot(completion),
  };
}

function cacheOf(run: CaseRun, settings: Settings, pages: number, name: string) {
  const { keys, values } = run.device.pageElements(shapeOf(settings));
  const part = (what: string, elements: number) =>
    run.slot(`${what} pages ${name}`, dtypes[settings.x], [pages, elements], null, { output: true });
  return { keys: part("key", keys), values: part("value", values) };
}

/**
 * Every token has the bits that the packed forward pass gives it (promise 2) when it is decoded alone, with only the
 * tokens before it in the cache and NaN beyond, and when all are decoded as one batch. On a device that does not promise
 * it, each is as near to the reference as the forward pass. `last`: the tokens before these are only stored.
 */
function decoded(settings: Settings & { readonly last?: number }): OpCase {
  const { H, Dh, x, last } = settings;
  return opCase("attentionDecode", { ...settings }, (run) => {
    const b = buffers(run, settings);
    const p = paging(run, b);
    const cache = cacheOf(run, settings, p.count, "");
    const output = (name: string) => run.slot(name, dtypes[x], [b.tokens, H * Dh], null, { output: true });
    const [trained, alone, batch] = [output("trained"), output("decoded alone"), output("decoded together")];
    const first = b.tokens - (last ?? b.tokens);
    const picked = decodedAlone(run, b.segments).filter((t) => t >= first);
    const part = (from: number, to: number) => (whole: Slot) => rows(whole, from, to - from);
    run.run(({ ops }) => {
      const decode = (out: Slot, of: (whole: Slot) => Tensor) =>
        ops.attentionDecode(
          of(out),
          of(b.qkv),
          cache,
          of(p.table),
          of(p.promptLengths),
          of(p.completionLengths),
          b.shape,
        );
      ops.attentionForward(trained, null, b.qkv, b.table, b.shape);
      let stored = 0;
      for (const t of picked) {
        const before = part(stored, t + 1);
        ops.kvStore(cache, before(b.qkv), before(p.page), before(p.offset), b.shape);
        decode(alone, part(t, t + 1));
        stored = t + 1;
      }
      decode(batch, part(first, b.tokens));
    });
    // two results that may each lie on the other side of a tie; the forward pass rounds weights of values up to 5
    const apart = { absolute: 2 * mean.absolute!, relative: x === "bf16" ? 2 * bfloat16Rounding : 0 };
    for (const t of picked) run.agree(alone, t, batch, t, 1, apart);
    const count = b.tokens - first;
    run.agree(batch, first, trained, first, count, { ...apart, tensorCores: { absolute: 5 * bfloat16Rounding } });
    const want = attention(b.qkv.values, b.segments, b.shape, b.tokens);
    const row = (i: number) => Math.floor(i / (H * Dh));
    const only = (isThere: (t: number) => boolean) => want.out.map((v, i) => (isThere(row(i)) ? v : Number.NaN));
    const tolerance = from(x, mean, x);
    run.check(trained, want.out, tolerance, want.magnitude);
    run.check(
      batch,
      only((t) => t >= first),
      tolerance,
      want.magnitude,
    );
    run.check(
      alone,
      only((t) => picked.includes(t)),
      tolerance,
      want.magnitude,
    );
  });
}

/**
 * Tokens that are decoded with nothing but the tokens before them in the cache: all of them, or, where that takes long,
 * those at the ends of segments and of pages.
 */
function decodedAlone(run: CaseRun, segments: readonly Segment[]): number[] {
  const atEnd = (s: Segment, j: number) => j === 0 || j === s.length - 1 || (j + 1) % PAGE_TOKENS < 2;
  return segments.flatMap((s) =>
    Array.from({ length: s.length }, (_, j) => j)
      .filter((j) => !run.slow || atEnd(s, j))
      .map((j) => s.start + j),
  );
}

/** Tokens stored at once and one by one fill the same places, with nothing lost and nothing else touched. */
function store(settings: Settings): OpCase {
  const { H, Hkv, Dh } = settings;
  return opCase("kvStore", { ...settings }, (run) => {
    const b = buffers(run, settings);
    const p = paging(run, b);
    const [whole, single] = [cacheOf(run, settings, p.count, "at once"), cacheOf(run, settings, p.count, "one by one")];
    run.run(({ ops }) => {
      ops.kvStore(whole, b.qkv, p.page, p.offset, b.shape);
      for (const t of Array.from({ length: b.tokens }, (_, i) => b.tokens - 1 - i))
        ops.kvStore(single, rows(b.qkv, t, 1), rows(p.page, t, 1), rows(p.offset, t, 1), b.shape);
    });
    for (const part of ["keys", "values"] as const) {
      run.same(single[part], 0, whole[part], 0, p.count);
      const from = (part === "keys" ? H : H + Hkv) * Dh;
      const given = b.qkv.values.filter((_, i) => i % b.width >= from && i % b.width < from + Hkv * Dh).sort();
      for (const [path, cells] of run.values(whole[part])) {
        const held = cells.filter((value) => !Number.isNaN(value)).sort();
        const found = part === "keys" ? held : held.filter((value) => value !== 0);
        if (found.join() !== given.join())
          throw new Error(`on ${path}: ${whole[part].name} do not hold what was stored`);
      }
    }
    run.check(b.qkv, b.qkv.values, exactly);
  });
}

/** A NaN in one sequence stays there: its later tokens and, from a prompt, its completions; never other groups. */
const nan: OpCase = opCase("attentionForward", { values: "nan", x: "f32", groups: "5+3,4 6" }, (run) => {
  const settings = { H: 2, Hkv: 1, Dh: 24, x: "f32", groups: "5+3,4 6" } as const;
  const { segments, tokens } = segmentsOf(settings.groups);
  const width = 4 * 24;
  const values = run.random.normal(tokens * width);
  const spoiled = 6; // the first completion's second token: its query and its key
  values[spoiled * width] = Number.NaN;
  values[spoiled * width + 2 * 24] = Number.NaN;
  const shape = shapeOf(settings);
  const qkv = run.slot("qkv", "float32", [tokens, width], values);
  const out = run.slot("out", "float32", [tokens, 48], null, { output: true });
  const lse = run.slot("lse", "float32", [tokens, 2], null, { output: true });
  const table = segmentTable(run, segments);
  run.run(({ ops }) => ops.attentionForward(out, lse, qkv, table, shape));
  const want = attention(qkv.values, segments, shape, tokens);
  run.check(lse, want.lse, lses);
  run.check(out, want.out, mean);
});

const heads: readonly Heads[] = [
  { H: 1, Hkv: 1, Dh: 16 },
  { H: 3, Hkv: 1, Dh: 24 },
  { H: 4, Hkv: 1, Dh: 64 },
  { H: 6, Hkv: 2, Dh: 16 },
  { H: 2, Hkv: 2, Dh: 128 },
];

/** Lengths around the block of 64 keys, in prompts and in completions. */
const around = "1+1 63+2,64 64+65,1 65+63 130+5";

/** So many completions that a GPU sums a prompt's gradient in parts: more than 16 blocks of queries. */
const many = `20+${"1,".repeat(34)}2 3`;

export const attentionCases: readonly OpCase[] = [
  ...heads.map((h) => forward({ ...h, x: "f32", groups: "5+3,7,1 33 1+31" })),
  ...heads.map((h) => forward({ ...h, x: "bf16", groups: "5+3,7,1 33 1+31" })),
  forward({ H: 3, Hkv: 1, Dh: 24, x: "f32", groups: around }),
  forward({ H: 4, Hkv: 1, Dh: 16, x: "bf16", groups: around }),
  forward({ H: 3, Hkv: 1, Dh: 24, x: "bf16", groups: "13+5,0,2", gap: 7 }),
  forward({ H: 2, Hkv: 1, Dh: 16, x: "f32", groups: "1", lse: false }),
  forward({ H: 2, Hkv: 1, Dh: 16, x: "f32", groups: "300" }),
  nan,
  alone({ H: 3, Hkv: 1, Dh: 24, x: "f32", groups: "5+3,7,1 63+65,2 64+64 130+5" }),
  ...heads.map((h) => decoded({ ...h, x: "f32", groups: "5+3,7,1 63+2,3 64+2" })),
  ...heads.map((h) => decoded({ ...h, x: "bf16", groups: "5+3,7,1 63+2,3 64+2" })),
  decoded({ H: 3, Hkv: 1, Dh: 24, x: "f32", groups: around }),
  decoded({ H: 4, Hkv: 1, Dh: 16, x: "bf16", groups: around }),
  decoded({ H: 4, Hkv: 2, Dh: 24, x: "f32", groups: "13+130,1", gap: 5 }),
  decoded({ H: 2, Hkv: 1, Dh: 24, x: "f32", groups: "290+3", last: 4 }),
  decoded({ H: 9, Hkv: 1, Dh: 16, x: "bf16", groups: "290+3,1", last: 4 }),
  store({ H: 3, Hkv: 1, Dh: 24, x: "f32", groups: "70+3" }),
  store({ H: 4, Hkv: 2, Dh: 64, x: "bf16", groups: "5+3,65" }),
  store({ H: 1, Hkv: 1, Dh: 16, x: "bf16", groups: "1", gap: 3 }),
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
  bfloat16Gradients(backward({ H: 2, Hkv: 1, Dh: 16, x: "bf16", grad: "bf16", groups: many })),
];
