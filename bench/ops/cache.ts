/** Decoding from the paged cache of keys and values, and putting them there. */
import { type AttentionShape, type KeyValuePages, PAGE_TOKENS } from "../../src/device/device.ts";
import { bytesPerElement, type ComputeDType } from "../../src/tensor/dtype.ts";
import { byteLength, type Tensor } from "../../src/tensor/tensor.ts";
import { checkHead, shapeOf, widthOf } from "./attention.ts";
import { type Benches, computeDTypes, EXPONENTIAL, type OpBench, picks, sizesText, type Use } from "./case.ts";
import type { Shapes } from "./shapes.ts";
import { coldCopies, copyBytes, type Input, type Workspace } from "./workspace.ts";

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
    for (const part of ["keys", "values"] as const)
      copyBytes(w.device, pages[part].address, first[part].address, byteLength(first[part]));
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

export function cacheBenches(s: Shapes): Benches<"kvStore" | "attentionDecode"> {
  return {
    kvStore: computeDTypes.flatMap((dtype) => [
      store("prefill", s.prefill, s, dtype),
      ...s.batches.map((B) => store("decode", B, s, dtype)),
    ]),
    attentionDecode: computeDTypes.flatMap((dtype) => s.batches.map((B) => decode(B, s, dtype))),
  };
}
