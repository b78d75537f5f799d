/** `grpo update --resume_from_checkpoint`: a recorded training step, run again from its rollouts, gives the same bytes. */
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
  train,
  workFolder,
} from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

const update = (flags: Flags) => grpo(["update", ...argvOf({ model: bundledModel, ...flags })]);

/** Training's flags that `update` has too. */
const shared: readonly (readonly [string, Flags])[] = [
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
];

describe("the second generation of a run, recorded", () => {
  test.each(shared)("%s", async (name, flags) => {
    const folder = work.at(`train ${name}`);
    const iterations = Number(flags.num_iterations ?? 1);
    // A schedule, so that the learning rate of the step has to come out of the checkpoint.
    const schedule: Flags = { lr_scheduler_type: "cosine", learning_rate: 2e-3 };
    await train(folder, { ...flags, ...schedule, max_steps: 2 * iterations, save_steps: 1 });
    const [from, last] = [iterations, 2 * iterations];
    const output = work.at(`update ${name}`);
    const rollouts = join(folder, `completions/step-${String(from + 1).padStart(6, "0")}.jsonl`);
    const resume = join(folder, `checkpoint-${from}`);
    const { code, err } = await update({ ...flags, rollouts, resume_from_checkpoint: resume, output_dir: output });
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(fingerprint(output, "model.safetensors")).toBe(fingerprint(folder, "model.safetensors"));
    const optimizer = `checkpoint-${last}/optimizer.safetensors`;
    expect(fingerprint(output, optimizer)).toBe(fingerprint(folder, optimizer));
    const trained = metricsOf(folder).slice(from);
    expect(metricsOf(output).map(({ step }) => step)).toEqual(trained.map(({ step }) => step));
    for (const [i, record] of metricsOf(output).entries())
      for (const metric of ["loss", "grad_norm", "learning_rate", "entropy", "reward", "reward_std"])
        expect([metric, record[metric]]).toEqual([metric, trained[i]![metric]!]);
  });
});

test("score gives the recorded logprobs back, bit for bit", async () => {
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
  for (const [i, { old_logprobs }] of recorded!.entries())
    expect(Float32Array.from(scored![i]!.logprobs)).toEqual(Float32Array.from(old_logprobs));
});

describe("output_dir", () => {
  test("with a training run in it is not touched", async () => {
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

  test("of an update goes on with --resume_from_checkpoint true", async () => {
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
