/**
 * A connection between two ranks. Payloads that somebody waits for go where they are wanted, without a copy; others are
 * kept until they are. Knows nothing of who is at its other end; join.ts does.
 */
import type { Socket } from "bun";
import { errorText } from "../errors.ts";
import { createFrameReader, headerOf, type Kind, release, scatter, totalOf } from "./frames.ts";

/** The largest frame of a stranger, and of a rank. */
const STRANGER_BYTES = 16 * 1024;
const RANK_BYTES = 2 ** 31;
/** The largest piece that is handed to the system at once. */
const PIECE = 4 * 2 ** 20;

export interface LinkEvents {
  /** A frame other than `data`. The bytes are the receiver's. */
  readonly onFrame: (kind: Kind, number: number, bytes: Uint8Array) => void;
  /** It has ended: closed by the other side, refused by the system, or broken. Called at most once. */
  readonly onEnd: (why: string) => void;
}

export interface Link {
  /** When the other side was last heard, by performance.now(). */
  readonly heardAt: number;
  /** Queues a frame; resolves when the system has all of its bytes, whose memory must stay until then. */
  send(kind: Kind, number: number, ...parts: readonly Uint8Array[]): Promise<void>;
  /** Where the payload of the `data` frame of this number goes; resolves when it is there. */
  receive(number: number, into: readonly Uint8Array[]): Promise<void>;
  /** The other side has shown that it is a rank: larger frames are taken. */
  trust(): void;
  /** Sets who takes frames and the end; gets what came while nobody did. null: they are kept. */
  handle(events: LinkEvents | null): void;
  /** This process was held up for so many milliseconds, which are no silence of the other side. */
  excuse(ms: number): void;
  /** Closes once everything queued is sent; `onEnd` is not called. */
  close(): void;
  /** For the handler of the socket. */
  onData(bytes: Uint8Array): void;
  onDrain(): void;
  onClose(why: string): void;
}

/** Sends buffers one after the other, as fast as the system takes them. */
function createWriter(socket: Pick<Socket<unknown>, "write">, onEmpty: () => void) {
  const queue: { bytes: Uint8Array; readonly sent: (() => void) | null }[] = [];
  const flush = (): void => {
    while (queue.length > 0) {
      const next = queue[0]!;
      const piece = next.bytes.length > PIECE ? next.bytes.subarray(0, PIECE) : next.bytes;
      const written = socket.write(piece);
      if (written < 0) return; // closed, as the socket will say
      next.bytes = next.bytes.subarray(written);
      if (written < piece.length) return;
      if (next.bytes.length > 0) continue;
      queue.shift();
      next.sent?.();
    }
    onEmpty();
  };
  return {
    flush,
    isEmpty: () => queue.length === 0,
    push(parts: readonly Uint8Array[]): Promise<void> {
      const wasEmpty = queue.length === 0;
      const all = parts.filter((part) => part.length > 0);
      const sent = new Promise<void>((resolve) => {
        for (const [i, bytes] of all.entries()) queue.push({ bytes, sent: i === all.length - 1 ? resolve : null });
      });
      if (wasEmpty) flush();
      return sent;
    },
    abandon() {
      for (const { sent } of queue.splice(0)) sent?.();
    },
  };
}

interface Waiting {
  readonly into: readonly Uint8Array[];
  readonly done: () => void;
  readonly fail: (error: Error) => void;
}

/** Payloads of `data` frames, by number: those that are waited for, and those that came before. */
function createStore() {
  const waiting = new Map<number, Waiting>();
  const early = new Map<number, Uint8Array>();
  const requireSize = (into: readonly Uint8Array[], length: number): void => {
    const wanted = totalOf(into);
    if (wanted !== length) throw new Error(`it sent ${length} bytes where ${wanted} were expected`);
  };
  return {
    target(number: number, length: number): readonly Uint8Array[] | null {
      const wanted = waiting.get(number);
      if (wanted) requireSize(wanted.into, length);
      return wanted?.into ?? null;
    },
    arrived(number: number, kept: Uint8Array | null): void {
      const wanted = waiting.get(number);
      if (!wanted) return void early.set(number, kept!);
      // It may have begun to arrive before it was wanted.
      if (kept) {
        requireSize(wanted.into, kept.length);
        scatter(wanted.into, 0, kept);
        release(kept);
      }
      waiting.delete(number);
      wanted.done();
    },
    wait(number: number, into: readonly Uint8Array[]): Promise<void> {
      const bytes = early.get(number);
      if (!bytes) return new Promise((done, fail) => void waiting.set(number, { into, done, fail }));
      early.delete(number);
      requireSize(into, bytes.length);
      scatter(into, 0, bytes);
      release(bytes);
      return Promise.resolve();
    },
    abandon(why: string) {
      for (const { fail } of waiting.values()) fail(new Error(why));
      waiting.clear();
    },
  };
}

export function createLink(socket: Pick<Socket<unknown>, "write" | "end" | "terminate">): Link {
  let events: LinkEvents | null = null;
  let most = STRANGER_BYTES;
  let heardAt = performance.now();
  let ended: string | null = null;
  let closing = false;
  const held: [Kind, number, Uint8Array][] = [];
  const store = createStore();
  const writer = createWriter(socket, () => {
    if (closing) socket.end();
  });

  const onClose = (why: string): void => {
    if (ended !== null) return;
    ended = why;
    store.abandon(why);
    writer.abandon();
    if (!closing) events?.onEnd(why);
  };
  const breakOff = (why: string): void => {
    onClose(why);
    socket.terminate();
  };
  const read = createFrameReader({
    limit: () => most,
    target: (kind, number, length) => (kind === "data" ? store.target(number, length) : null),
    onFrame(kind, number, kept) {
      if (kind === "data") store.arrived(number, kept);
      else if (events) events.onFrame(kind, number, kept!);
      else held.push([kind, number, kept!]);
    },
  });

  return {
    get heardAt() {
      return heardAt;
    },
    send(kind, number, ...parts) {
      const length = totalOf(parts);
      if (length > RANK_BYTES) throw new RangeError(`${kind}: ${length} bytes are too many for one message`);
      return ended === null ? writer.push([headerOf(kind, number, length), ...parts]) : Promise.resolve();
    },
    async receive(number, into) {
      if (ended !== null) throw new Error(ended);
      try {
        await store.wait(number, into);
      } catch (error) {
        breakOff(errorText(error));
        throw error;
      }
    },
    trust() {
      most = RANK_BYTES;
    },
    handle(next) {
      events = next;
      if (next === null) return;
      // It may hand the link on.
      while (held.length > 0 && events === next) next.onFrame(...held.shift()!);
      if (ended !== null && events === next) next.onEnd(ended);
    },
    excuse(ms) {
      heardAt = Math.min(heardAt + ms, performance.now());
    },
    close() {
      closing = true;
      if (writer.isEmpty() && ended === null) socket.end();
    },
    onData(bytes) {
      heardAt = performance.now();
      if (ended !== null) return;
      try {
        read(bytes);
      } catch (error) {
        breakOff(errorText(error));
      }
    },
    onDrain: writer.flush,
    onClose,
  };
}
