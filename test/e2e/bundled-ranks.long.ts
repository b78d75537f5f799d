/**
 * The bundled run on 1, 2, 4 and 8 ranks of one thread: the same weights, completions, metrics (times apart) and checkpoints; the
 * whole run of the defaults, and shorter ones with dynamic sampling, with PPO and a reward model, and of supervised fine-tuning. A
 * checkpoint of two ranks is resumed on four and on one. Two minutes where cores are free.
 */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { writeRewardModel } from "../fixtures/scalar-model.ts";
import { checkpointBytes, onRanks, ranksBytes } from "./rank-runs.ts";
import { bundledModel, type Flags, problems, workFolder } from "./runs.ts";

setDefaultTimeout(3_600_000);
const work = workFolder();
afterAll(work.remove);

const judge = await writeRewardModel(work.at("judge"), bundledModel);

interface Case {
  readonly command?: "sft";
  readonly steps: number;
  readonly flags: Flags;
}

const cases: Readonly<Record<string, Case>> = {
  "the defaults": { steps: 40, flags: {} },
  "dynamic sampling": { steps: 4, flags: { dynamic_sampling: true, max_steps: 4 } },
  "PPO and a reward model": {
    steps: 4,
    flags: { advantage_estimator: "gae", num_iterations: 2, reward_funcs: `gsm8k,${judge}`, max_steps: 4 },
  },
  "supervised fine-tuning": {
    command: "sft",
    steps: 6,
    flags: { model: bundledModel, dataset: problems, per_device_train_batch_size: 48, max_steps: 6 },
  },
};

test.each(Object.entries(cases))("%s", async (name, { command = "train", steps, flags }) => {
  const on = async (ranks: number, more: Flags = {}) => {
    const folder = work.at(`${name} ${ranks} ${more.resume_from_checkpoint ? "resumed" : ""}`);
    await onRanks(ranks, folder, { device: "cpu", threads: 1, save_steps: steps / 2, ...flags, ...more }, command, 900);
    return {
      folder,
      bytes: { ...ranksBytes(folder), checkpoint: checkpointBytes(join(folder, `checkpoint-${steps}`)) },
    };
  };
  const one = await on(1);
  const several = new Map<number, Awaited<ReturnType<typeof on>>>();
  for (const ranks of [2, 4, 8]) {
    several.set(ranks, await on(ranks));
    expect(several.get(ranks)!.bytes, `${ranks} ranks`).toEqual(one.bytes);
  }
  const half = join(several.get(2)!.folder, `checkpoint-${steps / 2}`);
  for (const ranks of [4, 1]) {
    const { bytes } = await on(ranks, { resume_from_checkpoint: half });
    expect(bytes.checkpoint, `resumed on ${ranks}`).toEqual(one.bytes.checkpoint);
  }
});
