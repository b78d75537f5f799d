/**
 * Recordings on the CPU: lists of kernel calls that the library runs by itself, so that a decode step of hundreds of small
 * ops costs neither TypeScript nor FFI between them. The event loop turns between stretches of a list.
 */
import type { RecordedCalls } from "../../../ffi/bindings/recorded-calls.ts";
import { breathe, type Pieces } from "../breathe.ts";
import type { Device } from "../device.ts";

/** Microseconds in native code before the event loop may turn; the call then under way is finished. */
const STRETCH = 10_000;

export function openRecordings(
  recordCalls: (work: () => void) => RecordedCalls,
): Pick<Device, "record" | "replay" | "forget"> {
  const recorded = new Map<string, RecordedCalls>();
  const drop = (key: string): void => {
    recorded.get(key)?.free();
    recorded.delete(key);
  };
  const replay = async (key: string): Promise<void> => {
    const calls = recorded.get(key);
    if (!calls) throw new Error(`nothing recorded under ${key}`);
    for (let at = 0; at < calls.end; ) {
      at = calls.run(at, STRETCH);
      await breathe();
    }
  };
  return {
    record(key, work: () => Pieces) {
      drop(key);
      const calls = recordCalls(() => {
        for (const _ of work());
      });
      recorded.set(key, calls);
      return replay(key);
    },
    replay,
    forget(prefix) {
      for (const key of [...recorded.keys()]) if (key.startsWith(prefix)) drop(key);
    },
  };
}
