/**
 * Waiting for the GPU without holding up the event loop: a wait that has nearly come to its usual length looks at every turn
 * of the loop, so that what follows begins at once; before that, and long after it, it looks once a millisecond, for others
 * (reward workers above all) need the cores.
 */

/** Milliseconds: a wait that is usually shorter is watched at every turn, any wait for as long beyond its usual length. */
const EAGER = 20;
/** Waits of one kind that its usual length is taken from; the median, as a prompt's pass among decode steps takes longer. */
const REMEMBERED = 9;
/** Of its usual length a wait sleeps this share at most, less what a sleep may run over. */
const ASLEEP = 0.9;
const OVERSLEPT = 2;

/** Time, and ways to let it pass; tests have their own. */
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

/** Waits until `reached`; `kind` is what is waited for, whose waits take about as long each time. */
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
