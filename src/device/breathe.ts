/**
 * Giving way to the event loop: while a native call runs, no timer, signal or message is served on the main thread, so
 * long work calls `breathe` between ops (promise 7). A resolved promise would not do: only setImmediate lets the loop
 * turn.
 */

/** Longest stretch of work without a turn of the event loop, in milliseconds. */
const LONGEST = 100;
let last = performance.now();

/** Lets the event loop turn if it has not for a while; costs nothing otherwise. */
export function breathe(): Promise<void> | undefined {
  if (performance.now() - last < LONGEST) return undefined;
  return new Promise((resolve) => {
    setImmediate(() => {
      last = performance.now();
      resolve();
    });
  });
}
