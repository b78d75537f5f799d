/**
 * The entry of a reward process: judges answers and calls reward functions, one task at a time, as the supervisor sends
 * them over the IPC channel. It enforces no deadline and no memory limit itself: a process that hangs or grows too large
 * is killed from outside. What reward functions print goes to the program's stderr.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { verify } from "../../answers/verify.ts";
import { errorText } from "../../errors.ts";
import { compiled } from "../../program.ts";
import { callFunction, loadFunction, RewardFailure } from "./functions.ts";
import type { Called, Failure, Progress, Work } from "./protocol.ts";
import { offerPublicApi } from "./public-api.ts";

const send = (progress: Progress): void => void process.send?.(progress);

// Processes that a reward function starts are not ours.
delete process.env.BUN_GRPO_CHILD;
delete process.env.BUN_FEATURE_FLAG_NO_ORPHANS;

// Ctrl-C, a closing terminal and the end of a job signal every process; the trainer decides when reward processes end.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGXCPU"] as const)
  process.on(signal, () => {});
process.on("disconnect", () => process.exit(0));

try {
  // Under memory pressure the kernel should take this process, not the trainer.
  writeFileSync("/proc/self/oom_score_adj", "1000");
} catch {
  // Not Linux, or not permitted: the supervisor's own limit still applies.
}

// The executable's entry offers its own copy before it imports this file.
if (!compiled) offerPublicApi(() => import(join(import.meta.dir, "../../index.ts")));

async function perform(work: Work): Promise<Called | undefined> {
  if (work.kind === "verify") {
    for (const [index, item] of work.items.entries()) {
      send({
        kind: "verdicts",
        index,
        verdicts: work.extractions.map((extraction) => verify({ ...item, extraction })),
      });
    }
    return undefined;
  }
  const f = await loadFunction(work.path);
  send({ kind: "loaded" });
  return work.kind === "load" ? undefined : await callFunction(f, work.args, work.state);
}

const failureOf = (error: unknown): Failure =>
  error instanceof RewardFailure ? error.failure : { cause: "threw", message: `threw ${errorText(error)}` };

process.on("message", async (work: Work) => {
  try {
    send({ kind: "done", ...(await perform(work)) });
  } catch (error) {
    send({ kind: "failed", failure: failureOf(error) });
  }
});

send({ kind: "ready" });
