/**
 * Ranks of one machine as neighbours: one reads the other's memory where it lies, by one copy, instead of having the bytes sent
 * through a socket, which takes four. Whether the system permits that is tried once, with a number that the other has drawn.
 */
import { randomBytes } from "node:crypto";
import {
  MOST_SPANS,
  openProcessMemory,
  type ProcessMemory,
  type Span,
  spanOf,
} from "../../ffi/bindings/process-memory.ts";
import { breathe } from "../device/breathe.ts";
import { exchangeVariable } from "./environment.ts";

/** Bytes that are copied between two turns of the event loop. */
const PIECE = 4 * 2 ** 20;
const TOKEN_BYTES = 32;

/** What a rank says so that others can try to read its memory. */
interface Offer {
  readonly pid: number;
  readonly address: number;
  /** The bytes at the address. */
  readonly token: string;
}

export interface Neighbours {
  /** Ranks whose memory this one reads. */
  readonly reads: readonly boolean[];
  /** Ranks that read this one's. */
  readonly readBy: readonly boolean[];
  /** @throws Error if the other's memory cannot be read, or it lends another number of bytes than there is room for */
  read(rank: number, lent: Uint8Array, into: readonly Uint8Array[]): Promise<void>;
}

/** Where buffers lie, as another rank is told. */
export function lend(buffers: readonly Uint8Array[]): Uint8Array {
  const all = new Float64Array(buffers.flatMap((bytes) => Object.values(spanOf(bytes))));
  return new Uint8Array(all.buffer);
}

function borrowed(lent: Uint8Array): Span[] {
  const numbers = new Float64Array(lent.slice().buffer);
  return Array.from({ length: numbers.length / 2 }, (_, i) => ({
    address: numbers[2 * i]!,
    length: numbers[2 * i + 1]!,
  }));
}

const total = (spans: readonly Span[]): number => spans.reduce((sum, { length }) => sum + length, 0);

/** A place in a list of spans. */
interface Place {
  readonly index: number;
  readonly offset: number;
}

/** The spans from a place on, of at most so many bytes and no more spans than the system takes, and the place after them. */
function cut(spans: readonly Span[], { index, offset }: Place, bytes: number): { taken: Span[]; next: Place } {
  const taken: Span[] = [];
  let [i, skip, room] = [index, offset, bytes];
  while (room > 0 && i < spans.length && taken.length < MOST_SPANS) {
    const { address, length } = spans[i]!;
    const own = Math.min(length - skip, room);
    if (own > 0) taken.push({ address: address + skip, length: own });
    room -= own;
    skip += own;
    if (skip === length) [i, skip] = [i + 1, 0];
  }
  return { taken, next: { index: i, offset: skip } };
}

/** Copies all, in pieces. */
async function copy(memory: ProcessMemory, pid: number, lent: readonly Span[], into: readonly Span[]): Promise<void> {
  const wanted = total(into);
  if (total(lent) !== wanted) throw new Error(`it lent ${total(lent)} bytes where ${wanted} were expected`);
  let [from, to]: Place[] = [
    { index: 0, offset: 0 },
    { index: 0, offset: 0 },
  ];
  for (let done = 0; done < wanted; ) {
    const length = Math.min(...[cut(lent, from!, PIECE), cut(into, to!, PIECE)].map(({ taken }) => total(taken)));
    const [sources, targets] = [cut(lent, from!, length), cut(into, to!, length)];
    const fault = memory.read(pid, sources.taken, targets.taken);
    if (fault !== 0) throw new Error(`its memory cannot be read (error ${fault} of the system)`);
    [from, to] = [sources.next, targets.next];
    done += length;
    await breathe();
  }
}

/**
 * Finds out whose memory can be read. All ranks call it.
 *
 * @param rank this one's number
 * @param gather every rank's value, as `Ranks.gather`
 * @param parent of the ranks of this machine: where the system lets only ancestors read, it and all that it has started may
 */
export async function meetNeighbours(
  rank: number,
  gather: <T>(what: string, value: T) => Promise<T[]>,
  parent: number = process.ppid,
): Promise<Neighbours> {
  const memory = process.env[exchangeVariable] === "tcp" ? null : openProcessMemory();
  memory?.permit(parent);
  const drawn = randomBytes(TOKEN_BYTES);
  const own: Offer | null = memory && {
    ...{ pid: process.pid, address: spanOf(drawn).address, token: drawn.toString("hex") },
  };
  const offers = await gather("how ranks reach each other", own);
  const reads = offers.map((offer, r) => {
    if (memory === null || offer === null || r === rank) return false;
    const into = Buffer.alloc(TOKEN_BYTES);
    const from = { address: offer.address, length: TOKEN_BYTES };
    return memory.read(offer.pid, [from], [spanOf(into)]) === 0 && into.toString("hex") === offer.token;
  });
  // The drawn number stays until all have read it.
  const all = await gather("whose memory ranks read", reads);
  drawn.fill(0);
  return {
    reads,
    readBy: all.map((theirs) => theirs[rank]!),
    async read(r, lent, into) {
      await copy(memory!, offers[r]!.pid, borrowed(lent), into.map(spanOf));
    },
  };
}
