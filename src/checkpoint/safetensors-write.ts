/**
 * Writes safetensors, one file or shards with an index, as transformers and vLLM read them. Tensors are streamed piece by
 * piece, so that a model larger than memory can be written; each file appears whole or not at all (`atomic.ts`).
 */
import { existsSync, readdirSync, rmSync, statfsSync } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { dirname, join } from "node:path";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { RunError } from "../errors.ts";
import { writeFileAtomic, writeLargeFileAtomic } from "../files/atomic.ts";
import { indexFileName, singleFileName } from "./checkpoint.ts";
import { type SafetensorsDtype, safetensorsElementBytes } from "./safetensors-header.ts";

/** Bytes of a tensor: a view, or memory outside the JavaScript heap. */
export type TensorChunk = Uint8Array | { readonly address: number; readonly byteLength: number };

export interface TensorSource {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  /** The tensor's bytes in order. A chunk is written before the next is asked for, so one buffer may serve them all. */
  chunks(): Iterable<TensorChunk> | AsyncIterable<TensorChunk>;
}

/** Required by transformers before it loads a file. */
const defaultMetadata = { format: "pt" };
/** transformers' default. */
const defaultShardBytes = 5e9;
/** One write call: small enough that the event loop turns in between. */
const pieceBytes = 16 * 2 ** 20;

/** Tensors in the order in which a file has them. */
export const inFileOrder = <T extends Pick<TensorSource, "dtype">>(entries: readonly T[]): T[] =>
  [...entries].sort((a, b) => safetensorsElementBytes[b.dtype] - safetensorsElementBytes[a.dtype]);

/**
 * @param entries tensors in any order; larger elements are placed first, so that every tensor is aligned
 * @throws RunError if the disk is full or the file cannot be written (what was there before is untouched)
 */
export async function writeSafetensors(
  path: string,
  entries: readonly TensorSource[],
  metadata: Readonly<Record<string, string>> = defaultMetadata,
): Promise<void> {
  const ordered = inFileOrder(entries);
  const header = encodeHeader(ordered, metadata);
  requireSpace(path, header.byteLength + totalBytes(ordered));
  await writeLargeFileAtomic(path, async (file) => {
    await writePieces(file, header);
    for (const entry of ordered) {
      let written = 0;
      for await (const chunk of entry.chunks()) {
        written += chunk.byteLength;
        await writePieces(file, chunk);
      }
      if (written !== tensorBytes(entry))
        throw new Error(
          `${path}: tensor ${entry.name} gave ${written} bytes where its shape takes ${tensorBytes(entry)}`,
        );
    }
  });
}

/**
 * Writes a model's weights into `folder`: `model.safetensors`, or shards and their index if they are larger than
 * `maxShardBytes`; weights of an earlier save under other names are removed afterwards. Each file is replaced in one
 * step; for the folder as a whole, write into the one that `writeFolderAtomic` gives.
 *
 * @returns the names of the files written
 * @throws RunError if the disk is full or a file cannot be written
 */
export async function writeWeights(
  folder: string,
  entries: readonly TensorSource[],
  options: { readonly maxShardBytes?: number; readonly metadata?: Readonly<Record<string, string>> } = {},
): Promise<string[]> {
  const shards = splitIntoShards(entries, options.maxShardBytes ?? defaultShardBytes);
  const names = shards.map((_, i) => (shards.length === 1 ? singleFileName : shardName(i, shards.length)));
  requireSpace(join(folder, names[0]!), totalBytes(entries));
  const weightMap: Record<string, string> = {};
  for (const [i, shard] of shards.entries()) {
    await writeSafetensors(join(folder, names[i]!), shard, options.metadata);
    for (const entry of shard) weightMap[entry.name] = names[i]!;
  }
  if (shards.length > 1) {
    const index = { metadata: { total_size: totalBytes(entries) }, weight_map: weightMap };
    writeFileAtomic(join(folder, indexFileName), `${JSON.stringify(index, null, 2)}\n`);
    names.push(indexFileName);
  }
  for (const file of readdirSync(folder))
    if (/^model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?$/.test(file) && !names.includes(file))
      rmSync(join(folder, file));
  return names;
}

/**
 * The tensor, with its numbers checked as they are written: a run with broken weights must not replace good ones.
 *
 * @throws RunError from `chunks` at the first piece with a number that is infinite or NaN
 */
export function onlyFinite(entry: TensorSource): TensorSource {
  return {
    ...entry,
    async *chunks() {
      for await (const chunk of entry.chunks()) {
        const bytes = chunk instanceof Uint8Array ? chunk : new Uint8Array(bytesAt(chunk.address, chunk.byteLength));
        if (!allFinite(bytes, entry.dtype))
          throw new RunError(
            `tensor ${entry.name} has numbers that are not finite, so it is not saved: the learning rate is too high; ` +
              "lower it and resume from the last checkpoint, if there is one, with --resume_from_checkpoint true",
          );
        yield chunk;
      }
    },
  };
}

/** What is wrong with the numbers of a float32 tensor from a file: "not finite", or "negative"; no saved one has such. */
export function oddNumbers(
  { address, byteLength }: { readonly address: number; readonly byteLength: number },
  isPositive: boolean,
): "not finite" | "negative" | null {
  const bytes = bytesAt(address, byteLength);
  if (!allFinite(new Uint8Array(bytes), "F32")) return "not finite";
  return isPositive && new Float32Array(bytes).some((number) => number < 0) ? "negative" : null;
}

/** Whether no number has an exponent of all ones, which is infinity or NaN in every binary format here. */
function allFinite({ buffer, byteOffset, byteLength }: Uint8Array, dtype: SafetensorsDtype): boolean {
  const count = byteLength / safetensorsElementBytes[dtype];
  if (dtype === "F32") {
    const numbers = new Uint32Array(buffer, byteOffset, count);
    for (let i = 0; i < count; i++) if ((numbers[i]! & 0x7f800000) === 0x7f800000) return false;
  } else if (dtype === "BF16" || dtype === "F16") {
    const exponent = dtype === "BF16" ? 0x7f80 : 0x7c00;
    const numbers = new Uint16Array(buffer, byteOffset, count);
    for (let i = 0; i < count; i++) if ((numbers[i]! & exponent) === exponent) return false;
  } else throw new Error(`numbers of ${dtype} are not looked at`);
  return true;
}

function shardName(i: number, count: number): string {
  const digits = (n: number) => String(n).padStart(5, "0");
  return `model-${digits(i + 1)}-of-${digits(count)}.safetensors`;
}

function splitIntoShards(entries: readonly TensorSource[], maxShardBytes: number): TensorSource[][] {
  const shards: TensorSource[][] = [[]];
  let filled = 0;
  for (const entry of entries) {
    const bytes = tensorBytes(entry);
    if (filled > 0 && filled + bytes > maxShardBytes) {
      shards.push([]);
      filled = 0;
    }
    shards.at(-1)!.push(entry);
    filled += bytes;
  }
  return shards;
}

function encodeHeader(entries: readonly TensorSource[], metadata: Readonly<Record<string, string>>): Uint8Array {
  const json = new Map<string, unknown>([["__metadata__", metadata]]);
  let offset = 0;
  for (const { name, dtype, shape } of entries) {
    if (json.has(name)) throw new Error(`tensor ${name} is given twice`);
    const end = offset + tensorBytes({ dtype, shape });
    json.set(name, { dtype, shape, data_offsets: [offset, end] });
    offset = end;
  }
  const text = new TextEncoder().encode(JSON.stringify(Object.fromEntries(json)));
  const padded = Math.ceil(text.byteLength / 8) * 8;
  const header = new Uint8Array(8 + padded).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(padded), true);
  header.set(text, 8);
  return header;
}

async function writePieces(file: FileHandle, chunk: TensorChunk): Promise<void> {
  for (let at = 0; at < chunk.byteLength; ) {
    const length = Math.min(pieceBytes, chunk.byteLength - at);
    const piece =
      chunk instanceof Uint8Array
        ? chunk.subarray(at, at + length)
        : new Uint8Array(bytesAt(chunk.address + at, length));
    at += (await file.write(piece, 0, length)).bytesWritten;
  }
}

/** Fails before gigabytes are written rather than after; if the disk fills up meanwhile, the write itself fails. */
function requireSpace(path: string, bytes: number): void {
  const folder = dirname(path);
  if (!existsSync(folder)) return;
  const { bavail, bsize, blocks } = statfsSync(folder);
  const free = bavail * bsize;
  if (blocks > 0 && free < bytes)
    throw new RunError(
      `${path}: the disk has ${mebibytes(free)} MiB free and ${mebibytes(bytes)} MiB are to be written; ` +
        "free some space or write to another disk",
    );
}

function mebibytes(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(0);
}

function tensorBytes(entry: Pick<TensorSource, "dtype" | "shape">): number {
  return entry.shape.reduce((product, length) => product * length, safetensorsElementBytes[entry.dtype]);
}

function totalBytes(entries: readonly TensorSource[]): number {
  return entries.reduce((sum, entry) => sum + tensorBytes(entry), 0);
}
