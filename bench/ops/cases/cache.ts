/**
 * The paged key-value cache, and token-by-token attention over it: compared with the reference, and bit for bit with the packed
 * forward pass.
 */
import { type HeadTransform, type KeyValuePages, PAGE_TOKENS } from "../../../src/device/device.ts";
import { bytesPerElement } from "../../../src/tensor/dtype.ts";
import { columns, rows, type Tensor } from "../../../src/tensor/tensor.ts";
import {
  computeDTypes,
  dtypes,
  type OperandTypes,
  type OpTable,
  opCase,
  type Run,
  type ShortDType,
  type Slot,
  type SuiteRun,
  shortOf,
  timed,
} from "../case.ts";
import { bytesOf, memory, rowsOf } from "../cost.ts";
import { attention, decodedAttention, type Segment, widthOf } from "../reference-attention.ts";
import type { Shapes } from "../shapes.ts";
import { bfloat16Rounding, exactly, sumOf } from "../tolerance.ts";
import {
  type AttentionSettings,
  around,
  buffers,
  from,
  type Heads,
  heads,
  mean,
  type segmentsOf,
  shapeOf,
  windows,
} from "./attention.ts";
import { transformedHeads } from "./heads.ts";
import { tables } from "./rope.ts";

function cacheBytes(tokens: number, { keys }: KeyValuePages, kvHeads: number, headDim: number): number {
  return 2 * tokens * kvHeads * headDim * bytesPerElement(keys.dtype);
}

type PageSlots = { readonly keys: Slot; readonly values: Slot };

function pagesOf(run: Run, heads: Heads, x: ShortDType, count: number, name = ""): PageSlots {
  const { keys, values } = run.device.pageElements(shapeOf(heads));
  const part = (what: string, elements: number) => run.output(`${what} pages ${name}`, dtypes[x], [count, elements]);
  return { keys: part("key", keys), values: part("value", values) };
}

/**
 * Pages for every segment, assigned in random order, and what decoding needs for each token: where it is stored, which pages it
 * attends to, and the number of tokens in its prompt and its completion; also for the tokens in another order.
 */
function paging(run: SuiteRun, { segments, tokens }: ReturnType<typeof segmentsOf>, order: readonly number[]) {
  const pagesIn = (length: number) => Math.ceil(length / PAGE_TOKENS);
  const count = segments.reduce((sum, s) => sum + pagesIn(s.length), 1); // one page stays unused
  const free = run.random.permutation(count);
  const pages = segments.map((s) => free.splice(0, pagesIn(s.length)));
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
      // a prompt's own tokens are decoded as a growing prompt
      prompt.values[t] = s.prefixLength > 0 ? s.prefixLength : j + 1;
      completion.values[t] = s.prefixLength > 0 ? j + 1 : 0;
    }
  }
  const slotsOf = (order: readonly number[], suffix: string) => {
    const slot = ({ name, columns: n, values }: typeof page) =>
      run.slot(
        `${name}${suffix}`,
        "int32",
        n === 1 ? [order.length] : [order.length, n],
        order.flatMap((t) => [...values.subarray(t * n, (t + 1) * n)]),
      );
    return {
      page: slot(page),
      offset: slot(offset),
      table: slot(table),
      promptLengths: slot(prompt),
      completionLengths: slot(completion),
    };
  };
  return { count, ...slotsOf(range(tokens), ""), ordered: slotsOf(order, " in rounds") };
}

/**
 * Tokens that can be decoded together, as rows of one launch are of different sequences: one of each prompt, or one of each
 * completion; the picked ones in as many rounds as it takes.
 */
function roundsOf(segments: readonly Segment[], picked: readonly number[]): number[][] {
  const rounds = [false, true].flatMap((completions) => {
    const those = segments.filter((s) => s.prefixLength > 0 === completions);
    return range(Math.max(0, ...those.map((s) => s.length))).map((j) =>
      those.filter((s) => j < s.length).map((s) => s.start + j),
    );
  });
  return rounds.map((round) => round.filter((t) => picked.includes(t))).filter((round) => round.length > 0);
}

/** Leaves q and k as they are: no norms, and no angle. */
function unchanged(run: Run, T: number, Dh: number): HeadTransform {
  const table = (name: string, value: number) => run.filled(name, "float32", [1, Dh / 2], () => value);
  const positions = run.filled("positions of no angle", "int32", [T], () => 0);
  return { norms: null, positions, cos: table("cos of no angle", 1), sin: table("sin of no angle", 0) };
}

/**
 * Every token has the bits of the packed forward pass (promise 2) if it is decoded alone, with only earlier tokens in the cache
 * and NaN beyond, and if many are decoded as one batch. On a device without that promise, each is as close to the reference as
 * the forward pass. `last`: earlier tokens are only stored.
 */
function decoded(settings: AttentionSettings & { readonly last?: number }) {
  const { H, Dh, x, last } = settings;
  return opCase("attentionDecode", { ...settings }, (run: SuiteRun) => {
    const b = buffers(run, settings);
    const first = b.tokens - (last ?? b.tokens);
    const picked = decodedAlone(run, b.segments).filter((t) => t >= first);
    const rounds = roundsOf(b.segments, picked);
    const order = rounds.flat();
    const { ordered, ...p } = paging(run, b, order);
    const cache = pagesOf(run, settings, x, p.count);
    const output = (name: string, count = b.tokens) => run.output(name, dtypes[x], [count, H * Dh]);
    const transform = unchanged(run, b.tokens, Dh);
    const [trained, alone] = [output("trained"), output("decoded alone")];
    const batch = output("decoded together", order.length);
    const inRounds = run.filled(
      "qkv in rounds",
      dtypes[x],
      [order.length, b.width],
      (i) => b.qkv.at(order[Math.floor(i / b.width)]! * b.width + (i % b.width)),
      { gap: settings.gap ?? 0, output: true },
    );
    const part = (from: number, to: number) => (whole: Tensor) => rows(whole, from, to - from);
    run.run(({ ops }) => {
      const decode = (out: Slot, qkv: Slot, at: typeof ordered, of: (whole: Tensor) => Tensor) =>
        ops.attentionDecode(
          of(out),
          of(qkv),
          of(qkv),
          { ...transform, positions: of(transform.positions) },
          { pages: cache, page: of(at.page), offset: of(at.offset) },
          of(at.table),
          of(at.promptLengths),
          of(at.completionLengths),
          b.shape,
        );
      ops.attentionForward(trained, null, b.qkv, b.table, b.shape);
      let stored = 0;
      for (const t of picked) {
        const before = part(stored, t + 1);
        ops.kvStore(cache, before(b.qkv), before(p.page), before(p.offset), b.shape);
        decode(alone, b.qkv, p, part(t, t + 1));
        stored = t + 1;
      }
      let row = 0;
      for (const { length } of rounds) {
        decode(batch, inRounds, ordered, part(row, row + length));
        row += length;
      }
    });
    // two results may fall on different sides of a tie; the forward pass rounds weights of values up to 5
    const apart = { absolute: 2 * mean.absolute!, relative: x === "bf16" ? 2 * bfloat16Rounding : 0 };
    for (const t of picked) run.agree(alone, t, batch, order.indexOf(t), 1, apart);
    const beside = { ...apart, tensorCores: { absolute: 5 * bfloat16Rounding } };
    for (const [row, t] of order.entries()) run.agree(batch, row, trained, t, 1, beside);
    const want = attention(b.qkv.at, b.segments, b.shape);
    const across = H * Dh;
    const tolerance = from(x, mean, x);
    run.check(trained, want.out, tolerance);
    run.check(batch, (i) => want.out(order[Math.floor(i / across)]! * across + (i % across)), tolerance);
    run.check(alone, (i) => (picked.includes(Math.floor(i / across)) ? want.out(i) : Number.NaN), tolerance);
  });
}

/**
 * Tokens to decode, once with only the tokens before them in the cache: all of them or, if that takes too long, those at the ends of
 * segments and of pages.
 */
function decodedAlone(run: Run, segments: readonly Segment[]): number[] {
  const atEnd = (s: Segment, j: number) => j === 0 || j === s.length - 1 || (j + 1) % PAGE_TOKENS < 2;
  return segments.flatMap((s) =>
    Array.from({ length: s.length }, (_, j) => j)
      .filter((j) => !run.slow || atEnd(s, j))
      .map((j) => s.start + j),
  );
}

/** Tokens stored at once and one by one fill the same places; nothing is lost, and nothing else changes. */
function store(settings: AttentionSettings) {
  const { H, Hkv, Dh, x } = settings;
  return opCase("kvStore", { ...settings }, (run: SuiteRun) => {
    const b = buffers(run, settings);
    const { ordered: _, ...p } = paging(run, b, []);
    const [whole, single] = [
      pagesOf(run, settings, x, p.count, "at once"),
      pagesOf(run, settings, x, p.count, "one by one"),
    ];
    run.run(({ ops }) => {
      ops.kvStore(whole, b.qkv, p.page, p.offset, b.shape);
      for (const t of Array.from({ length: b.tokens }, (_, i) => b.tokens - 1 - i))
        ops.kvStore(single, rows(b.qkv, t, 1), rows(p.page, t, 1), rows(p.offset, t, 1), b.shape);
    });
    const values = Float64Array.from({ length: b.tokens * b.width }, (_, i) => b.qkv.at(i));
    for (const part of ["keys", "values"] as const) {
      run.same(single[part], 0, whole[part], 0, p.count);
      const from = (part === "keys" ? H : H + Hkv) * Dh;
      const given = values.filter((_, i) => i % b.width >= from && i % b.width < from + Hkv * Dh).sort();
      for (const [path, cells] of run.values(whole[part])) {
        const held = cells.filter((value) => !Number.isNaN(value)).sort();
        const found = held.filter((value) => value !== 0); // a layout may pad the head size
        if (found.join() !== given.join())
          throw new Error(`on ${path}: ${whole[part].name} do not hold what was stored`);
      }
    }
    run.check(b.qkv, values, exactly);
  });
}

const range = (count: number, from = 0) => Array.from({ length: count }, (_, i) => from + i);

/** Destinations for the rows of sequences stored one after the other, each in its own pages. */
function placed(lengths: readonly number[]) {
  const [pages, offsets]: [number[], number[]] = [[], []];
  let free = 0;
  for (const length of lengths) {
    pages.push(...range(length).map((i) => free + Math.floor(i / PAGE_TOKENS)));
    offsets.push(...range(length).map((i) => i % PAGE_TOKENS));
    free += Math.ceil(length / PAGE_TOKENS);
  }
  return { pages, offsets, count: free };
}

const integers = (run: Run, name: string, values: readonly number[], columns = 0) =>
  run.filled(name, "int32", columns ? [values.length / columns, columns] : [values.length], (i) => values[i]!);

interface DecodeSettings extends Heads {
  readonly B: number;
  /** Sequences per prompt. */
  readonly samples: number;
  /** Tokens in the cache per sequence. */
  readonly prompt: number;
  readonly completion: number;
  readonly x: ShortDType;
}

/** Sequences whose prompts and completions are in the cache, and where the newest token of each belongs. */
function cached(run: Run, settings: DecodeSettings) {
  const { B, samples, prompt: P, completion: C, x } = settings;
  const shape = shapeOf(settings);
  const prompts = Math.ceil(B / samples);
  const { pages, offsets, count } = placed([...Array(prompts).fill(P), ...Array(B).fill(C)]);
  const [promptPages, completionPages] = [Math.ceil(P / PAGE_TOKENS), Math.ceil(C / PAGE_TOKENS)];
  const promptOf = (b: number) => Math.floor(b / samples);
  const table = range(B).flatMap((b) => [
    ...range(promptPages, promptOf(b) * promptPages),
    ...range(completionPages, prompts * promptPages + b * completionPages),
  ]);
  const stored = run.input("stored", dtypes[x], [pages.length, widthOf(shape)]);
  const [page, offset] = [integers(run, "page", pages), integers(run, "offset", offsets)];
  // each completion's last token is the new one
  const newest = (b: number) => prompts * P + (b + 1) * C - 1;
  const newPlaces = (of: readonly number[]) => range(B).map((b) => of[newest(b)]!);
  return {
    ...{ shape, stored, page, offset, newest, count },
    place: {
      page: integers(run, "new page", newPlaces(pages)),
      offset: integers(run, "new offset", newPlaces(offsets)),
    },
    pageTable: integers(run, "page table", table, promptPages + completionPages),
    promptLengths: integers(run, "prompt lengths", Array(B).fill(P)),
    completionLengths: integers(run, "completion lengths", Array(B).fill(C)),
    /** Rows of `stored` that a sequence attends to. */
    keys: (b: number) => [...range(P, promptOf(b) * P), ...range(C, prompts * P + b * C)],
  };
}

/** One token for each of several sequences whose prompts and completions are in the cache. */
function decodeStep(settings: DecodeSettings) {
  const { B, H, Dh, x } = settings;
  return opCase("attentionDecode", { ...settings }, (run: Run) => {
    const c = cached(run, settings);
    const { shape, stored, newest } = c;
    const cache = pagesOf(run, settings, x, c.count);
    run.first(({ ops }) => ops.kvStore(cache, stored, c.page, c.offset, shape));
    const layer = run.layers(cache);
    const width = widthOf(shape);
    const queries = run.input("queries", dtypes[x], [B, H * Dh]);
    const qkvAt = (i: number) => {
      const [b, column] = [Math.floor(i / width), i % width];
      return column < H * Dh ? queries.at(b * H * Dh + column) : stored.at(newest(b) * width + column);
    };
    const qkv = run.filled("qkv", dtypes[x], [B, width], qkvAt, { output: true });
    const transform = unchanged(run, B, Dh);
    const out = run.output("out", dtypes[x], [B, H * Dh]);
    run.run(({ ops }) => {
      const place = { ...c.place, pages: layer() };
      ops.attentionDecode(
        ...([out, qkv, qkv, transform, place, c.pageTable, c.promptLengths, c.completionLengths] as const),
        shape,
      );
    });
    run.check(out, decodedAttention(qkv.at, stored.at, c.keys, shape), from(x, mean, x), { rows: 4, columns: 9 });
  });
}

/**
 * A token's heads on their way: the bits of norms and rotation by the ops for them, and then attention that leaves them as they
 * are; in the cache as well. `padding`: rows without tokens behind the sequences'.
 */
function transformed(settings: DecodeSettings & { readonly norms: boolean; readonly padding?: number }) {
  const { B, H, Hkv, Dh, x, norms: wantNorms, padding = 0 } = settings;
  return opCase("attentionDecode", { transformed: true, ...settings }, (run: SuiteRun) => {
    const c = cached(run, settings);
    const { shape, stored } = c;
    const all = { dtype: dtypes[x], width: widthOf(shape), rows: B + padding };
    const t = tables(run, { T: all.rows, Dh }, 400);
    const [positions, cos, sin] = [t.positions, t.cos, t.sin];
    const weight = (name: string) => run.weight(name, all.dtype, [Dh]);
    const norms = wantNorms ? { q: weight("weight of q"), k: weight("weight of k"), epsilon: 1e-6 } : null;
    const given = run.random.normal(all.rows * all.width, 2);
    const raw = (name: string) =>
      run.filled(name, all.dtype, [all.rows, all.width], (i) => given[i]!, { output: true });
    const [once, apart] = [raw("raw"), raw("raw, for two ops")];
    const room = wantNorms
      ? run.slot("qkv", all.dtype, [all.rows, all.width], new Float64Array(given.length), { output: true })
      : once;
    const turned = wantNorms ? run.output("transformed", all.dtype, [all.rows, all.width]) : apart;
    const cache = pagesOf(run, settings, x, c.count + 1, "at once");
    const reference = pagesOf(run, settings, x, c.count + 1, "of two ops");
    const [out, want] = [
      run.output("out", all.dtype, [all.rows, H * Dh]),
      run.output("want", all.dtype, [all.rows, H * Dh]),
    ];
    const width = c.pageTable.shape[1] ?? 1;
    /** `rest`: of the rows of padding, which store in different places of a page that nobody reads. */
    const padded = (slot: Slot & { readonly at: (i: number) => number }, rest: (row: number) => number, across = 1) =>
      run.filled(`${slot.name} of all`, "int32", across === 1 ? [all.rows] : [all.rows, across], (i) =>
        i < B * across ? slot.at(i) : rest(Math.floor(i / across) - B),
      );
    const at = {
      page: padded(c.place.page, () => c.count),
      offset: padded(c.place.offset, (row) => row),
      table: padded(c.pageTable, () => c.count, width),
      prompts: padded(c.promptLengths, () => 0),
      completions: padded(c.completionLengths, () => 0),
    };
    const still = unchanged(run, all.rows, Dh);
    run.run(({ ops }) => {
      const decode = (to: Slot, qkv: Slot, from: Slot, transform: HeadTransform, pages: KeyValuePages) => {
        ops.kvStore(pages, stored, c.page, c.offset, shape);
        const place = { pages, page: at.page, offset: at.offset };
        ops.attentionDecode(to, qkv, from, transform, place, at.table, at.prompts, at.completions, shape);
      };
      decode(out, room, once, { norms, positions, cos, sin }, cache);
      if (norms) ops.headsForward(turned, null, null, apart, norms, positions, cos, sin, shape);
      else ops.ropeForward(columns(apart, 0, (H + Hkv) * Dh), positions, cos, sin, Dh);
      decode(want, turned, turned, still, reference);
    });
    run.same(out, 0, want, 0, all.rows);
    for (const part of ["keys", "values"] as const) run.same(cache[part], 0, reference[part], 0, c.count + 1);
    // Against float64 where nothing is rounded on the way: heads turned, after norms if there are any.
    if (x === "bf16") return;
    const turnedAt = transformedHeads(
      once.at,
      norms && { q: norms.q.at, k: norms.k.at, epsilon: 1e-6 },
      t.at,
      settings,
    );
    const value = (i: number) => sumOf(turnedAt(i)).value;
    const cacheAt = (i: number) => {
      const [row, column] = [Math.floor(i / all.width), i % all.width];
      const b = range(B).find((each) => c.newest(each) === row);
      return b === undefined ? stored.at(i) : value(b * all.width + column);
    };
    const attended = decodedAttention(value, cacheAt, c.keys, shape);
    run.check(out, (i) => (i < B * H * Dh ? attended(i) : 0), { absolute: 8 * mean.absolute! }, { rows: all.rows });
  });
}

interface StoreSettings extends Heads {
  readonly T: number;
  /** One token for each of several sequences, each in its own page; else tokens of one prompt. */
  readonly apart?: boolean;
  readonly x: ShortDType;
}

/**
 * Stored tokens as attention finds them, since the device chooses the layout of a page. A query attends to the whole prompt, or
 * to the single token of its page and its copy.
 */
function storeStep(settings: StoreSettings) {
  const { H, Dh, T, apart = false, x } = settings;
  return opCase("kvStore", { ...settings }, (run: Run) => {
    const shape = shapeOf(settings);
    const { pages, offsets, count } = placed(apart ? Array(T).fill(1) : [T]);
    const [page, offset] = [integers(run, "page", pages), integers(run, "offset", offsets)];
    const qkv = run.input("qkv", dtypes[x], [T, widthOf(shape)]);
    const cache = pagesOf(run, settings, x, count);
    const B = apart ? T : 1;
    const queries = run.input("queries", dtypes[x], [B, widthOf(shape)]);
    const pageTable = integers(run, "page table", range(count), count / B);
    const lengths = integers(run, "prompt lengths", Array(B).fill(apart ? 2 : T));
    const none = integers(run, "completion lengths", Array(B).fill(0));
    // Attention stores a token too: each sequence's last again, in a place of its own where that is the only one.
    const width = widthOf(shape);
    const last = (b: number) => (apart ? b : T - 1);
    const newest = run.filled(
      "queries beside the last tokens",
      dtypes[x],
      [B, width],
      (i) => {
        const [b, column] = [Math.floor(i / width), i % width];
        return column < H * Dh ? queries.at(i) : qkv.at(last(b) * width + column);
      },
      { output: true },
    );
    const transform = unchanged(run, B, Dh);
    const place = {
      pages: cache,
      page: integers(
        run,
        "last page",
        range(B).map((b) => pages[last(b)]!),
      ),
      offset: integers(
        run,
        "last offset",
        range(B).map((b) => offsets[last(b)]! + (apart ? 1 : 0)),
      ),
    };
    const out = run.output("out", dtypes[x], [B, H * Dh]);
    run.run(
      ({ ops }) => ops.kvStore(cache, qkv, page, offset, shape),
      ({ ops }) => ops.attentionDecode(out, newest, newest, transform, place, pageTable, lengths, none, shape),
    );
    const keys = (b: number) => (apart ? [b] : range(T));
    run.check(out, decodedAttention(queries.at, qkv.at, keys, shape), from(x, mean, x), { rows: 4, columns: 9 });
  });
}

const sizes = ({ H, Hkv, Dh }: Shapes) => ({ H, Hkv, Dh });

export const cacheOps: OpTable<"kvStore" | "attentionDecode"> = {
  kvStore: {
    cost: (_, pages, qkv, page, offset, { kvHeads, headDim }) =>
      memory(2 * cacheBytes(rowsOf(qkv), pages, kvHeads, headDim) + bytesOf(page) + bytesOf(offset)),
    cases: [
      store({ H: 3, Hkv: 1, Dh: 24, x: "f32", groups: "70+3" }),
      store({ H: 4, Hkv: 2, Dh: 64, x: "bf16", groups: "5+3,65" }),
      store({ H: 1, Hkv: 1, Dh: 16, x: "bf16", groups: "1", gap: 3 }),
      storeStep({ H: 6, Hkv: 2, Dh: 24, x: "f32", T: 70 }),
      storeStep({ H: 4, Hkv: 2, Dh: 64, x: "bf16", T: 3, apart: true }),
    ],
    real: (s) =>
      computeDTypes.flatMap((dtype) => {
        const named = (T: number) => ({ T, Hkv: s.Hkv, Dh: s.Dh });
        const of = { ...sizes(s), x: shortOf(dtype) };
        return [
          timed("prefill", dtype, named(s.prefill), storeStep({ ...of, T: s.prefill })),
          ...s.batches.map((B) => timed("decode", dtype, named(B), storeStep({ ...of, T: B, apart: true }))),
        ];
      }),
  },
  attentionDecode: {
    cost: (
      lengths,
      out,
      _qkv,
      raw,
      _transform,
      { pages },
      table,
      prompts,
      completions,
      { heads, kvHeads, headDim },
    ) => {
      const { tokens, distinct } = lengths.cache(table, prompts, completions);
      // the new token's key and value are written, and the rest of the cache is read
      const bytes = cacheBytes(distinct, pages, kvHeads, headDim) + bytesOf(raw) + bytesOf(out) + bytesOf(table);
      return memory(bytes, 4 * tokens * heads * headDim, tokens * heads);
    },
    cases: [
      ...heads.map((h) => decoded({ ...h, x: "f32", groups: "5+3,7,1 63+2,3 64+2" })),
      ...heads.map((h) => decoded({ ...h, x: "bf16", groups: "5+3,7,1 63+2,3 64+2" })),
      decoded({ H: 3, Hkv: 1, Dh: 24, x: "f32", groups: around }),
      decoded({ H: 4, Hkv: 1, Dh: 16, x: "bf16", groups: around }),
      decoded({ H: 4, Hkv: 2, Dh: 24, x: "f32", groups: "13+130,1", gap: 5 }),
      ...windows.slice(0, 2).map((w) => decoded({ ...w, x: "f32" })),
      ...windows.slice(0, 2).map((w) => decoded({ ...w, x: "bf16" })),
      decoded({ H: 9, Hkv: 1, Dh: 16, x: "bf16", groups: "290+3,1", last: 4, window: 90 }),
      decoded({ H: 4, Hkv: 2, Dh: 128, x: "f32", groups: "5+3" }),
      decoded({ H: 2, Hkv: 1, Dh: 24, x: "f32", groups: "290+3", last: 4 }),
      decoded({ H: 9, Hkv: 1, Dh: 16, x: "bf16", groups: "290+3,1", last: 4 }),
      decodeStep({ B: 3, samples: 2, prompt: 67, completion: 33, H: 6, Hkv: 2, Dh: 24, x: "f32" }),
      decodeStep({ B: 3, samples: 2, prompt: 67, completion: 33, H: 4, Hkv: 2, Dh: 64, x: "bf16" }),
      ...(["f32", "bf16"] as const).flatMap((x) => [
        transformed({ B: 3, samples: 2, prompt: 67, completion: 33, H: 6, Hkv: 2, Dh: 24, x, norms: true }),
        // several splits of the pages, and a new page
        transformed({ B: 2, samples: 2, prompt: 290, completion: 65, H: 4, Hkv: 2, Dh: 64, x, norms: true }),
        transformed({ B: 2, samples: 1, prompt: 300, completion: 1, H: 2, Hkv: 1, Dh: 16, x, norms: false }),
      ]),
      {
        ...transformed({
          ...{ B: 3, samples: 2, prompt: 67, completion: 33, H: 6, Hkv: 2, Dh: 24, x: "bf16" },
          ...{ norms: true, padding: 2 },
        }),
        only: {
          on: ({ kind }: OperandTypes) => kind === "cuda",
          reason: "decode steps of the CPU have no padding (decodeBucket)",
        },
      },
      // more heads than a block of a GPU takes at once
      transformed({ B: 2, samples: 2, prompt: 290, completion: 9, H: 18, Hkv: 1, Dh: 16, x: "bf16", norms: true }),
      transformed({ B: 2, samples: 2, prompt: 20, completion: 2, H: 9, Hkv: 1, Dh: 24, x: "f32", norms: false }),
    ],
    real: (s) =>
      computeDTypes.flatMap((dtype) =>
        s.batches.map((B) => {
          const { prompt, completion, samples, H, Dh } = s;
          const named = { B, prompts: Math.ceil(B / samples), prompt, completion, H, Dh };
          return timed(
            "decode",
            dtype,
            named,
            decodeStep({ ...sizes(s), B, samples, prompt, completion, x: shortOf(dtype) }),
          );
        }),
      ),
  },
};
