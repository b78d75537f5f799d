/**
 * A process that runs cases one after the other on request, and reports when each begins: everything after that belongs to the
 * case. Memory is measured as the peak since that moment.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type CaseName, runCase, type Verdict } from "./case.ts";

export type FromWorker =
  | { readonly kind: "ready" }
  | { readonly kind: "started"; readonly damage: string; readonly steps: number }
  | { readonly kind: "ended"; readonly verdict: Verdict; readonly peakBytes: number; readonly heldBytes: number };

const send = (message: FromWorker): void => void process.send!(message);

/** A line of /proc/self/status in bytes; 0 if absent. */
export function statusBytes(line: "VmHWM" | "VmRSS", pid: number | "self" = "self"): number {
  try {
    const text = readFileSync(`/proc/${pid}/status`, "utf8");
    return 1024 * Number(new RegExp(`${line}:\\s+(\\d+)`).exec(text)?.[1] ?? 0);
  } catch {
    return 0;
  }
}

function forgetPeak(): void {
  try {
    writeFileSync("/proc/self/clear_refs", "5");
  } catch {
    // On a system without it, this is the peak of the whole process.
  }
}

if (import.meta.main) {
  const [sound, work] = process.argv.slice(2) as [string, string];
  let served = 0;
  process.on("message", async (name: CaseName) => {
    const started = (damage: string, steps: number) => {
      if (served++ % 8 === 0) Bun.gc(true);
      forgetPeak();
      send({ kind: "started", damage, steps });
    };
    const verdict = await runCase(name, sound, join(work, "case"), started).catch(
      (error: unknown): Verdict => ({
        ...{ damage: `${name.kind}: case ${name.index}`, steps: 1, code: -1, said: Bun.inspect(error) },
        problem: "the campaign itself failed",
      }),
    );
    send({ kind: "ended", verdict, peakBytes: statusBytes("VmHWM"), heldBytes: statusBytes("VmRSS") });
  });
  process.on("disconnect", () => process.exit(0));
  send({ kind: "ready" });
}
