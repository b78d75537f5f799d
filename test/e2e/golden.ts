/**
 * The reference for `grpo score` and `grpo update`: test/golden's models with the numbers of transformers' models, TRL's own
 * loss code and torch.optim.AdamW (make_reference.py), and the tolerances of the project's numerics.
 */
import { expect } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { configFor } from "../../src/config/load.ts";
import type { UpdateConfig } from "../../src/config/schema.ts";
import type { Device } from "../../src/device/device.ts";
import { computeAdvantages } from "../../src/grpo/advantages.ts";
import { updateSettings, updateStep } from "../../src/grpo/learner/policy-update.ts";
import { recordedSamples } from "../../src/grpo/recorded-generation.ts";
import { runRecordedUpdate } from "../../src/grpo/recorded-update.ts";
import { readRollouts } from "../../src/grpo/rollout-file.ts";
import { onDevice } from "../../src/run/device.ts";
import type { GradientCheckpointing } from "../../src/session/gradient-checkpointing.ts";
import { planPolicy, planTraining } from "../../src/session/policy.ts";
import { planSession, withSession } from "../../src/session/session.ts";
import { logprobsApart } from "./logprob-line.ts";
import { argvOf, type Flags, metricsOf } from "./runs.ts";
import { differences, downloadTensors, norm, readTensors, type Tensors, worstRelative } from "./tensors.ts";

export interface Expected {
  readonly settings: Flags;
  readonly logprobs: readonly (readonly number[])[];
  readonly entropies: readonly (readonly number[])[];
  readonly cases: Readonly<Record<string, ExpectedCase>>;
}

export interface ExpectedCase {
  readonly config: Flags;
  readonly advantages: readonly number[];
  readonly loss: readonly number[];
  readonly grad_norm: readonly number[];
  readonly metrics_first_iteration: Readonly<Record<string, number>>;
  /** Σ|w| of every tensor after the third step. */
  readonly updated_abs_sum?: Readonly<Record<string, number>>;
}

export const models = ["llama-tied", "qwen2-bias", "qwen3-qknorm"];
/** One model of each further family, or of what differs within one, with the case "grpo" alone (make_families.py). */
export const familyModels = [
  ...[
    "llama3",
    "qwen2-yarn",
    "smollm3",
    "olmo2",
    "mistral",
    "phi3",
    "gemma3",
    "gemma3-untied",
    "qwen3-moe",
    "qwen3-moe-tied",
  ],
].map((name) => `families/${name}`);
/** Those with experts. */
export const mixtures = familyModels.filter((model) => model.includes("moe"));
export const folderOf = (model: string) => join(import.meta.dir, "../golden", model);
export const expectedOf = (model: string): Expected =>
  JSON.parse(readFileSync(join(folderOf(model), "expected.json"), "utf8")) as Expected;

/** |got − want| within `relative` of want plus `absolute`. */
export function expectClose(got: number, want: number, relative: number, absolute: number, what: string): void {
  const allowed = relative * Math.abs(want) + absolute;
  const verdict = Math.abs(got - want) <= allowed ? "close" : `${got}, expected ${want} ± ${allowed}`;
  expect(`${what}: ${verdict}`).toBe(`${what}: close`);
}

/** Flags of `score` for a model's rollouts. */
export const scoreFlags = (model: string, output: string, flags: Flags): Flags => ({
  model: folderOf(model),
  input: join(folderOf(model), "rollouts.jsonl"),
  output,
  ...flags,
});

/** The difference between the logprobs and entropies from `score` and the reference. */
export function scoresApart(model: string, output: string) {
  const lines = readFileSync(output, "utf8").trimEnd().split("\n");
  const scores = lines.map((line) => JSON.parse(line) as { logprobs: number[]; entropies: number[] });
  const { logprobs, entropies } = expectedOf(model);
  const of = (name: "logprobs" | "entropies") => scores.map((score) => score[name]);
  const apart = logprobsApart(of("logprobs"), logprobs);
  return { ...apart, logprob: apart.worst, entropy: logprobsApart(of("entropies"), entropies).worst };
}

/** Flags of `update` for a case. */
export function updateFlags(model: string, name: string, outputDir: string, flags: Flags = {}): Flags {
  const { settings, cases } = expectedOf(model);
  const rollouts = join(folderOf(model), "rollouts.jsonl");
  return { model: folderOf(model), rollouts, output_dir: outputDir, ...settings, ...cases[name]!.config, ...flags };
}

const updateConfig = (...of: Parameters<typeof updateFlags>): UpdateConfig =>
  configFor("update", argvOf(updateFlags(...of))).config;

/** A tensor's total change bounds the error of its Σ|w| when every weight is within the tolerance. */
function expectAbsoluteSums({ updated_abs_sum: sums }: ExpectedCase, before: Tensors, after: Tensors): void {
  if (!sums) return;
  for (const [name, moved] of differences(after, before)) {
    const sum = after.get(name)!.reduce((total, x) => total + Math.abs(x), 0);
    const allowed = 2e-2 * norm(moved) * Math.sqrt(moved.length) + 1e-6 * sum;
    expectClose(sum, sums[name]!, 0, allowed, `Σ|${name}|`);
  }
}

/** Runs `update` in this process. */
export async function runUpdate(model: string, name: string, outputDir: string): Promise<void> {
  const config = updateConfig(model, name, outputDir);
  await runRecordedUpdate({ config, folder: folderOf(model), resume: null, note: () => {}, onStep: () => {} });
}

/** Checks an update's losses, gradient norms, metrics and, if recorded, weights against the reference. */
export function expectUpdated(model: string, name: string, outputDir: string): void {
  const expected = expectedOf(model).cases[name]!;
  const records = metricsOf(outputDir);
  const before = readTensors(join(folderOf(model), "model.safetensors"));
  const after = readTensors(join(outputDir, "model.safetensors"));
  expect(records.map((record) => record.step)).toEqual([1, 2, 3]);
  for (const [i, record] of records.entries()) {
    const [relative, lossSlack, normSlack] = i === 0 ? [1e-4, 1e-5, 1e-5] : [5e-3, 2e-4, 2e-3];
    expectClose(Number(record.loss), expected.loss[i]!, relative, lossSlack, `loss of step ${i + 1}`);
    expectClose(Number(record.grad_norm), expected.grad_norm[i]!, relative, normSlack, `norm of step ${i + 1}`);
  }
  for (const [metric, want] of Object.entries(expected.metrics_first_iteration))
    expectClose(Number(records[0]![metric]), want, 0, 1e-3, metric);
  expectAbsoluteSums(expected, before, after);
  if (name !== "grpo" && name !== "dapo") return;
  const reference = readTensors(join(folderOf(model), `updated-${name}.safetensors`));
  const worst = worstRelative(differences(after, before), differences(reference, before));
  expectClose(worst.error, 0, 0, 2e-2, `movement of ${worst.name}`);
}

/** The first step's gradients before clipping, its metrics, and its advantages. `flags` override the case's. */
export async function firstGradients(
  device: Device,
  model: string,
  name: string,
  flags: Flags,
  checkpointing: GradientCheckpointing = true,
) {
  return gradientsOf(device, updateConfig(model, name, "unused", flags), folderOf(model), checkpointing);
}

/** The same for settings and the folder of a model. */
export async function gradientsOf(
  device: Device,
  config: UpdateConfig,
  folder: string,
  checkpointing: GradientCheckpointing = true,
) {
  const planned = planSession(device, (plan) => {
    const policy = planPolicy(plan, plan.folder(folder), { dtype: config.dtype, positions: 64 });
    return { policy: planTraining(plan, policy, { tokens: 2048, longestPrompt: 64 }, checkpointing) };
  });
  return withSession(planned, async ({ policy }) => {
    const recorded = recordedSamples(await readRollouts(config.rollouts, { vocabSize: policy.model.config.vocabSize }));
    const { advantages } = computeAdvantages({
      rewards: recorded.map(({ reward }) => reward),
      groups: recorded.map(({ group }) => group),
      scaleRewards: config.scaleRewards,
    });
    const samples = recorded.map((sample, i) => ({
      ...sample,
      ...{ advantage: advantages[i]!, values: null, returns: null },
      oldLogprobs: sample.oldLogprobs ?? null,
      refLogprobs: sample.refLogprobs ?? null,
      samplingLogprobs: sample.samplingLogprobs ?? null,
    }));
    const { metrics } = await updateStep(policy, samples, updateSettings(onDevice(config, device)), 0);
    const gradients = downloadTensors(
      device,
      policy.optimizer.parameters.map(({ weight, gradient }) => ({
        name: weight.name,
        weight: { ...weight, address: gradient.address, dtype: "float32" as const },
      })),
    );
    return { gradients, advantages, metrics };
  });
}
