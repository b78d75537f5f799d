/** The bytes between two ranks: frames of a kind, a number and a payload, 16 bytes ahead of it saying so. */

/** What a frame is. */
const kinds = {
  challenge: 1,
  hello: 2,
  welcome: 3,
  refusal: 4,
  table: 5,
  value: 6,
  data: 7,
  beat: 8,
  stop: 9,
  failure: 10,
  bye: 11,
  ready: 12,
  go: 13,
  lent: 14,
  returned: 15,
} as const;
export type Kind = keyof typeof kinds;
const kindNames = new Map<number, Kind>(Object.entries(kinds).map(([name, code]) => [code, name as Kind]));

const HEADER = 16;
/** "GRPR": both ends speak this language. */
const MAGIC = 0x47525052;

export function headerOf(kind: Kind, number: number, length: number): Uint8Array {
  const bytes = new Uint8Array(HEADER);
  const view = new DataView(bytes.buffer);
  for (const [i, word] of [MAGIC, kinds[kind], number, length].entries()) view.setUint32(4 * i, word, true);
  return bytes;
}

export const totalOf = (parts: readonly Uint8Array[]): number => parts.reduce((sum, part) => sum + part.length, 0);

/** Copies `bytes` into a list of buffers, from byte `at` of all of them on. */
export function scatter(into: readonly Uint8Array[], at: number, bytes: Uint8Array): void {
  let skip = at;
  let from = 0;
  for (const target of into) {
    if (from === bytes.length) return;
    if (skip >= target.length) {
      skip -= target.length;
      continue;
    }
    const count = Math.min(target.length - skip, bytes.length - from);
    target.set(bytes.subarray(from, from + count), skip);
    from += count;
    skip = 0;
  }
}

/**
 * Frees what has been copied. Without it megabytes would wait for the garbage collector until there are as many as all that is
 * live.
 */
export function release(bytes: Uint8Array): void {
  (bytes.buffer as ArrayBuffer).transfer(0);
}

export interface FrameEvents {
  /** The largest payload that is taken. */
  readonly limit: () => number;
  /** Where a payload goes; null: into new memory. @throws Error for one that is refused */
  readonly target: (kind: Kind, number: number, length: number) => readonly Uint8Array[] | null;
  /** A frame is complete; `kept`: its payload, if it went into new memory. */
  readonly onFrame: (kind: Kind, number: number, kept: Uint8Array | null) => void;
}

interface Incoming {
  readonly kind: Kind;
  readonly number: number;
  readonly length: number;
  readonly into: readonly Uint8Array[];
  readonly kept: Uint8Array | null;
  filled: number;
}

/** Takes bytes as they come. What it returns throws an Error for bytes that are no frame, or a refused one. */
export function createFrameReader({ limit, target, onFrame }: FrameEvents): (bytes: Uint8Array) => void {
  const header = new Uint8Array(HEADER);
  const view = new DataView(header.buffer);
  let headerFilled = 0;
  let frame: Incoming | null = null;

  const begin = (): Incoming => {
    const kind = kindNames.get(view.getUint32(4, true));
    if (view.getUint32(0, true) !== MAGIC || kind === undefined)
      throw new Error("it does not speak this program's language");
    const [number, length] = [view.getUint32(8, true), view.getUint32(12, true)];
    if (length > limit()) throw new Error(`its message of ${length} bytes is too large`);
    const into = target(kind, number, length);
    const kept = into === null ? new Uint8Array(length) : null;
    return { kind, number, length, into: into ?? [kept!], kept, filled: 0 };
  };

  return (bytes) => {
    let at = 0;
    while (at < bytes.length) {
      if (frame === null) {
        const count = Math.min(HEADER - headerFilled, bytes.length - at);
        header.set(bytes.subarray(at, at + count), headerFilled);
        headerFilled += count;
        at += count;
        if (headerFilled < HEADER) return;
        headerFilled = 0;
        frame = begin();
      }
      const count = Math.min(frame.length - frame.filled, bytes.length - at);
      if (count > 0) scatter(frame.into, frame.filled, bytes.subarray(at, at + count));
      frame.filled += count;
      at += count;
      if (frame.filled < frame.length) return;
      const { kind, number, kept } = frame;
      frame = null;
      onFrame(kind, number, kept);
    }
  };
}
