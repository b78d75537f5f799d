/**
 * Waits for the GPU without blocking the event loop. Around its usual length, a wait polls at every turn of the loop,
 * so that the next work starts at once; before that and long after it polls once a millisecond, to leave the cores to
 * others (mainly reward workers).
 */

/**
 * Milliseconds: a wait that is usually shorter polls at every turn from the start, any wait until this long beyond
 * usual.
 */
const EAGER = 20;
/** Waits of a kind whose median is the usual length; the median, since a prefill among decode steps takes longer. */
const REMEMBERED = 9;
/** The share of its usual length for which a wait sleeps, minus the milliseconds by which a sleep may overrun. */
const ASLEEP = 0.9;
const OVERSLEPT = 2;

/** Time and ways to let it pass; replaced in tests. */
export interface Clock {
  /** Milliseconds. */
  now(): number;
  /** One turn of the event loop. */
  turn(): Promise<void>;
  /** About a millisecond. */
  sleep(): Promise<void>;
}

const realClock: Clock = {
  now: () => performance.now(),
  turn: () => new Promise((resolve) => setImmediate(resolve)),
  sleep: () => Bun.sleep(1),
};

/** Waits until `reached`; waits of one `kind` usually take about equally long. */
export type Waiter = (kind: string, reached: () => boolean) => Promise<void>;

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0;
}

export function openWaiter(clock: Clock = realClock): Waiter {
  const lengths = new Map<string, number[]>();
  return async (kind, reached) => {
    const known = lengths.get(kind) ?? [];
    lengths.set(kind, known);
    const usual = median(known);
    const wake = usual > EAGER ? ASLEEP * usual - OVERSLEPT : 0;
    const start = clock.now();
    let waited = 0;
    while (!reached()) {
      await (waited >= wake && waited < usual + EAGER ? clock.turn() : clock.sleep());
      waited = clock.now() - start;
    }
    known.push(waited);
    if (known.length > REMEMBERED) known.shift();
  };
}
