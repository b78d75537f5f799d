/**
 * Closing what was opened, on every way out: the last first, all of it whatever one of them meets. Where the work failed, its
 * error is the one that is thrown, not that of closing.
 */

export interface Closable {
  close(): void;
}

/** Runs `work` and closes `resource` behind it. */
export async function whileOpen<T extends Closable, R>(resource: T, work: (resource: T) => Promise<R>): Promise<R> {
  const closers = createClosers();
  closers.add(resource);
  let result: R;
  try {
    result = await work(resource);
  } catch (error) {
    closers.abandon();
    throw error;
  }
  closers.close();
  return result;
}

/** What is open so far. */
export interface Closers extends Closable {
  add<T extends Closable>(resource: T): T;
  /** `close` where something has failed already: a failure of closing is not told. */
  abandon(): void;
}

export function createClosers(): Closers {
  const open: Closable[] = [];
  const close = () => {
    const failures: unknown[] = [];
    for (let last = open.pop(); last; last = open.pop())
      try {
        last.close();
      } catch (error) {
        failures.push(error);
      }
    if (failures.length > 0) throw failures[0];
  };
  return {
    add(resource) {
      open.push(resource);
      return resource;
    },
    close,
    abandon() {
      try {
        close();
      } catch {
        // what failed before is the news
      }
    },
  };
}
