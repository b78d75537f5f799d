/**
 * Models with a scalar head on the emulated GPU, or with BUN_GRPO_CUDA=real on this machine's own: values, scores and gradients
 * against the CPU's, in both types, and two steps of critic and moving reference with the same bits on every run. One scorer
 * has norms over heads, the other layers of different shapes.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { openCudaDevice } from "../../src/device/cuda/device.ts";
import type { Device } from "../../src/device/device.ts";
import { families } from "../../src/families/families.ts";
import { mixReference } from "../../src/grpo/learner/moving-reference.ts";
import { cutMicroBatches, type PackedGroup } from "../../src/model/micro-batches.ts";
import { backwardValues, forwardValues, scoreSequences, scoreValues } from "../../src/model/scalar-head.ts";
import { optimizerStep, zeroGradients } from "../../src/optim/adamw.ts";
import { openRunDevice } from "../../src/run/device.ts";
import { planCritic } from "../../src/session/critic.ts";
import { planPolicy, planTraining } from "../../src/session/policy.ts";
import { planReference } from "../../src/session/reference.ts";
import { planRewardModels } from "../../src/session/reward-model.ts";
import { planSession, withSession } from "../../src/session/session.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { workFolder } from "../e2e/runs.ts";
import { differences, downloadTensors, norm, type Tensors, worstRelative } from "../e2e/tensors.ts";
import { buildEmulator } from "../emulator/build.ts";
import { invented } from "../fixtures/invented-family.ts";
import { writeTinyModel } from "../fixtures/scalar-model.ts";

// The emulator may have to be compiled first, and kernels are compiled on demand.
setDefaultTimeout(300_000);

const work = workFolder();
let cpu: Device;
let gpu: Device;
let policy: string;
const scorers: Record<string, string> = {};
families.set("invented", invented);
beforeAll(async () => {
  if (process.env.BUN_GRPO_CUDA === "real") gpu = await openCudaDevice();
  else gpu = await openCudaDevice({ libraryFolder: (await buildEmulator()).folder });
  cpu = await openRunDevice({ device: "cpu", threads: 2 }, () => {});
  const config = { head_dim: 16 }; // for which every kernel is recorded
  policy = await writeTinyModel(work.at("policy"), { head: "lm", config });
  for (const modelType of ["qwen3", "invented"])
    scorers[modelType] = await writeTinyModel(work.at(modelType), { modelType, seed: 5, config });
});
afterAll(() => {
  gpu.close();
  cpu.close();
  work.remove();
  families.delete("invented");
});

const ids = (length: number, from: number) => Int32Array.from({ length }, (_, i) => (from + 37 * i) % 320);
const groups: readonly PackedGroup[] = [
  { promptIds: ids(6, 1), completions: [{ completionIds: ids(9, 4) }, { completionIds: ids(1, 8) }] },
  { promptIds: ids(2, 7), completions: [{ completionIds: ids(70, 2) }] },
];
const sequences = [ids(12, 1), ids(1, 5), ids(75, 9)];

interface Result {
  readonly values: Float32Array;
  readonly scores: Float32Array;
  readonly gradients: Tensors;
  /** The final weights of critic and reference. */
  readonly weights: readonly Tensors[];
}

async function run(device: Device, scorer: string, dtype: ComputeDType): Promise<Result> {
  const planned = planSession(device, (plan) => {
    const actor = planPolicy(plan, plan.folder(policy), { dtype, positions: 96 });
    const sizes = { tokens: 128, longestPrompt: 32 };
    return {
      reference: planReference(plan, plan.folder(policy), actor),
      actor: planTraining(plan, actor, sizes),
      critic: planCritic(plan, { folder: scorer }, actor, sizes),
      rewardModels: planRewardModels(plan, [{ folder: scorer, longest: 96, microBatchTokens: 96 }], {
        dtype,
        duringRollout: false,
      }),
    };
  });
  return withSession(planned, async ({ actor: { optimizer }, reference, critic, rewardModels }) => {
    const { model, activations } = critic;
    const [rewardModel] = rewardModels;
    const options = { microBatchTokens: 96 };
    const values = await scoreValues(model, activations, groups, options);
    const scores = await scoreSequences(rewardModel!.model, rewardModel!.activations, sequences, options);
    const learn = async () => {
      zeroGradients(device, critic.optimizer);
      for (const batch of cutMicroBatches(groups, 96)) {
        const now = await forwardValues(model, batch, activations);
        await backwardValues(
          model,
          batch,
          activations,
          critic.optimizer.gradients,
          Float32Array.from(now, (v) => v - 1),
        );
      }
    };
    await learn();
    const read = (entries: { name: string; weight: (typeof model.weights.all)[0] }[]) =>
      downloadTensors(device, entries);
    const gradients = read(
      critic.optimizer.parameters.map(({ weight, gradient }) => ({
        name: weight.name,
        weight: { ...weight, address: gradient.address, dtype: "float32" },
      })),
    );
    const settings = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01, maxGradNorm: 1 };
    await optimizerStep(device, critic.optimizer, settings, 1e-2);
    // The policy moves along a gradient of ones, and the reference part of the way after it.
    for (const { gradient } of optimizer.parameters) device.ops.fill(gradient, 1);
    await optimizerStep(device, optimizer, settings, 1e-2);
    await mixReference(reference, optimizer, 0.6);
    const weights = [model, reference].map(({ weights: { all } }) =>
      read(all.map((weight) => ({ name: weight.name, weight }))),
    );
    return { values: Float32Array.from(values.flatMap((v) => [...v])), scores, gradients, weights };
  });
}

const apart = (a: Float32Array, b: Float32Array) => Math.max(...a.map((v, i) => Math.abs(v - b[i]!)));

test.each([
  ["qwen3", "float32", 2e-5, 1e-4, 1e-5],
  ["qwen3", "bfloat16", 0.1, 0.06, 1e-2],
  ["invented", "float32", 2e-5, 1e-4, 1e-5],
] as const)("%s, %s: as on the CPU, and the same bits again", async (type, dtype, value, gradient, reference) => {
  const scorer = scorers[type]!;
  const wanted = await run(cpu, scorer, "float32");
  const found = await run(gpu, scorer, dtype);
  expect(apart(found.values, wanted.values)).toBeLessThan(value);
  expect(apart(found.scores, wanted.scores)).toBeLessThan(value);
  if (dtype === "float32") expect(worstRelative(found.gradients, wanted.gradients).error).toBeLessThan(gradient);
  const whole = (tensors: Tensors) => Math.hypot(...[...tensors.values()].map(norm));
  const distance = whole(differences(found.gradients, wanted.gradients));
  expect(distance / whole(wanted.gradients)).toBeLessThan(gradient);
  // Adam's first step is the gradient's sign, which rounding flips near zero: the critic is not compared.
  expect(worstRelative(found.weights[1]!, wanted.weights[1]!).error).toBeLessThan(reference);
  expect(await run(gpu, scorer, dtype)).toEqual(found);
});
