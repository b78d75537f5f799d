/**
 * Closes resources on every exit path, in reverse order of opening; all of them, even if one fails. If the work itself
 * failed, its error is thrown rather than one from closing.
 */

export interface Closable {
  close(): void;
}

/** Runs `work`, then closes `resource`. */
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

/** The resources opened so far. */
export interface Closers extends Closable {
  add<T extends Closable>(resource: T): T;
  /** Closes after an earlier failure: errors from closing are dropped. */
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
        // report the first failure, not the cleanup's
      }
    },
  };
}
