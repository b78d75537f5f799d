/**
 * Giving way to the event loop: while a native call runs, no timer, signal or message is served on the main thread, so
 * long work calls `breathe` between ops (promise 7). A resolved promise would not do: only setImmediate lets the loop
 * turn.
 */

/** Longest stretch of work without a turn of the event loop, in milliseconds. */
const LONGEST = 25;
let last = performance.now();

/** Work on the device in pieces: between two of them the event loop may turn, and nothing else may run on the buffers. */
export type Pieces = Generator<void, void>;

/** Does all the pieces, and gives way between them. */
export async function doPieces(pieces: Pieces): Promise<void> {
  for (const _ of pieces) await breathe();
}

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
