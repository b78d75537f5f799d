/**
 * The watch that ranks keep over each other. A rank that ends, hangs or fails is named by one line, which one rank says,
 * and ends all. Rank 0 and each other rank send each other a sign of life every second: the main thread lets the event
 * loop turn often enough for that (promise 7). A wish to stop reaches all ranks, whichever of them hears it.
 */
import { type Cause, causeOf, RanksFailure } from "./failure.ts";
import type { Kind } from "./frames.ts";
import type { Joined } from "./join.ts";

export interface WatchOptions {
  readonly rank: number;
  readonly stopRequested: () => boolean;
  /** Whether what started the ranks is gone, which asks them to stop. */
  readonly isOrphan: () => boolean;
  /** Ends the process: a failure has not ended its work in time. */
  readonly end: (failure: RanksFailure) => void;
  /** Silence after which a rank counts as gone. */
  readonly silenceMs?: number | undefined;
}

const messages = ["value", "lent", "returned"] as const;
export type Message = (typeof messages)[number];
const isMessage = (kind: Kind): kind is Message => messages.some((known) => known === kind);

export interface WatchEvents {
  /** A value of a gather, or what an exchange between neighbours takes. */
  readonly onMessage: (kind: Message, rank: number, number: number, bytes: Uint8Array) => void;
  readonly onFailure: () => void;
}

export interface Watch {
  /** The run's failure; null: there is none. */
  readonly failure: RanksFailure | null;
  /** Asks all ranks to stop. */
  ask(): void;
  /** Whether a rank was asked to stop. */
  isAsked(): boolean;
  /** A rank is the cause of a failure. */
  lose(rank: number, text: string): void;
  /** Tells the others of this rank's own failure, unless they know of one. @returns what to throw in its place */
  fail(error: unknown): Promise<unknown>;
  /** From here on nobody's end matters. */
  stop(): void;
  /** Sends a frame to every other rank; resolves when the system has it. */
  toAll(kind: Kind, number: number, ...parts: readonly Uint8Array[]): Promise<unknown>;
}

const TICK_MS = 250;
const BEAT_MS = 1000;
const SILENCE_MS = 20_000;
/** How long a failure has to end the work by itself. */
const END_WITHIN_MS = 5000;
/** How long a rank tries to tell the others of its end. */
export const TELL_WITHIN_MS = 1000;

const cure = "resume from the last checkpoint with --resume_from_checkpoint true";

export function createWatch({ members, links }: Joined, options: WatchOptions, events: WatchEvents): Watch {
  const { rank, stopRequested, silenceMs = SILENCE_MS } = options;
  const others = links.flatMap((link, r) => (link === null ? [] : [{ link, rank: r }]));
  let failure: RanksFailure | null = null;
  let isOver = false;
  let asked = false;
  /** Ranks that have said that they end. */
  const parted = new Set<number>();

  const toAll: Watch["toAll"] = (kind, number, ...parts) =>
    Promise.all(others.map(({ link }) => link.send(kind, number, ...parts)));
  const tell = (cause: Cause) => toAll("failure", 0, Buffer.from(JSON.stringify(cause)));

  /** Takes note of a failure, tells the others and lets the work end. Only the first one counts. */
  const failBy = (cause: Cause): void => {
    if (failure !== null || isOver) return;
    const speaker = cause.rank === 0 ? 1 : 0;
    failure = new RanksFailure(cause, cause.told || rank !== speaker);
    tell(cause);
    const known = failure;
    setTimeout(() => options.end(known), END_WITHIN_MS).unref();
    events.onFailure();
  };
  const lose = (r: number, text: string): void =>
    failBy({ rank: r, host: members[r]!.host, text, exitCode: 1, told: false });

  const ask = (): void => {
    if (asked) return;
    asked = true;
    toAll("stop", 0);
  };

  for (const { link, rank: r } of others) {
    const { host, pid } = members[r]!;
    link.handle({
      onFrame(kind, number, bytes) {
        if (isMessage(kind)) events.onMessage(kind, r, number, bytes);
        else if (kind === "stop") asked = true;
        else if (kind === "failure") failBy(causeFrom(bytes, r, host));
        else if (kind === "bye") parted.add(r);
        else if (kind !== "beat") lose(r, `it sent a ${kind}, which has no place here`);
      },
      onEnd(why) {
        if (parted.has(r)) return;
        const how = /^closed$|RESET|EPIPE/i.test(why) ? "killed, crashed, or out of memory" : why;
        lose(r, `its process ${pid} has ended (${how}); ${cure}`);
      },
    });
  }

  const watched = others.filter((other) => rank === 0 || other.rank === 0);
  let tickedAt = performance.now();
  let beatAt = 0;
  const timer = setInterval(() => {
    const now = performance.now();
    // A process that was itself held up has not looked at what has come meanwhile.
    const late = now - tickedAt - TICK_MS;
    if (late > TICK_MS) for (const { link } of watched) link.excuse(late);
    tickedAt = now;
    if (now - beatAt >= BEAT_MS) {
      beatAt = now;
      for (const { link } of watched) link.send("beat", 0);
    }
    if (stopRequested() || options.isOrphan()) ask();
    for (const { link, rank: r } of watched)
      if (now - link.heardAt > silenceMs && !parted.has(r)) {
        const seconds = (silenceMs / 1000).toFixed(0);
        const { pid } = members[r]!;
        lose(r, `its process ${pid} has not answered for ${seconds} s (stopped, or its machine is gone); ${cure}`);
      }
  }, TICK_MS);
  timer.unref();
  const stop = (): void => {
    isOver = true;
    clearInterval(timer);
  };

  return {
    get failure() {
      return failure;
    },
    ask,
    isAsked() {
      if (!asked && stopRequested()) ask();
      return asked;
    },
    lose,
    async fail(error) {
      if (failure !== null) return failure;
      if (error instanceof RanksFailure) return error;
      const cause: Cause = { ...causeOf(rank, members[rank]!.host, error), told: rank === 0 };
      stop();
      await Promise.race([tell(cause), Bun.sleep(TELL_WITHIN_MS)]);
      return rank === 0 ? error : new RanksFailure(cause, true);
    },
    stop,
    toAll,
  };
}

function causeFrom(bytes: Uint8Array, from: number, host: string): Cause {
  try {
    const cause = JSON.parse(Buffer.from(bytes).toString()) as Cause;
    const { rank, text, exitCode, told } = cause;
    if (Number.isInteger(rank) && typeof text === "string")
      return {
        ...{ rank, host: String(cause.host), text: text.slice(0, 10_000) },
        ...{ exitCode: exitCode === 2 ? 2 : 1, told: told === true },
      };
  } catch {
    // What it says cannot be read.
  }
  return { rank: from, host, text: "it failed", exitCode: 1, told: false };
}
