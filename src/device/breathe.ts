/**
 * Yielding to the event loop: while a native call runs, the main thread handles no timer, signal or message, so long
 * work calls `breathe` between ops (promise 7). A resolved promise is not enough: only setImmediate lets the loop turn.
 */

/** Longest time without a turn of the event loop, in milliseconds. */
const LONGEST = 25;
let last = performance.now();

/** Device work in pieces. Between two of them the event loop may turn, but nothing else may use the buffers. */
export type Pieces = Generator<void, void>;

/** Runs all pieces, yielding to the event loop between them. */
export async function doPieces(pieces: Pieces): Promise<void> {
  for (const _ of pieces) await breathe();
}

/** Lets the event loop turn if it has not for a while; otherwise costs nothing. */
export function breathe(): Promise<void> | undefined {
  if (performance.now() - last < LONGEST) return undefined;
  return new Promise((resolve) => {
    setImmediate(() => {
      last = performance.now();
      resolve();
    });
  });
}
