/** Promise 7: work in native code yields to the event loop at least every quarter of a second. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { train, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

/** Longest time between two turns of the event loop in a run of the bundled size, by phase. */
async function longestGap(name: string): Promise<{ gap: number; phase: string; phases: Set<string> }> {
  const phases = new Set<string>();
  let longest = { gap: 0, phase: "none" };
  let [last, phase, running] = [0, "start", true];
  const turn = (): void => {
    const now = performance.now();
    if (last > 0 && now - last > longest.gap) longest = { gap: now - last, phase };
    if (phases.size > 0) last = now;
    if (running) setTimeout(turn, 1);
  };
  setTimeout(turn, 1);
  const flags = {
    per_device_train_batch_size: 256,
    num_generations: 16,
    max_completion_length: 48,
    max_concurrent_sequences: 256,
    max_steps: 2,
    save_steps: 1,
  };
  await train(work.at(name), flags, {
    onProgress(current) {
      phase = current;
      phases.add(current);
    },
  });
  running = false;
  return { ...longest, phases };
}

test("rollout, reference and update yield to timers within 250 ms", async () => {
  // Other processes may hold the cores for a while: one quiet run of three is enough.
  const runs: Awaited<ReturnType<typeof longestGap>>[] = [];
  for (let attempt = 0; attempt < 3; attempt++) {
    runs.push(await longestGap(`attempt ${attempt}`));
    if (runs.at(-1)!.gap < 250) break;
  }
  expect([...runs[0]!.phases].sort()).toEqual(["reference", "rewards", "rollout", "update"]);
  expect(runs.at(-1)!.gap).toBeLessThan(250);
});
