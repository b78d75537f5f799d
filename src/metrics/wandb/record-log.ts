/**
 * The frame of W&B's `run-ID.wandb`: LevelDB's log format (https://github.com/google/leveldb/blob/main/doc/log_format.md)
 * behind a head of seven bytes, with zlib's CRC-32 of type and data. A record is cut where a block of 32 KiB ends.
 */
import { crc32 } from "node:zlib";
import { concatenate } from "../protobuf.ts";

const blockBytes = 32768;
const headBytes = 7;
const full = 1;
const first = 2;
const middle = 3;
const last = 4;

/** The beginning of the file: a word, a magic number, the version. */
export const logHead = Uint8Array.of(...new TextEncoder().encode(":W&B"), 0xe1, 0xbe, 0);

const checksum = (type: number, data: Uint8Array): number => crc32(data, crc32(Uint8Array.of(type)));

function piece(type: number, data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(headBytes + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, checksum(type, data), true);
  view.setUint16(4, data.length, true);
  view.setUint8(6, type);
  bytes.set(data, headBytes);
  return bytes;
}

const room = (at: number): number => blockBytes - (at % blockBytes);

/** A record as it stands at `offset` of the file, filler before it included. */
export function framedAt(offset: number, record: Uint8Array): Uint8Array {
  const filler = new Uint8Array(room(offset) < headBytes ? room(offset) : 0);
  const pieces: Uint8Array[] = [filler];
  let at = offset + filler.length;
  for (let done = 0; pieces.length === 1 || done < record.length; ) {
    // A record that ends with its block leaves nothing for the next one.
    const data = record.subarray(done, done + room(at) - headBytes);
    const begins = done === 0 && pieces.length === 1;
    done += data.length;
    const ends = done === record.length;
    pieces.push(piece(begins ? (ends ? full : first) : ends ? last : middle, data));
    at += headBytes + data.length;
  }
  return concatenate(pieces);
}

export interface LoggedRecord {
  readonly record: Uint8Array;
  /** Where it and the filler before it begin, and where it ends. */
  readonly begin: number;
  readonly end: number;
}

/** The whole records of a file up to the first that is torn or damaged; null: not a file of W&B's. */
export function recordsOf(file: Uint8Array): LoggedRecord[] | null {
  if (!logHead.every((byte, i) => file[i] === byte)) return null;
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const records: LoggedRecord[] = [];
  let parts: Uint8Array[] = [];
  let begin = logHead.length;
  let at = begin;
  for (;;) {
    if (room(at) < headBytes) at += room(at);
    if (at + headBytes > file.length) return records;
    const type = view.getUint8(at + 6);
    const end = at + headBytes + view.getUint16(at + 4, true);
    const data = file.subarray(at + headBytes, end);
    const follows = parts.length === 0 ? type === full || type === first : type === middle || type === last;
    if (!follows || end > file.length || view.getUint32(at, true) !== checksum(type, data)) return records;
    parts.push(data);
    at = end;
    if (type !== full && type !== last) continue;
    records.push({ record: concatenate(parts), begin, end });
    parts = [];
    begin = end;
  }
}
