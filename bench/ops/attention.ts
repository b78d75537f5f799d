/**
 * Attention over a packed group (one prompt, its completions) and over one long prompt; decoding from the paged cache;
 * putting keys and values there.
 */
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { type AttentionShape, type KeyValuePages, PAGE_TOKENS } from "../../src/device/device.ts";
import { bytesPerElement, type ComputeDType } from "../../src/tensor/dtype.ts";
import { byteLength, type Tensor } from "../../src/tensor/tensor.ts";
import { type Benches, computeDTypes, EXPONENTIAL, near, type OpBench, picks, sizesText, type Use } from "./case.ts";
import { packedTokens, type Shapes } from "./shapes.ts";
import { coldCopies, type Input, type Workspace } from "./workspace.ts";

interface Segment {
  readonly start: number;
  readonly length: number;
  readonly prefixLength: number;
}

/** Packed tokens: the prefix of every segment but the first are the first segment's tokens. */
interface Packing {
  readonly use: Use;
  readonly name: Readonly<Record<string, number>>;
  readonly tokens: number;
  readonly segments: readonly Segment[];
}

/** Relative to values of size 1: float32's exponential and sums, and rounding to bfloat16 on the way out. */
const tolerance = (dtype: ComputeDType) => (dtype === "bfloat16" ? 2 ** -8 : 2 ** -16);

function group({ prompt, completion, samples, ...s }: Shapes): Packing {
  const completions = Array.from({ length: samples }, (_, i) => ({
    start: prompt + i * completion,
    length: completion,
    prefixLength: prompt,
  }));
  return {
    use: "training",
    name: { prompt, completions: samples, length: completion },
    tokens: packedTokens({ prompt, completion, samples, ...s }),
    segments: [{ start: 0, length: prompt, prefixLength: 0 }, ...completions],
  };
}

function alone(T: number): Packing {
  return { use: "large", name: { T }, tokens: T, segments: [{ start: 0, length: T, prefixLength: 0 }] };
}

function shapeOf({ H, Hkv, Dh }: Shapes): AttentionShape {
  return { heads: H, kvHeads: Hkv, headDim: Dh, scale: 1 / Math.sqrt(Dh) };
}

const widthOf = ({ heads, kvHeads, headDim }: AttentionShape) => (heads + 2 * kvHeads) * headDim;

/** (token, key) pairs that are not masked, of one head. */
function visiblePairs(segments: readonly Segment[]): number {
  return segments.reduce((sum, s) => sum + s.length * s.prefixLength + (s.length * (s.length + 1)) / 2, 0);
}

/** Rows that token t sees, its own last. */
function seenBy(segments: readonly Segment[], t: number): number[] {
  const own = segments.find((s) => t >= s.start && t < s.start + s.length)!;
  const prefix = Array.from({ length: own.prefixLength }, (_, i) => i);
  return [...prefix, ...Array.from({ length: t - own.start + 1 }, (_, i) => own.start + i)];
}

/** Where a head's q, k and v begin in a row of qkv. */
function headColumns({ heads, kvHeads, headDim }: AttentionShape, head: number) {
  const kv = Math.floor((head * kvHeads) / heads);
  return { q: head * headDim, k: (heads + kv) * headDim, v: (heads + kvHeads + kv) * headDim };
}

/** Softmax of one query over the keys at `rows`: weights, and their log-sum-exp. */
function weightsOf(
  q: (d: number) => number,
  key: (row: number, d: number) => number,
  rows: readonly number[],
  shape: AttentionShape,
) {
  const scores = Float64Array.from(rows, (row) => {
    let dot = 0;
    for (let d = 0; d < shape.headDim; d++) dot += q(d) * key(row, d);
    return dot * shape.scale;
  });
  const top = scores.reduce((a, b) => Math.max(a, b));
  const lse = top + Math.log(scores.reduce((sum, x) => sum + Math.exp(x - top), 0));
  return { weights: scores.map((x) => Math.exp(x - lse)), lse };
}

/** Compares one head's output with Σ weight · value. */
function checkHead(
  what: string,
  got: Float64Array,
  query: { at: (d: number) => number; head: number },
  cache: (row: number, column: number) => number,
  rows: readonly number[],
  shape: AttentionShape,
  dtype: ComputeDType,
): number {
  const c = headColumns(shape, query.head);
  const { weights, lse } = weightsOf(
    (d) => query.at(c.q + d),
    (row, d) => cache(row, c.k + d),
    rows,
    shape,
  );
  for (const d of picks(shape.headDim, 5)) {
    const want = rows.reduce((sum, row, i) => sum + weights[i]! * cache(row, c.v + d), 0);
    near(`${what}, ${d}]`, got[query.head * shape.headDim + d], want, tolerance(dtype));
  }
  return lse;
}

function forward(packing: Packing, shape: AttentionShape, dtype: ComputeDType): OpBench {
  const { tokens: T, segments } = packing;
  const [width, heads] = [widthOf(shape), shape.heads];
  return {
    op: "attentionForward",
    use: packing.use,
    dtype,
    sizes: sizesText({ ...packing.name, H: heads, Dh: shape.headDim }),
    flops: visiblePairs(segments) * heads * (4 * shape.headDim + EXPONENTIAL),
    bytes: T * (width + heads * shape.headDim) * bytesPerElement(dtype) + 4 * T * heads,
    open(w) {
      const b = packed(w, packing, shape, dtype);
      return {
        run: () => w.device.ops.attentionForward(b.out, b.lse, b.qkv, b.segments, shape),
        verify() {
          const lse = w.values(b.lse);
          for (const t of picks(T, 7))
            for (const head of picks(heads, 3)) {
              const query = { at: (d: number) => b.qkv.at(t * width + d), head };
              const cache = (row: number, column: number) => b.qkv.at(row * width + column);
              const want = checkHead(
                `out[${t}, ${head}`,
                w.values(b.out, t),
                query,
                cache,
                seenBy(segments, t),
                shape,
                dtype,
              );
              near(`lse[${t}, ${head}]`, lse[t * heads + head], want, 2 ** -16 * (1 + Math.abs(want)));
            }
        },
      };
    },
  };
}

function packed(w: Workspace, { tokens: T, segments }: Packing, shape: AttentionShape, dtype: ComputeDType) {
  return {
    qkv: w.input("qkv", dtype, [T, widthOf(shape)]),
    out: w.output("out", dtype, [T, shape.heads * shape.headDim]),
    lse: w.output("lse", "float32", [T, shape.heads]),
    segments: w.integers(
      "segments",
      [segments.length, 4],
      segments.flatMap((s) => [s.start, s.length, 0, s.prefixLength]),
    ),
  };
}

function backward(packing: Packing, shape: AttentionShape, dtype: ComputeDType): OpBench {
  const { tokens: T, segments } = packing;
  const { heads, kvHeads, headDim: Dh, scale } = shape;
  const width = widthOf(shape);
  return {
    op: "attentionBackward",
    use: packing.use,
    dtype,
    sizes: sizesText({ ...packing.name, H: heads, Dh }),
    flops: visiblePairs(segments) * heads * (10 * Dh + EXPONENTIAL),
    bytes: T * ((width + heads * Dh) * bytesPerElement(dtype) + 4 * (width + heads * Dh + heads)),
    open(w) {
      const b = packed(w, packing, shape, dtype);
      const dout = w.input("dout", "float32", [T, heads * Dh]);
      const dqkv = w.output("dqkv", "float32", [T, width]);
      const scratch = w.output("scratch", "float32", [T, w.device.attentionScratchElements(shape)]);
      w.device.ops.attentionForward(b.out, b.lse, b.qkv, b.segments, shape);
      return {
        run: () => w.device.ops.attentionBackward(dqkv, dout, b.qkv, b.out, b.lse, b.segments, scratch, shape),
        verify() {
          const [out, lse] = [w.values(b.out), w.values(b.lse)];
          const dot = (count: number, f: (d: number) => number, g: (d: number) => number) => {
            let sum = 0;
            for (let d = 0; d < count; d++) sum += f(d) * g(d);
            return sum;
          };
          /** P and dS of token t, head, key j. */
          const pair = (t: number, head: number, j: number) => {
            const c = headColumns(shape, head);
            const [o, q] = [(t * heads + head) * Dh, t * width + c.q];
            const score =
              scale *
              dot(
                Dh,
                (d) => b.qkv.at(q + d),
                (d) => b.qkv.at(j * width + c.k + d),
              );
            const p = Math.exp(score - lse[t * heads + head]!);
            const dp = dot(
              Dh,
              (d) => dout.at(o + d),
              (d) => b.qkv.at(j * width + c.v + d),
            );
            const mean = dot(
              Dh,
              (d) => dout.at(o + d),
              (d) => out[o + d]!,
            );
            return { p, ds: p * (dp - mean) * scale };
          };
          // Sums of up to T terms of mixed sign, with bfloat16's rounding of `out` in each.
          const allowed = (magnitude: number) => 2 ** -14 * (1 + magnitude);
          for (const t of picks(T, 4))
            for (const head of picks(heads, 2)) {
              const c = headColumns(shape, head);
              const seen = seenBy(segments, t);
              const parts = seen.map((j) => pair(t, head, j).ds);
              const size = parts.reduce((sum, x) => sum + Math.abs(x), 0);
              const row = w.values(dqkv, t);
              for (const d of picks(Dh, 3)) {
                const want = seen.reduce((sum, j, i) => sum + parts[i]! * b.qkv.at(j * width + c.k + d), 0);
                near(`dq[${t}, ${head}, ${d}]`, row[c.q + d], want, allowed(size));
              }
            }
          for (const j of picks(T, 3))
            for (const kv of picks(kvHeads, 2)) {
              const perKey = heads / kvHeads;
              const c = headColumns(shape, kv * perKey);
              const terms: { t: number; head: number; p: number; ds: number }[] = [];
              for (let t = 0; t < T; t++)
                if (seenBy(segments, t).includes(j))
                  for (let i = 0; i < perKey; i++)
                    terms.push({ t, head: kv * perKey + i, ...pair(t, kv * perKey + i, j) });
              const size = terms.reduce((sum, x) => sum + Math.abs(x.ds) + x.p, 0);
              const row = w.values(dqkv, j);
              for (const d of picks(Dh, 3)) {
                const dk = terms.reduce((sum, x) => sum + x.ds * b.qkv.at(x.t * width + x.head * Dh + d), 0);
                const dv = terms.reduce((sum, x) => sum + x.p * dout.at((x.t * heads + x.head) * Dh + d), 0);
                near(`dk[${j}, ${kv}, ${d}]`, row[c.k + d], dk, allowed(size));
                near(`dv[${j}, ${kv}, ${d}]`, row[c.v + d], dv, allowed(size));
              }
            }
        },
      };
    },
  };
}

function pagesOf(w: Workspace, count: number, shape: AttentionShape, dtype: ComputeDType): KeyValuePages {
  const { keys, values } = w.device.pageElements(shape);
  return {
    keys: w.output("keys", dtype, [count, keys]),
    values: w.output("values", dtype, [count, values]),
  };
}

/** Copies of a filled cache, as other layers have them, together larger than most caches of the processor. */
function layersOf(w: Workspace, first: KeyValuePages, count: number, shape: AttentionShape, dtype: ComputeDType) {
  const copies = Array.from({ length: coldCopies(byteLength(first.keys) + byteLength(first.values)) - 1 }, () => {
    const pages = pagesOf(w, count, shape, dtype);
    for (const part of ["keys", "values"] as const) {
      const bytes = byteLength(first[part]);
      new Uint8Array(bytesAt(pages[part].address, bytes)).set(new Uint8Array(bytesAt(first[part].address, bytes)));
    }
    return pages;
  });
  return [first, ...copies];
}

/** Stores rows [from, from + count) of a sequence in the pages from `page` on; returns the next free page. */
function placeRows(pages: number[], offsets: number[], count: number, page: number): number {
  for (let i = 0; i < count; i++) {
    pages.push(page + Math.floor(i / PAGE_TOKENS));
    offsets.push(i % PAGE_TOKENS);
  }
  return page + Math.ceil(count / PAGE_TOKENS);
}

function decode(B: number, s: Shapes, dtype: ComputeDType): OpBench {
  const shape = shapeOf(s);
  const { heads, kvHeads, headDim: Dh } = shape;
  const { prompt: P, completion: C } = s;
  const prompts = Math.ceil(B / s.samples);
  const width = widthOf(shape);
  const [promptPages, completionPages] = [Math.ceil(P / PAGE_TOKENS), Math.ceil(C / PAGE_TOKENS)];
  return {
    op: "attentionDecode",
    use: "decode",
    dtype,
    sizes: sizesText({ B, prompts, prompt: P, completion: C, H: heads, Dh }),
    flops: B * (P + C) * heads * (4 * Dh + EXPONENTIAL),
    bytes: ((prompts * P + B * C) * 2 * kvHeads * Dh + 2 * B * heads * Dh) * bytesPerElement(dtype),
    open(w) {
      const [pages, offsets]: [number[], number[]] = [[], []];
      let free = 0;
      for (let p = 0; p < prompts; p++) free = placeRows(pages, offsets, P, free);
      for (let b = 0; b < B; b++) free = placeRows(pages, offsets, C, free);
      const stored = w.input("stored", dtype, [pages.length, width]);
      const first = pagesOf(w, free, shape, dtype);
      const at = (name: string, values: number[]) => w.integers(name, [values.length], values);
      w.device.ops.kvStore(first, stored, at("page", pages), at("offset", offsets), shape);
      const layers = layersOf(w, first, free, shape, dtype);
      const promptOf = (b: number) => Math.floor(b / s.samples);
      const table = Array.from({ length: B }, (_, b) => [
        ...Array.from({ length: promptPages }, (_, i) => promptOf(b) * promptPages + i),
        ...Array.from({ length: completionPages }, (_, i) => prompts * promptPages + b * completionPages + i),
      ]).flat();
      const pageTable = w.integers("page table", [B, promptPages + completionPages], table);
      const promptLengths = at("prompt lengths", Array(B).fill(P));
      const completionLengths = at("completion lengths", Array(B).fill(C));
      const qkv = w.input("qkv", dtype, [B, width]);
      const out = w.output("out", dtype, [B, heads * Dh]);
      let turn = 0;
      return {
        run() {
          const layer = layers[turn++ % layers.length]!;
          w.device.ops.attentionDecode(out, qkv, layer, pageTable, promptLengths, completionLengths, shape);
        },
        verify() {
          for (const b of picks(B, 4)) {
            const rows = [
              ...Array.from({ length: P }, (_, i) => promptOf(b) * P + i),
              ...Array.from({ length: C }, (_, i) => prompts * P + b * C + i),
            ];
            for (const head of picks(heads, 3)) {
              const query = { at: (d: number) => qkv.at(b * width + d), head };
              checkHead(`out[${b}, ${head}`, w.values(out, b), query, storedAt(stored, width), rows, shape, dtype);
            }
          }
        },
      };
    },
  };
}

const storedAt = (stored: Input, width: number) => (row: number, column: number) => stored.at(row * width + column);

/** T tokens of one prompt; decoding stores fewer, each in a page of its own. */
function store(use: Use, T: number, s: Shapes, dtype: ComputeDType): OpBench {
  const shape = shapeOf(s);
  const { heads, kvHeads, headDim: Dh } = shape;
  const width = widthOf(shape);
  const apart = use === "decode";
  return {
    op: "kvStore",
    use,
    dtype,
    sizes: sizesText({ T, Hkv: kvHeads, Dh }),
    flops: 0,
    bytes: 2 * T * 2 * kvHeads * Dh * bytesPerElement(dtype),
    open(w) {
      const [pages, offsets]: [number[], number[]] = [[], []];
      let count = 0;
      if (apart) for (let t = 0; t < T; t++) count = placeRows(pages, offsets, 1, count);
      else count = placeRows(pages, offsets, T, 0);
      const [page, offset] = [w.integers("page", [T], pages), w.integers("offset", [T], offsets)];
      const qkv = w.input("qkv", dtype, [T, width]);
      const cache = pagesOf(w, count, shape, dtype);
      return {
        run: () => w.device.ops.kvStore(cache, qkv, page, offset, shape),
        // The layout of a page is the device's own, so what was stored is read by attention: of one token over all of
        // its prompt, or over itself.
        verify() {
          const out = w.output("out", dtype, [1, heads * Dh]);
          const length = (name: string, value: number): Tensor => w.integers(name, [1], [value]);
          for (const t of apart ? picks(T, 4) : [0]) {
            const rows = apart ? [t] : Array.from({ length: T }, (_, i) => i);
            const used = apart ? [t] : Array.from({ length: count }, (_, i) => i);
            const table = w.integers("page table", [1, used.length], used);
            const query = w.input("query", dtype, [1, width]);
            w.device.ops.attentionDecode(
              out,
              query,
              cache,
              table,
              length("prompt", rows.length),
              length("completion", 0),
              shape,
            );
            const at = storedAt(qkv, width);
            for (const head of picks(heads, 3))
              checkHead(`out[${t}, ${head}`, w.values(out, 0), { at: query.at, head }, at, rows, shape, dtype);
          }
        },
      };
    },
  };
}

export function attentionBenches(
  s: Shapes,
): Benches<"attentionForward" | "attentionBackward" | "kvStore" | "attentionDecode"> {
  const shape = shapeOf(s);
  const packings = [group(s), alone(packedTokens(s))];
  return {
    attentionForward: computeDTypes.flatMap((dtype) => packings.map((packing) => forward(packing, shape, dtype))),
    attentionBackward: computeDTypes.flatMap((dtype) => packings.map((packing) => backward(packing, shape, dtype))),
    kvStore: computeDTypes.flatMap((dtype) => [
      store("prefill", s.prefill, s, dtype),
      ...s.batches.map((B) => store("decode", B, s, dtype)),
    ]),
    attentionDecode: computeDTypes.flatMap((dtype) => s.batches.map((B) => decode(B, s, dtype))),
  };
}
