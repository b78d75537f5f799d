/** `grpo update --resume_from_checkpoint`: a recorded training step, repeated from its rollouts, gives the same bytes. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  argvOf,
  bundledModel,
  type Flags,
  fingerprint,
  fingerprints,
  grpo,
  metricsOf,
  quietConsole,
  reward,
  train,
  update as updateInProcess,
  workFolder,
} from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

const update = (flags: Flags) => grpo(["update", ...argvOf({ model: bundledModel, ...flags })]);

/** The same in this process; returns its notes, except the one about small groups. @throws what the command throws */
async function updateHere(flags: Flags) {
  const { console, notes } = quietConsole();
  await updateInProcess(flags, { console });
  return notes.filter((note) => note.startsWith("note: ") && !note.includes("the smallest group"));
}

/** Training's flags; `update` gets none of them, since the checkpoint has them. */
const runs: readonly (readonly [string, Flags])[] = [
  ["with KL to the starting model", { beta: 0.1, temperature: 1 }],
  ["in bfloat16, dapo at temperature 0.7", { dtype: "bfloat16", loss_type: "dapo", beta: 0, temperature: 0.7 }],
  [
    "with an advantage a token, KL in the reward and an adaptive entropy bonus",
    {
      ...{ advantage_estimator: "reinforce_plus_plus", use_kl_in_reward: true, beta: 0.1, loss_type: "dapo" },
      ...{ gamma: 0.99, use_adaptive_entropy: true, entropy_target: 9, temperature: 1 },
    },
  ],
  [
    "with rloo and KL in the reward",
    { advantage_estimator: "rloo", use_kl_in_reward: true, beta: 0.1, temperature: 1 },
  ],
  ["with two iterations", { num_iterations: 2, scale_rewards: "batch", weight_decay: 0.1, temperature: 1.3 }],
  [
    "of two reward functions, each normalized first (GDPO)",
    {
      ...{ reward_funcs: `${reward("by_tokens")},repetition`, reward_weights: "1,0.5", repetition_n_grams: 1 },
      ...{ multi_objective_aggregation: "normalize_then_sum", beta: 0 },
    },
  ],
  [
    "of three steps that hold parts of groups, in two iterations",
    {
      per_device_train_batch_size: 4,
      num_generations: 6,
      steps_per_generation: 3,
      num_iterations: 2,
      loss_type: "dapo",
    },
  ],
  [
    "in shuffled blocks",
    { per_device_train_batch_size: 4, gradient_accumulation_steps: 2, loss_type: "bnpo", beta: 0 },
  ],
  [
    "with a reference that follows",
    { sync_ref_model: true, ref_model_sync_steps: 1, ref_model_mixup_alpha: 0.5, beta: 1 },
  ],
  [
    "with a reference that follows and began as another model",
    {
      ...{ sync_ref_model: true, ref_model_sync_steps: 1, ref_model_mixup_alpha: 0.5, beta: 1 },
      ref_model: join(work.at("train with KL to the starting model"), "checkpoint-2"),
    },
  ],
  ["of PPO, without its critic", { advantage_estimator: "gae", beta: 0.1, use_kl_in_reward: true, loss_type: "dapo" }],
];

describe("the second generation of a run, recorded", () => {
  test.each(runs)("%s", async (name, flags) => {
    const folder = work.at(`train ${name}`);
    const from = Number(flags.num_iterations ?? 1) * Number(flags.steps_per_generation ?? 1);
    // A schedule, so that the step's learning rate has to come from the checkpoint.
    const schedule: Flags = { lr_scheduler_type: "cosine", learning_rate: 2e-3 };
    await train(folder, { ...flags, ...schedule, max_steps: 2 * from, save_steps: 1 });
    const output = work.at(`update ${name}`);
    const rollouts = join(folder, `completions/step-${String(from + 1).padStart(6, "0")}.jsonl`);
    const notes = await updateHere({
      rollouts,
      resume_from_checkpoint: join(folder, `checkpoint-${from}`),
      output_dir: output,
    });
    expect(notes).toEqual([]);
    expect(fingerprint(output, "model.safetensors")).toBe(fingerprint(folder, "model.safetensors"));
    const checkpoint = `checkpoint-${2 * from}`;
    const kept = ["optimizer.safetensors", ...(flags.sync_ref_model ? ["reference/model.safetensors"] : [])];
    for (const file of kept)
      expect(fingerprint(output, checkpoint, file), file).toBe(fingerprint(folder, checkpoint, file));
    const trained = metricsOf(folder).slice(from);
    expect(metricsOf(output).map(({ step }) => step)).toEqual(trained.map(({ step }) => step));
    const compared = [
      "loss",
      "grad_norm",
      "learning_rate",
      "entropy",
      "reward",
      "reward_std",
      "entropy_coef",
      "policy_loss",
    ];
    for (const [i, record] of metricsOf(output).entries())
      for (const metric of compared) expect([metric, record[metric]]).toEqual([metric, trained[i]![metric]]);
  });

  // There is no checkpoint before it: run.json has the settings and the length of the schedule.
  test.each([6, 9])("and the first one: of the run %i", async (run) => {
    const [name, flags] = runs[run]!;
    const folder = work.at(`train ${name}`);
    const output = work.at(`first ${name}`);
    const from = Number(flags.num_iterations ?? 1) * Number(flags.steps_per_generation ?? 1);
    const notes = await updateHere({ rollouts: join(folder, "completions/step-000001.jsonl"), output_dir: output });
    expect(notes).toEqual([
      expect.stringContaining(`settings that are not given are those of ${join(folder, "run.json")}`),
    ]);
    const checkpoint = `checkpoint-${from}`;
    for (const file of ["model.safetensors", "optimizer.safetensors"])
      expect(fingerprint(output, checkpoint, file), file).toBe(fingerprint(folder, checkpoint, file));
  });

  test("reports what makes it a different step: settings, a checkpoint of another step, none at all", async () => {
    const folder = work.at(`train ${runs[0]![0]}`);
    const rollouts = join(folder, "completions/step-000002.jsonl");
    let tries = 0;
    const updated = (more: Flags) => updateHere({ rollouts, output_dir: work.at(`another ${++tries}`), ...more });
    const checkpoint = (step: number) => ({ resume_from_checkpoint: join(folder, `checkpoint-${step}`) });
    expect(await updated({ ...checkpoint(1), beta: 0, loss_type: "dapo" })).toEqual([
      'note: loss_type was "grpo" and is now "dapo"',
      "note: beta was 0.1 and is now 0",
    ]);
    expect(await updated({ ...checkpoint(2) })).toEqual([
      expect.stringMatching(/learned from at step 2, and the checkpoint is of step 2: .*checkpoint-1 would be$/),
    ]);
    expect(await updated({ model: bundledModel })).toEqual([expect.stringContaining("without that step's checkpoint")]);
  });
});

test("score reproduces the recorded logprobs, bit for bit", async () => {
  const folder = work.at("scored");
  await train(folder, { max_steps: 1, temperature: 1.5 });
  const input = join(folder, "completions/step-000001.jsonl");
  const output = work.at("scores.jsonl");
  const { code } = await grpo(["score", ...argvOf({ model: bundledModel, input, output, temperature: 1.5 })]);
  expect(code).toBe(0);
  const [recorded, scored] = [input, output].map((path) => {
    const lines = readFileSync(path, "utf8").trimEnd().split("\n");
    return lines.map((line) => JSON.parse(line) as { old_logprobs: number[]; logprobs: number[] });
  });
  expect(recorded!.length).toBe(8);
  // As in TRL, a prompt counts once for each of its completions.
  const tokens = (recorded as unknown as { prompt_ids: number[]; completion_ids: number[] }[]).map(
    ({ prompt_ids, completion_ids }) => prompt_ids.length + completion_ids.length,
  );
  expect(metricsOf(folder)[0]!.num_tokens).toBe(tokens.reduce((a, b) => a + b, 0));
  for (const [i, { old_logprobs }] of recorded!.entries())
    expect(Float32Array.from(scored![i]!.logprobs)).toEqual(Float32Array.from(old_logprobs));
});

describe("output_dir", () => {
  test("with a training run in it is left unchanged", async () => {
    const folder = work.at("kept");
    await train(folder, { max_steps: 2, save_steps: 1 });
    const before = fingerprints(folder);
    const rollouts = join(folder, "completions/step-000002.jsonl");
    const { code, err } = await update({ rollouts, output_dir: folder, beta: 0 });
    expect(code).toBe(2);
    expect(err).toMatch(
      /holds a run \(step 2, 2 checkpoints, its model\), and rollouts .*; name another --output_dir\n$/,
    );
    expect(fingerprints(folder)).toEqual(before);
  });

  test("of an update resumes with --resume_from_checkpoint true", async () => {
    const folder = work.at("chain source");
    await train(folder, { max_steps: 1 });
    const flags: Flags = {
      rollouts: join(folder, "completions/step-000001.jsonl"),
      output_dir: work.at("chain"),
      learning_rate: 1e-3,
      resume_from_checkpoint: true,
    };
    expect((await update(flags)).code).toBe(0);
    const first = fingerprint(work.at("chain"), "model.safetensors");
    expect((await update(flags)).code).toBe(0);
    expect(metricsOf(work.at("chain")).map(({ step }) => step)).toEqual([1, 2]);
    expect(fingerprint(work.at("chain"), "model.safetensors")).not.toBe(first);
  });
});
