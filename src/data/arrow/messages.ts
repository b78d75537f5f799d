/**
 * Finds the messages of an Arrow IPC file, stream or file format, in a mapping of any size: only prefixes and metadata are
 * touched, never a body. Leaves out their contents (table.ts).
 *
 * Framing: https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc
 */
import type { FileMapping } from "../../../ffi/bindings/libc.ts";
import { errorText, InputError } from "../../errors.ts";
import {
  type BatchHeader,
  checkSchema,
  type FileBlock,
  type MessageMetadata,
  readFooter,
  readMessage,
  type SchemaHolder,
} from "./metadata.ts";

export interface BatchPlace {
  readonly header: BatchHeader;
  /** Offsets of the message's first byte and of its body in the file. */
  readonly messageAt: number;
  readonly bodyAt: number;
  readonly bodyLength: number;
}

export interface DictionaryPlace extends BatchPlace {
  readonly id: number;
}

/** The batches of each dictionary, by its id: the first one and those appended to it. */
export type Dictionaries = ReadonlyMap<number, readonly DictionaryPlace[]>;

export interface ArrowMessages {
  readonly format: "stream" | "file";
  /** The metadata with the schema: a message without its prefix, or the footer. */
  readonly schema: Uint8Array;
  readonly holder: SchemaHolder;
  /** MetadataVersion of the schema. */
  readonly version: number;
  /** Each with the dictionaries valid at its position: a stream may replace them. */
  readonly batches: readonly { readonly place: BatchPlace; readonly dictionaries: Dictionaries }[];
}

const CONTINUATION = 0xffffffff;
const MAGIC = "ARROW1";

/** Whether a file's first bytes are those of the file format, or of a stream, which begins with a schema message. */
export const looksLikeArrow = (start: Buffer): boolean =>
  start.toString("latin1", 0, MAGIC.length) === MAGIC || (start.length >= 4 && start.readUInt32LE() === CONTINUATION);

const DAMAGED = "the file is damaged or was cut off: copy or convert it again";

interface Message {
  readonly metadata: Uint8Array;
  readonly content: MessageMetadata;
  readonly at: number;
  readonly bodyAt: number;
}

/** @throws InputError naming the file, the message and the byte where it stops being Arrow. */
export function findMessages(mapping: FileMapping): ArrowMessages {
  refuseOtherFormats(mapping);
  return startsWith(mapping, MAGIC) ? fileMessages(mapping) : streamMessages(mapping);
}

function streamMessages(mapping: FileMapping): ArrowMessages {
  const index = new MessageIndex(mapping);
  const first = messageAt(mapping, 0, "the schema");
  if (first === "end" || first.content.header.kind !== "schema") throw notArrow(mapping);
  const schema = first.metadata;
  decode(mapping, 0, "the schema", () => checkSchema(schema, "message"));
  for (let at = first.bodyAt + first.content.bodyLength; at < mapping.byteLength; ) {
    const message = messageAt(mapping, at, index.nextName());
    if (message === "end") break;
    index.add(message);
    at = message.bodyAt + message.content.bodyLength;
  }
  return { format: "stream", schema, holder: "message", version: first.content.version, batches: index.batches };
}

/** The footer has everything that is needed; not every writer puts the schema message at the start. */
function fileMessages(mapping: FileMapping): ArrowMessages {
  const { path, byteLength } = mapping;
  const tail = byteLength - MAGIC.length;
  if (tail < 16 || text(mapping.view(tail, MAGIC.length)) !== MAGIC)
    throw new InputError(`${path}: the Arrow footer at its end is missing; ${DAMAGED}`);
  const footerLength = u32(mapping, tail - 4);
  const footerAt = tail - 4 - footerLength;
  if (footerAt < 8) throw new InputError(`${path}: a footer of ${footerLength} bytes; ${DAMAGED}`);
  const schema = mapping.view(footerAt, footerLength);
  const footer = decode(mapping, footerAt, "the footer", () => {
    checkSchema(schema, "footer");
    return readFooter(schema);
  });
  const index = new MessageIndex(mapping);
  const add = (block: FileBlock, name: string) => {
    const message = block.offset < 8 || block.offset >= footerAt ? "end" : messageAt(mapping, block.offset, name);
    if (message === "end" || message.content.bodyLength !== block.bodyLength)
      throw new InputError(`${path}: ${name} (byte ${block.offset}) is not where the footer says; ${DAMAGED}`);
    index.add(message);
  };
  for (const block of footer.dictionaries) add(block, "a dictionary");
  for (const block of footer.batches) add(block, index.nextName());
  return { format: "file", schema, holder: "footer", version: footer.version, batches: index.batches };
}

/** Collects batches and tracks the current dictionaries. */
class MessageIndex {
  readonly batches: { place: BatchPlace; dictionaries: Dictionaries }[] = [];
  private dictionaries: Dictionaries = new Map();
  private readonly mapping: FileMapping;

  constructor(mapping: FileMapping) {
    this.mapping = mapping;
  }

  nextName(): string {
    return `record batch ${this.batches.length}`;
  }

  add({ content, at, bodyAt }: Message): void {
    const { header, bodyLength } = content;
    if (header.kind === "batch") {
      this.batches.push({
        place: { header: header.batch, messageAt: at, bodyAt, bodyLength },
        dictionaries: this.dictionaries,
      });
    } else if (header.kind === "dictionary") {
      const place = { id: header.id, header: header.batch, messageAt: at, bodyAt, bodyLength };
      const before = header.isDelta ? (this.dictionaries.get(header.id) ?? []) : [];
      this.dictionaries = new Map(this.dictionaries).set(header.id, [...before, place]);
    } else {
      throw new InputError(`${this.mapping.path}: byte ${at} holds neither rows nor a dictionary; ${DAMAGED}`);
    }
  }
}

/** The message at byte `at`; "end" for the end-of-stream mark. */
function messageAt(mapping: FileMapping, at: number, name: string): Message | "end" {
  const { path, byteLength } = mapping;
  const torn = (why: string) =>
    at === 0 && u32(mapping, 0) !== CONTINUATION
      ? notArrow(mapping)
      : new InputError(`${path}: ${name} (byte ${at}) is torn: ${why}; ${DAMAGED}`);
  if (at + 4 > byteLength) throw at === 0 ? notArrow(mapping) : torn("its length is cut off");
  const first = u32(mapping, at);
  // Before Arrow 0.15 (2019) the length came without the continuation mark.
  const prefix = first === CONTINUATION ? 8 : 4;
  if (at + prefix > byteLength) throw torn("its length is cut off");
  const length = prefix === 8 ? u32(mapping, at + 4) : first;
  if (length === 0) return "end";
  const left = byteLength - at - prefix;
  if (length > left) throw torn(`metadata of ${length} bytes where ${left} are left`);
  const metadata = mapping.view(at + prefix, length);
  const content = decode(mapping, at, name, () => readMessage(metadata));
  const bodyAt = at + prefix + length;
  if (content.bodyLength > byteLength - bodyAt)
    throw torn(`a body of ${content.bodyLength} bytes where ${byteLength - bodyAt} are left`);
  return { metadata, content, at, bodyAt };
}

/** Turns whatever reading damaged metadata throws into one line. */
function decode<T>(mapping: FileMapping, at: number, name: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (at === 0) throw notArrow(mapping);
    const why = error instanceof RangeError ? "an offset beyond its end" : errorText(error);
    throw new InputError(`${mapping.path}: the metadata of ${name} (byte ${at}) has ${why}; ${DAMAGED}`);
  }
}

function refuseOtherFormats(mapping: FileMapping): void {
  const { path, byteLength } = mapping;
  if (byteLength === 0) throw new InputError(`${path}: the file is empty; ${DAMAGED}`);
  const convert = `make an Arrow file of it with: grpo data convert ${path} OUT.arrow`;
  if (startsWith(mapping, "PAR1")) throw new InputError(`${path}: a Parquet file, not Arrow; ${convert}`);
  if (startsWith(mapping, "FEA1"))
    throw new InputError(`${path}: Feather version 1; write it as version 2, which is Arrow`);
  if (startsWith(mapping, "\x1f\x8b")) throw new InputError(`${path}: gzip, not Arrow; unpack it first`);
  if (startsWith(mapping, "version https://git-lfs"))
    throw new InputError(`${path}: a Git LFS pointer, not the data itself; fetch it with: git lfs pull`);
  if (/^\s*[{[]/.test(text(mapping.view(0, Math.min(64, byteLength)))))
    throw new InputError(`${path}: JSON, not Arrow; ${convert}`);
}

function notArrow({ path }: FileMapping): InputError {
  return new InputError(
    `${path}: not an Arrow file (or its start is damaged); make one with: grpo data convert IN OUT.arrow`,
  );
}

function startsWith(mapping: FileMapping, start: string): boolean {
  return mapping.byteLength >= start.length && text(mapping.view(0, start.length)) === start;
}

function u32(mapping: FileMapping, at: number): number {
  const bytes = mapping.view(at, 4);
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}
