/** Damage that knows a binary format: where its numbers are, and how to keep the rest valid. */
import { byteDamage, lyingNumbers } from "./bytes.ts";
import { jsonDamage, jsonNeutral } from "./json.ts";
import { bytesOf, type Mutation, utf8 } from "./mutation.ts";

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}
type Header = Record<string, Entry>;

const headerEnd = (bytes: Uint8Array): number => {
  const length = bytes.length < 8 ? 0n : Buffer.from(bytes).readBigUInt64LE(0);
  return 8 + Math.min(Number(length), bytes.length - 8);
};

function withHeader(bytes: Uint8Array, text: Uint8Array, data = bytes.subarray(headerEnd(bytes))): Uint8Array {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return new Uint8Array(Buffer.concat([length, text, data]));
}

function editHeader(name: string, edit: (header: Header, keys: string[], pick: () => string) => void): Mutation {
  return {
    name: `header: ${name}`,
    apply(bytes, random) {
      const header = parsedHeader(bytes);
      if (header === null) return null;
      const keys = Object.keys(header).filter((key) => key !== "__metadata__");
      if (keys.length < 2) return null;
      edit(header, keys, () => random.pick(keys));
      return withHeader(bytes, bytesOf(JSON.stringify(header)));
    },
  };
}

function parsedHeader(bytes: Uint8Array): Header | null {
  try {
    return JSON.parse(utf8(bytes.subarray(8, headerEnd(bytes)))) as Header;
  } catch {
    return null;
  }
}

/** The tensors' data in another order, with matching offsets. */
const rearranged: Mutation = {
  name: "its tensors in another order",
  neutral: true,
  apply(bytes) {
    const header = parsedHeader(bytes);
    if (header === null) return null;
    const { __metadata__: metadata, ...tensors } = header as Header & { __metadata__?: unknown };
    const data = bytes.subarray(headerEnd(bytes));
    const parts: Uint8Array[] = [];
    let at = 0;
    const entries = Object.entries(tensors).reverse();
    for (const [name, entry] of entries) {
      const part = data.slice(...entry.data_offsets);
      tensors[name] = { ...entry, data_offsets: [at, at + part.length] };
      parts.push(part);
      at += part.length;
    }
    const text = JSON.stringify({
      ...Object.fromEntries(entries.map(([name]) => [name, tensors[name]])),
      ...(metadata ? { __metadata__: metadata } : {}),
    });
    return withHeader(bytes, bytesOf(text), new Uint8Array(Buffer.concat(parts)));
  },
};

const dtypes = ["F32", "F16", "BF16", "F64", "I32", "U8", "F8_E4M3", "BOOL", "f32", "", "Q4_0"];

export const safetensorsDamage: readonly Mutation[] = [
  ...lyingNumbers("the header's length", () => [0, 8]),
  ...jsonDamage.map(
    (mutation): Mutation => ({
      name: `header: ${mutation.name}`,
      apply(bytes, random) {
        const text = mutation.apply(bytes.slice(8, headerEnd(bytes)), random);
        return text instanceof Uint8Array ? withHeader(bytes, text) : null;
      },
    }),
  ),
  editHeader("two tensors' offsets swapped", (header, _, pick) => {
    const [a, b] = [header[pick()]!, header[pick()]!];
    [a.data_offsets, b.data_offsets] = [b.data_offsets, a.data_offsets];
  }),
  editHeader("a tensor over another", (header, _, pick) => {
    header[pick()]!.data_offsets = header[pick()]!.data_offsets;
  }),
  editHeader("a tensor of another name", (header, _, pick) => {
    const name = pick();
    const { [name]: entry } = header;
    delete header[name];
    header[`${name}.other`] = entry!;
  }),
  editHeader("a shape turned round", (header, _, pick) => void header[pick()]!.shape.reverse()),
  {
    name: "header: another dtype",
    apply(bytes, random) {
      const header = parsedHeader(bytes);
      const key = header && random.pick(Object.keys(header).filter((name) => name !== "__metadata__"));
      if (!header || !key) return null;
      header[key]!.dtype = random.pick(dtypes);
      return withHeader(bytes, bytesOf(JSON.stringify(header)));
    },
  },
  ...lyingNumbers("data", (bytes) => [headerEnd(bytes), bytes.length]),
  {
    name: "data: no finite numbers",
    apply(bytes, random) {
      const copy = Buffer.from(bytes);
      const from = headerEnd(bytes);
      const floats = Math.floor((bytes.length - from) / 4);
      if (floats < 1) return null;
      const value = random.pick([Number.NaN, Infinity, -Infinity, 3e38, -3e38, 1e-45, 1e20]);
      for (let left = 1 + random.below(40); left > 0; left--) copy.writeFloatLE(value, from + 4 * random.below(floats));
      return new Uint8Array(copy);
    },
  },
  ...byteDamage,
];

export const safetensorsNeutral: readonly Mutation[] = [
  rearranged,
  ...jsonNeutral.map(
    (mutation): Mutation => ({
      name: `header: ${mutation.name}`,
      neutral: true,
      apply(bytes, random) {
        const text = mutation.apply(bytes.slice(8, headerEnd(bytes)), random);
        return text instanceof Uint8Array ? withHeader(bytes, text) : null;
      },
    }),
  ),
];

/** The metadata of a stream's first messages, and the footer at the end of the file format. */
const arrowFront = (bytes: Uint8Array): [number, number] => [0, Math.min(bytes.length, 1500)];
const arrowTail = (bytes: Uint8Array): [number, number] => [Math.max(0, bytes.length - 1500), bytes.length];

export const arrowDamage: readonly Mutation[] = [
  ...lyingNumbers("its front", arrowFront),
  ...lyingNumbers("its tail", arrowTail),
  ...lyingNumbers("anywhere", (bytes) => [0, bytes.length]),
  ...byteDamage,
];

/** Nothing is read after the mark that ends a stream. */
export const streamNeutral: readonly Mutation[] = [
  { name: "noise behind the end", neutral: true, apply: (bytes) => new Uint8Array([...bytes, ...Buffer.alloc(99, 7)]) },
];

/** Thrift: the footer, whose length is stored before the last four bytes, and the headers of the first pages. */
const parquetFooter = (bytes: Uint8Array): [number, number] => {
  const length = bytes.length < 12 ? 0 : Buffer.from(bytes).readUInt32LE(bytes.length - 8);
  return [Math.max(0, bytes.length - 8 - length), Math.max(0, bytes.length - 8)];
};

export const parquetDamage: readonly Mutation[] = [
  ...lyingNumbers("the footer", parquetFooter),
  ...lyingNumbers("the footer's length", (bytes) => [Math.max(0, bytes.length - 8), bytes.length]),
  ...lyingNumbers("the pages", (bytes) => [4, Math.max(5, parquetFooter(bytes)[0])]),
  ...byteDamage,
];
