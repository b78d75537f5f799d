/**
 * Work under way, as programs hold it: a promise of its result that is also an async iterator of its events. Knows nothing
 * of training; what the events are is control.ts's and loaded-model.ts's business.
 */

/**
 * Awaited, it gives the result; iterated, the events as they come. It runs in either case, and from the moment it is called.
 * Whoever iterates sees the events from then on: called in the same turn, all of them. Leaving the loop early stops the
 * work as an aborted signal does, and the loop's end waits for that. A failure is thrown in the loop, and rejects the promise.
 */
export interface Running<R, E> extends Promise<R>, AsyncIterable<E> {}

/** What the work has of those who follow it. */
export interface Followers<E> {
  emit(event: E): void;
  /** Somebody has left the loop: the work is to stop. */
  left(): boolean;
}

/** An iterator's events that nobody has asked for yet, or its request that no event has answered yet. */
class Queue<E> {
  private readonly events: E[] = [];
  private wake: (() => void) | null = null;

  push(event: E, replaces: (last: E, next: E) => boolean): void {
    const last = this.events.at(-1);
    if (last !== undefined && replaces(last, event)) this.events.pop();
    this.events.push(event);
    this.notify();
  }

  notify(): void {
    this.wake?.();
    this.wake = null;
  }

  take(): E | undefined {
    return this.events.shift();
  }

  arrival(): Promise<void> {
    return new Promise((resolve) => {
      this.wake = resolve;
    });
  }
}

/**
 * Starts `work` in the next turn of the event loop, so that a loop around the call misses nothing.
 *
 * @param replaces whether an event makes the one before it worthless, if nobody has taken that yet: progress
 */
export function running<R, E>(
  work: (followers: Followers<E>) => Promise<R>,
  replaces: (last: E, next: E) => boolean = () => false,
): Running<R, E> {
  const queues = new Set<Queue<E>>();
  let left = false;
  let ended: { readonly error?: unknown } | null = null;
  const followers: Followers<E> = {
    emit: (event) => queues.forEach((queue) => void queue.push(event, replaces)),
    left: () => left,
  };
  const end = (outcome: { readonly error?: unknown }): void => {
    ended = outcome;
    for (const queue of queues) queue.notify();
  };
  const result = Promise.resolve().then(() => work(followers));
  const settled = result.then(
    () => end({}),
    (error: unknown) => end({ error }),
  );

  function iterator(): AsyncIterator<E, undefined> {
    const queue = new Queue<E>();
    queues.add(queue);
    return {
      async next() {
        for (;;) {
          const event = queue.take();
          if (event !== undefined) return { done: false, value: event };
          if (ended !== null) {
            const failed = queues.delete(queue) && "error" in ended;
            if (failed) throw ended.error;
            return { done: true, value: undefined };
          }
          await queue.arrival();
        }
      },
      async return() {
        queues.delete(queue);
        left = true;
        await settled;
        return { done: true, value: undefined };
      },
    };
  }
  return Object.assign(result, {
    [Symbol.asyncIterator]() {
      // The loop throws what the promise is rejected with: nobody need await both.
      result.catch(() => {});
      return iterator();
    },
  });
}
