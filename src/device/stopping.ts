/** Waiting for something that may take long, but no longer than the user lets it: a reward, a verdict. */

/** Between two looks at whether to stop, in milliseconds. */
const LOOK_EVERY = 50;

/**
 * What `work` gives; null where the user wants to stop and it is not there `graceMs` later. It is left alone then, and
 * its failure is nobody's.
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
