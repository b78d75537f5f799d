/** Ctrl-C: the first asks the work to stop at the next good place, the second ends the process at once. */

export interface Interrupt {
  readonly requested: () => boolean;
  /** Puts the default handling back. */
  release(): void;
}

/** @param note says on the console what happens */
export function onInterrupt(note: (text: string) => void): Interrupt {
  let count = 0;
  const handler = (): void => {
    if (++count > 1) process.exit(130);
    note("stopping after this step and saving a checkpoint; press Ctrl-C again to end at once");
  };
  process.on("SIGINT", handler);
  process.on("SIGTERM", handler);
  return {
    requested: () => count > 0,
    release() {
      process.off("SIGINT", handler);
      process.off("SIGTERM", handler);
    },
  };
}
