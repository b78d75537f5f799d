/** Runs with models beyond policy and reference: a neural reward model, PPO's critic, a moving reference. */

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { type TinyModel, writeRewardModel, writeTinyModel } from "../fixtures/scalar-model.ts";
import { bundledModel, type Flags, grpo, metricsOf, outcome, problems, reward, train, workFolder } from "./runs.ts";

setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

/** With the bundled model's tokenizer, and its sizes unless `config` overrides them. */
const randomModel = (folder: string, { config = {}, ...options }: TinyModel): Promise<string> =>
  writeTinyModel(folder, { ...options, ...{ tokenizer: bundledModel, vocabSize: 432, context: 512 }, config });

let rewardModel: string;
beforeAll(async () => {
  rewardModel = await writeRewardModel(work.at("judge"), bundledModel);
});

const ppo: Flags = {
  advantage_estimator: "gae",
  use_kl_in_reward: true,
  num_iterations: 2,
  loss_type: "dapo",
  max_steps: 6,
};

describe.each<[string, Flags]>([
  ["PPO with a critic", ppo],
  ["a reward model beside a function", { reward_funcs: `${reward("by_tokens")},JUDGE`, reward_weights: "1,0.5" }],
  ["a reward model under dynamic sampling", { reward_funcs: "JUDGE", dynamic_sampling: true }],
  ["PPO's four models", { ...ppo, reward_funcs: "JUDGE", critic_model: "CRITIC" }],
  [
    "a moving reference",
    { sync_ref_model: true, ref_model_sync_steps: 2, ref_model_mixup_alpha: 0.5, num_iterations: 2, max_steps: 6 },
  ],
  ["a moving reference in bfloat16", { sync_ref_model: true, ref_model_sync_steps: 1, dtype: "bfloat16" }],
  ["an adaptive entropy bonus", { use_adaptive_entropy: true, entropy_target: 3, entropy_coef_delta: 0.01 }],
])("%s", (name, given) => {
  const folder = (kind: string) => work.at(`${name}-${kind}`.replace(/\W+/g, "-"));
  const flags = async (): Promise<Flags> => {
    const critic = await randomModel(work.at("critic"), { head: "score", seed: 2 });
    const named = String(given.reward_funcs ?? reward("by_tokens")).replace("JUDGE", rewardModel);
    return {
      ...given,
      reward_funcs: named,
      ...(given.critic_model ? { critic_model: critic } : {}),
      save_steps: 2,
    };
  };

  test("stopped and resumed, it ends with the same bytes", async () => {
    expect((await train(folder("straight"), await flags())).code).toBe(0);
    expect((await train(folder("resumed"), await flags(), { stopAfter: 2 })).code).toBe(130);
    expect((await train(folder("resumed"), { ...(await flags()), resume_from_checkpoint: true })).code).toBe(0);
    expect(outcome(folder("resumed"))).toEqual(outcome(folder("straight")));
  });

  test("threads and the number of concurrent sequences change nothing", async () => {
    await train(folder("cut"), { ...(await flags()), threads: 1, max_concurrent_sequences: 3 });
    expect(outcome(folder("cut")).files["model.safetensors"]).toBe(
      outcome(folder("straight")).files["model.safetensors"]!,
    );
  });
});

test("PPO: the critic learns the returns, and its numbers are logged", async () => {
  await train(work.at("critic-learns"), {
    ...{ advantage_estimator: "gae", reward_funcs: reward("constant"), beta: 0, critic_learning_rate: 3e-3 },
    ...{ max_steps: 30, cliprange_value: 10, vf_coef: 1, learning_rate: 0 },
  });
  const steps = metricsOf(work.at("critic-learns")).filter((r) => r.loss !== undefined);
  const loss = steps.map((r) => r["value/loss"] as number);
  expect(loss[0]!).toBeGreaterThan(0.2); // ½·(0 − 1)² when values start at 0 and the reward is 1
  expect(loss.at(-1)!).toBeLessThan(0.05);
  for (const name of ["value/mean", "value/clip_ratio", "value/grad_norm", "returns/mean", "value/explained_variance"])
    expect(Number.isFinite(steps.at(-1)![name])).toBe(true);
});

test("a reward model trains the policy toward higher scores", async () => {
  await train(work.at("judged"), {
    ...{ reward_funcs: rewardModel, per_device_train_batch_size: 32, num_generations: 8, temperature: 1 },
    ...{ learning_rate: 5e-4, beta: 0, max_steps: 15 },
  });
  const steps = metricsOf(work.at("judged")).filter((r) => r.loss !== undefined);
  const mean = (rows: typeof steps) => rows.reduce((sum, r) => sum + (r.reward as number), 0) / rows.length;
  const spread = steps[0]!.reward_std as number;
  expect(spread).toBeGreaterThan(0);
  expect(mean(steps.slice(-3)) - mean(steps.slice(0, 3))).toBeGreaterThan(0.5 * spread);
  expect(steps[0]!["rewards/judge/mean"]).toBe(steps[0]!.reward as number);
});

test("a text longer than the reward model's context is not scored, and reported", async () => {
  const short = await randomModel(work.at("short"), { head: "score", config: { max_position_embeddings: 24 } });
  const { code, notes } = await train(work.at("too-long"), { reward_funcs: short, max_steps: 1 });
  expect(code).toBe(0);
  expect(notes.join("\n")).toMatch(/reward model short gave no score: .* on \d+ of 8 completions; they are not scored/);
});

describe("memory", () => {
  const large = {
    hidden_size: 384,
    intermediate_size: 1024,
    num_hidden_layers: 6,
    num_attention_heads: 6,
    num_key_value_heads: 2,
    head_dim: 64,
  };
  const settings = [
    "--dataset",
    problems,
    "--reward_funcs",
    reward("by_tokens"),
    "--per_device_train_batch_size",
    "8",
    "--num_generations",
    "4",
    "--max_completion_length",
    "16",
  ];
  let model: string;
  beforeAll(async () => {
    model = await randomModel(work.at("large"), { head: "lm", config: large });
  });

  test.each(["grpo", "gae"])("%s: the plan equals the memory used", async (estimator) => {
    const common = ["--model", model, ...settings, "--advantage_estimator", estimator];
    const plan = await grpo(["plan", ...common]);
    expect(plan.code).toBe(0);
    const mebibytes = (of: string) => Number(new RegExp(`^${of}\\s+([\\d.]+)`, "m").exec(plan.out)![1]) * 2 ** 20;
    const planned = mebibytes("peak");
    const folder = work.at(`memory-${estimator}`);
    const { code, err } = await grpo([
      "train",
      ...common,
      "--max_steps",
      "2",
      "--save_steps",
      "2",
      "--output_dir",
      folder,
    ]);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    const used = metricsOf(folder).findLast((r) => r.memory_peak_bytes !== undefined)!.memory_peak_bytes as number;
    expect(used).toBeLessThan(planned * 1.05);
    expect(used).toBeGreaterThan(planned * 0.65);
    const onDisk = (place: string, below: (name: string) => boolean) =>
      readdirSync(place, { recursive: true, encoding: "utf8" })
        .filter((name) => name.endsWith(".safetensors") && below(name))
        .reduce((sum, name) => sum + statSync(join(place, name)).size, 0);
    const saved = onDisk(folder, (name) => !name.startsWith("checkpoint"));
    expect(saved / mebibytes("on disk, the model")).toBeCloseTo(1, 1);
    expect(onDisk(join(folder, "checkpoint-2"), () => true) / mebibytes("on disk, a checkpoint")).toBeCloseTo(1, 1);
    rmSync(folder, { recursive: true });
  });

  test("adapters: the plan's disk space equals the files saved", async () => {
    const more = ["--lora_target_modules", "all-linear", "--optim", "adamw_8bit"];
    const common = ["--model", model, ...settings, "--use_peft", "--lora_r", "64", "--dtype", "bfloat16", ...more];
    const { out } = await grpo(["plan", ...common]);
    const planned = (of: string) => Number(new RegExp(`^${of}\\s+([\\d.]+)`, "m").exec(out)![1]) * 2 ** 20;
    const folder = work.at("adapters");
    const argv = ["train", ...common, "--max_steps", "1", "--save_steps", "1", "--output_dir", folder];
    expect((await grpo(argv)).code).toBe(0);
    const sizeOf = (...path: string[]) => statSync(join(folder, ...path)).size;
    const adapter = sizeOf("adapter_model.safetensors");
    const checkpoint = sizeOf("checkpoint-1/adapter_model.safetensors") + sizeOf("checkpoint-1/optimizer.safetensors");
    // Beside the elements that the plan counts, files have headers.
    expect(Math.abs(adapter - planned("on disk, the model"))).toBeLessThan(120_000);
    expect(Math.abs(checkpoint - planned("on disk, a checkpoint"))).toBeLessThan(240_000);
    expect(checkpoint).toBeGreaterThan(2e6);
    rmSync(folder, { recursive: true });
  });

  test("plan --compare: model by model, and the savings of GRPO", async () => {
    const { code, out } = await grpo(["plan", "--model", model, ...settings, "--compare"]);
    expect(code).toBe(0);
    const row = (name: string) =>
      out
        .split("\n")
        .find((line) => line.startsWith(name))!
        .trim()
        .split(/\s{2,}/)
        .slice(1);
    const [policy, reference, critic] = ["policy: weights", "reference: weights", "critic: weights"].map(row);
    expect(policy![0]).toBe(policy![1]!);
    expect(reference![0]).toBe(reference![1]!);
    expect(critic![0]).toBe("none");
    expect(Number(critic![1])).toBeGreaterThan(Number(reference![1]) * 2.5);
    const saved = Number(/GRPO takes (\d+) % less/.exec(out)![1]);
    expect(saved).toBeGreaterThanOrEqual(25);
    expect(saved).toBeLessThanOrEqual(50);
  });
});

test.each<[string, Flags, RegExp]>([
  [
    "a language model as reward model",
    { reward_funcs: bundledModel },
    /ForSequenceClassification|sequence classification/i,
  ],
  ["a reward model as policy", { model: "JUDGE" }, /SequenceClassification/],
])("%s is refused", async (_, flags, message) => {
  const given = flags.model === "JUDGE" ? { model: rewardModel } : flags;
  expect(train(work.at("refused"), given)).rejects.toThrow(message);
});
