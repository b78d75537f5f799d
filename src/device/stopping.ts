/** Waits for long-running work, such as a reward or a verdict, unless the user wants to stop. */

/** Interval of checking whether to stop, in milliseconds. */
const LOOK_EVERY = 50;

/**
 * The result of `work`; null if the user wants to stop and it is not done `graceMs` later. `work` is then abandoned,
 * and its failure ignored.
 */
export async function unlessStopped<T>(
  work: Promise<T>,
  shouldStop: (() => boolean) | undefined,
  graceMs: number,
): Promise<T | null> {
  if (!shouldStop) return work;
  let isDone = false;
  const done = work.then(
    () => {
      isDone = true;
    },
    () => {
      isDone = true;
    },
  );
  let askedAt: number | null = null;
  while (!isDone) {
    if (shouldStop()) {
      askedAt ??= performance.now();
      if (performance.now() - askedAt >= graceMs) return null;
    }
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, LOOK_EVERY);
    });
    await Promise.race([done, look]);
    clearTimeout(timer);
  }
  return work;
}
