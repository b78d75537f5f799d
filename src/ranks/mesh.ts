/** Ranks that have met, each connected to each other: gathers, exchanges, and the agreement to stop. */
import { deserialize, serialize } from "bun:jsc";
import { errorText, RunError } from "../errors.ts";
import type { Carrier } from "./carrier.ts";
import type { Joined } from "./join.ts";
import type { Link } from "./link.ts";
import { lend, meetNeighbours, type Neighbours } from "./neighbours.ts";
import type { MetRanks } from "./ranks.ts";
import { createWatch, type Message, TELL_WITHIN_MS, type WatchOptions } from "./watch.ts";

/** How long an error of an exchange waits for the failure of a rank that explains it. */
const EXPLAINED_WITHIN_MS = 2000;

interface Gathered {
  readonly what: string;
  readonly stop: boolean;
  readonly value: unknown;
}

/** @param carrier carries the bytes of exchanges; null: the connections do */
export function createMesh(joined: Joined, options: WatchOptions, carrier: Carrier | null = null): MetRanks {
  const { rank } = options;
  const size = joined.members.length;
  const others = joined.links.flatMap((link, r) => (link === null ? [] : [{ link, rank: r }]));
  let agreed = false;
  let waitedMs = 0;
  let gathers = 0;
  let exchanges = 0;
  /** Values that have come: by the number of their gather, then by rank. */
  const inbox = new Map<number, Map<number, Uint8Array>>();
  let wake: (() => void) | null = null;
  let neighbours: Neighbours | null = null;
  const letters = createLetters();
  const failing = Promise.withResolvers<void>();
  const watch = createWatch(joined, options, {
    onMessage(kind, r, number, bytes) {
      if (kind !== "value") return letters.arrived(kind, r, number, bytes);
      const values = inbox.get(number) ?? new Map<number, Uint8Array>();
      inbox.set(number, values.set(r, bytes));
      wake?.();
    },
    onFailure() {
      wake?.();
      failing.resolve();
    },
  });

  const waiting = async <T>(work: () => Promise<T>): Promise<T> => {
    const start = performance.now();
    try {
      return await work();
    } finally {
      waitedMs += performance.now() - start;
    }
  };

  /** The other ranks' values of a gather. */
  const arrivals = async (number: number): Promise<ReadonlyMap<number, Uint8Array>> => {
    for (;;) {
      if (watch.failure) throw watch.failure;
      const values = inbox.get(number);
      if (values?.size === size - 1) {
        inbox.delete(number);
        return values;
      }
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
      wake = null;
    }
  };

  const gather = async <T>(what: string, value: T): Promise<T[]> => {
    if (watch.failure) throw watch.failure;
    const number = gathers++;
    const own: Gathered = { what, stop: watch.isAsked(), value };
    // Sockets do not take shared memory, which it returns: hence the copy.
    watch.toAll("value", number, new Uint8Array(serialize(own)).slice());
    const values = await waiting(() => arrivals(number));
    const all = Array.from({ length: size }, (_, r) => (r === rank ? own : gatheredFrom(values.get(r)!)));
    for (const [r, theirs] of all.entries())
      if (theirs?.what !== what) {
        const where = theirs?.what ?? "an unknown place";
        watch.lose(r, `it is at ${where} where rank ${rank} is at ${what}: their settings or data differ`);
        throw watch.failure;
      }
    agreed ||= all.some((theirs) => theirs!.stop);
    return all.map((theirs) => theirs!.value as T);
  };

  /** Bytes that the other rank sends, or lies still for. */
  const receiveFrom = async (r: number, link: Link, number: number, into: readonly Uint8Array[]): Promise<void> => {
    if (!neighbours?.reads[r]) return link.receive(number, into);
    const lent = await letters.of("lent", r, number);
    if (watch.failure) return;
    await neighbours.read(r, lent, into);
    await link.send("returned", number);
  };
  const sendTo = async (r: number, link: Link, number: number, parts: readonly Uint8Array[]): Promise<void> => {
    if (!neighbours?.readBy[r]) return link.send("data", number, ...parts);
    await link.send("lent", number, lend(parts));
    await letters.of("returned", r, number);
  };

  const requireAll = (): void => {
    if (watch.failure) throw watch.failure;
  };

  return {
    rank,
    size,
    exchanges: true,
    carrier: carrier?.name ?? null,
    gather,
    async first(what, value) {
      const [answer] = await gather(what, rank === 0 ? { value: await value() } : null);
      return answer!.value;
    },
    async exchange(send, receive) {
      requireAll();
      if (carrier) return waiting(() => carrier.exchange(send, receive, requireAll));
      const number = exchanges++;
      const received = others.map(({ link, rank: r }) => receiveFrom(r, link, number, receive[r]!));
      const sent = others.map(({ link, rank: r }) => sendTo(r, link, number, send[r]!));
      try {
        // A rank that hangs neither reads nor writes, so a failure ends the exchange too.
        await waiting(() => Promise.race([failing.promise, Promise.all([...received, ...sent])]));
      } catch (error) {
        // The watch will know why.
        await Promise.race([failing.promise, Bun.sleep(EXPLAINED_WITHIN_MS)]);
        throw watch.failure ?? new RunError(`an exchange between ranks failed (${errorText(error)})`);
      }
      if (watch.failure) throw watch.failure;
    },
    async meetNeighbours() {
      if (carrier === null) neighbours = await meetNeighbours(rank, gather);
    },
    waitFor: waiting,
    requireAll,
    askToStop: watch.ask,
    stopAgreed: () => agreed,
    shouldHurry: () => watch.isAsked() || watch.failure !== null,
    takeWait() {
      const seconds = waitedMs / 1000;
      waitedMs = 0;
      return seconds;
    },
    fail: watch.fail,
    async part() {
      await gather("the end", null);
      watch.stop();
      await Promise.race([watch.toAll("bye", 0), Bun.sleep(TELL_WITHIN_MS)]);
      carrier?.finish();
    },
    close() {
      watch.stop();
      for (const { link } of others) link.close();
    },
  };
}

/** Messages of exchanges, each of which somebody waits for, before it has come or after. */
function createLetters() {
  const known = new Map<string, PromiseWithResolvers<Uint8Array>>();
  const of = (key: string) => {
    const found = known.get(key) ?? Promise.withResolvers<Uint8Array>();
    known.set(key, found);
    return found;
  };
  const keyOf = (kind: Message, rank: number, number: number) => `${kind} ${rank} ${number}`;
  return {
    arrived(kind: Message, rank: number, number: number, bytes: Uint8Array): void {
      of(keyOf(kind, rank, number)).resolve(bytes);
    },
    async of(kind: Message, rank: number, number: number): Promise<Uint8Array> {
      const key = keyOf(kind, rank, number);
      const bytes = await of(key).promise;
      known.delete(key);
      return bytes;
    },
  };
}

function gatheredFrom(bytes: Uint8Array): Gathered | null {
  try {
    return deserialize(bytes.buffer as ArrayBuffer) as Gathered;
  } catch {
    return null;
  }
}
