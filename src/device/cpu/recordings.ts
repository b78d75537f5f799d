/** Recordings on the CPU: a replay runs the recorded function again. */
import { doPieces, type Pieces } from "../breathe.ts";
import type { Device } from "../device.ts";

export function openRecordings(): Pick<Device, "record" | "replay" | "forget"> {
  const recorded = new Map<string, () => Pieces>();
  return {
    record(key, work) {
      recorded.set(key, work);
      return doPieces(work());
    },
    replay(key) {
      const work = recorded.get(key);
      if (!work) throw new Error(`nothing recorded under ${key}`);
      return doPieces(work());
    },
    forget(prefix) {
      for (const key of [...recorded.keys()]) if (key.startsWith(prefix)) recorded.delete(key);
    },
  };
}
