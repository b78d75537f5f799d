/**
 * `grpo train` with defaults learns: accuracy on held-out problems rises, and does not if the rewards carry no information.
 * This run is shorter than the default one, which BUN_GRPO_SLOW=1 adds.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { runTrain } from "../../src/cli/train.ts";
import { argvOf, type Flags, fingerprints, metricsOf, quietConsole, train, workFolder } from "./runs.ts";
import { shuffledWithinGroups } from "./shuffled-rewards.ts";

setDefaultTimeout(600_000);

const work = workFolder();
afterAll(work.remove);

const isSlow = process.env.BUN_GRPO_SLOW === "1";

/** The bundled run; accuracy before and after. */
async function accuracies(name: string, flags: Flags, shuffled: boolean) {
  const { console, notes } = quietConsole();
  const code = await runTrain({
    argv: argvOf({ output_dir: work.at(name), log_completions: false, ...flags }),
    console,
    stopRequested: () => false,
    ...(shuffled ? { reviseRewards: shuffledWithinGroups(Number(flags.seed ?? 42)) } : {}),
  });
  expect(code).toBe(0);
  const metrics = metricsOf(work.at(name));
  const evaluations = metrics.filter((record) => record.eval_accuracy !== undefined);
  const [before, after] = [evaluations[0]!, evaluations.at(-1)!];
  expect(before.step).toBe(0);
  for (const record of metrics)
    if (record.loss !== undefined) expect(record["sampling/sampling_logp_difference/max"]).toBe(0);
  return { before: Number(before.eval_accuracy), after: Number(after.eval_accuracy), notes };
}

test("the shuffle keeps every group's rewards, and changes their order", () => {
  const rewards = Array.from({ length: 64 }, (_, i) => (i % 5 === 0 ? null : i));
  const shuffled = shuffledWithinGroups(1)(rewards, 16);
  const sorted = (values: readonly (number | null)[]) => [...values].sort((a, b) => (a ?? -1) - (b ?? -1));
  for (let first = 0; first < 64; first += 16)
    expect(sorted(shuffled.slice(first, first + 16))).toEqual(sorted(rewards.slice(first, first + 16)));
  expect(shuffled.filter((reward, i) => reward === rewards[i]).length).toBeLessThan(24);
});

describe("a short bundled run", () => {
  const short: Flags = { max_steps: 15, eval_steps: 1000 };

  test("learns to solve the problems", async () => {
    const { before, after, notes } = await accuracies("learns", short, false);
    expect(before).toBeGreaterThan(0.2);
    expect(before).toBeLessThan(0.6);
    expect(after - before).toBeGreaterThan(0.15);
    expect(notes.join("\n")).toMatch(/bun run train --model \S+ --dataset \S+/);
    const completions = readFileSync(join(work.at("learns"), "completions/step-000001.jsonl"), "utf8");
    expect(completions.trimEnd().split("\n").length).toBeGreaterThanOrEqual(128);
  });

  test("learns nothing from rewards shuffled inside each group", async () => {
    const { before, after } = await accuracies("shuffled", short, true);
    expect(after - before).toBeLessThan(0.05);
  });

  test("another run replaces it by default in the default folder, and in no other", async () => {
    const tiny: Flags = { max_steps: 1, per_device_train_batch_size: 16, eval_samples: 4, save_steps: 1 };
    const here = process.cwd();
    process.chdir(work.path);
    try {
      const { console } = quietConsole();
      const run = { argv: argvOf({ ...tiny, log_completions: false }), console, stopRequested: () => false };
      for (const _ of [1, 2]) expect(await runTrain(run)).toBe(0);
      expect(metricsOf("outputs/train").filter(({ loss }) => loss !== undefined).length).toBe(1);
      // If named explicitly, it is a folder like any other.
      await expect(runTrain({ ...run, argv: [...run.argv, "--output_dir", "outputs/train"] })).rejects.toThrow(
        /holds a run \(step 1, 1 checkpoint, its model\); .*--overwrite/,
      );
    } finally {
      process.chdir(here);
    }
  });
});

test("the bundled run replaces no checkpoint of another model's run", async () => {
  const folder = work.at("another model");
  await train(folder, { max_steps: 1, save_steps: 1 });
  const before = fingerprints(folder);
  await expect(accuracies("another model", { max_steps: 1 }, false)).rejects.toThrow(/holds a run.*--overwrite/);
  expect(fingerprints(folder)).toEqual(before);
});

// Minutes per seed: not for every change.
describe.if(isSlow)("the default bundled run (BUN_GRPO_SLOW=1)", () => {
  test.each([1, 2, 3])("seed %i rises by 0.25 or more", async (seed) => {
    const { before, after } = await accuracies(`default ${seed}`, { seed }, false);
    console.log(`seed ${seed}: ${before} → ${after}`);
    expect(after - before).toBeGreaterThanOrEqual(0.25);
  });

  test.each([1, 2, 3])("seed %i rises by less than 0.05 with shuffled rewards", async (seed) => {
    const { before, after } = await accuracies(`default shuffled ${seed}`, { seed }, true);
    console.log(`seed ${seed}, shuffled: ${before} → ${after}`);
    expect(after - before).toBeLessThan(0.05);
  });
});
