/** Several processes as one run: the same bytes for any number of them, and one line where one of them dies. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { childrenOf, onRanks, ranksBytes, rankTraining, untilStep } from "./rank-runs.ts";
import { argvOf, metricsOf, problems, start, workFolder } from "./runs.ts";

setDefaultTimeout(60_000);
const work = workFolder();
afterAll(work.remove);

const evaluated = { ...rankTraining, eval_dataset: problems, eval_samples: 7, eval_steps: 2, save_steps: 2 };

describe("the same bytes", () => {
  test("with 1, 2 and 3 ranks, and resumed on another number", async () => {
    const whole = work.at("one");
    const resumed = work.at("two, then three");
    await Promise.all([
      onRanks(1, whole, evaluated),
      onRanks(2, resumed, { ...evaluated, max_steps: 2, num_train_epochs: 1, lr_scheduler_type: "constant" }),
    ]);
    await onRanks(3, resumed, { ...evaluated, resume_from_checkpoint: join(resumed, "checkpoint-2") });
    expect(ranksBytes(resumed)).toEqual(ranksBytes(whole));
    const waits = (folder: string) =>
      metricsOf(folder)
        .filter(({ loss }) => loss !== undefined)
        .map((record) => record["time/wait"] as number);
    expect(waits(whole)).toEqual([0, 0, 0, 0]);
    for (const seconds of waits(resumed)) expect(seconds).toBeGreaterThan(0);
  });
});

test("a rank that is killed ends all, and one line names it", async () => {
  const folder = work.at("killed");
  const argv = argvOf({
    ...rankTraining,
    per_device_train_batch_size: 8,
    ranks: 3,
    max_steps: 1000,
    output_dir: folder,
  });
  const run = start(["train", ...argv]);
  await untilStep(folder, 1);
  const ranks = childrenOf(run.process.pid);
  expect(ranks).toHaveLength(3);
  process.kill(ranks[1]!, "SIGKILL");
  const { code, err } = await run.finished;
  expect(code).toBe(1);
  expect(err.trim().split("\n")).toEqual([
    expect.stringMatching(
      new RegExp(
        `^grpo train: rank 1 \\(.+\\): its process ${ranks[1]} has ended \\(killed, crashed, or out of memory\\)`,
      ),
    ),
  ]);
  for (const pid of ranks) expect(() => process.kill(pid, 0)).toThrow();
});

test("a signal to what started them saves once, together", async () => {
  const folder = work.at("stopped");
  const argv = argvOf({
    ...rankTraining,
    per_device_train_batch_size: 12,
    ranks: 2,
    max_steps: 1000,
    output_dir: folder,
  });
  const run = start(["train", ...argv]);
  await untilStep(folder, 1);
  run.process.kill("SIGTERM");
  const { code, err, out } = await run.finished;
  expect(code).toBe(130);
  expect(err).toBe("SIGTERM: stopping after this step and saving a checkpoint; a second signal ends at once\n");
  expect(out.match(/^saved .*checkpoint-\d+$/gm)).toHaveLength(1);
  expect(out).toContain("go on with --resume_from_checkpoint true");
});
