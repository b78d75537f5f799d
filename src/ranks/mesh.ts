/** Ranks that have met, each connected to each other: gathers, exchanges, and the agreement to stop. */
import { deserialize, serialize } from "bun:jsc";
import { errorText, RunError } from "../errors.ts";
import type { Carrier } from "./carrier.ts";
import type { Joined } from "./join.ts";
import type { MetRanks } from "./ranks.ts";
import { createWatch, TELL_WITHIN_MS, type WatchOptions } from "./watch.ts";

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
  const failing = Promise.withResolvers<void>();
  const watch = createWatch(joined, options, {
    onValue(r, number, bytes) {
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
      const received = others.map(({ link, rank: r }) => link.receive(number, receive[r]!));
      const sent = others.map(({ link, rank: r }) => link.send("data", number, ...send[r]!));
      try {
        // A rank that hangs neither reads nor writes, so a failure ends the exchange too.
        await waiting(() => Promise.race([failing.promise, Promise.all([...received, ...sent])]));
      } catch (error) {
        // The end of a link is known to the watch.
        throw watch.failure ?? new RunError(`an exchange between ranks failed (${errorText(error)})`);
      }
      if (watch.failure) throw watch.failure;
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

function gatheredFrom(bytes: Uint8Array): Gathered | null {
  try {
    return deserialize(bytes.buffer as ArrayBuffer) as Gathered;
  } catch {
    return null;
  }
}
