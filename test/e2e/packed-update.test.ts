/**
 * The packed update, which computes a group's prompt once, against the plain one: a completion at a time, behind a
 * prompt of its own, in one causal sequence without any sharing, gradients added up. Equal to float32 rounding.
 */
import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { readModelConfig } from "../../src/checkpoint/huggingface.ts";
import type { Device } from "../../src/device/device.ts";
import { computeAdvantages } from "../../src/grpo/advantages.ts";
import type { LossCompletion } from "../../src/grpo/loss/config.ts";
import { LOSS_DEFAULTS, type LossConfig } from "../../src/grpo/loss/config.ts";
import { stepDenominators } from "../../src/grpo/loss/step.ts";
import { computeLoss } from "../../src/grpo/loss.ts";
import { type ScoredGroup, updateStep } from "../../src/grpo/policy-update.ts";
import { readRollouts } from "../../src/grpo/rollout-file.ts";
import { backward, forward, type PackedBatch } from "../../src/model/lm-head.ts";
import { type OptimizerState, zeroGradients } from "../../src/optim/adamw.ts";
import { openRunDevice } from "../../src/run/device.ts";
import { planPolicy, planTraining, type TrainedModel } from "../../src/session/policy.ts";
import { planSession, withSession } from "../../src/session/session.ts";
import { downloadTensors, norm, type Tensors, worstRelative } from "./tensors.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const models = ["llama-tied", "qwen2-bias", "qwen3-qknorm"];
const folderOf = (model: string) => join(import.meta.dir, "../golden", model);

let device: Device;
beforeAll(async () => {
  device = await openRunDevice({ device: "cpu", threads: null }, () => {});
});

const planOf = (model: string) =>
  planSession(device, (plan) => {
    const policy = planPolicy(plan, plan.folder(folderOf(model)), { dtype: "float32", positions: 64 });
    return { policy: planTraining(plan, policy, { tokens: 512, longestPrompt: 64 }) };
  });

async function recordedGroups(model: string): Promise<ScoredGroup[]> {
  const folder = folderOf(model);
  const groups = await readRollouts(join(folder, "rollouts.jsonl"), { vocabSize: readModelConfig(folder).vocabSize });
  const rewards = groups.flatMap((group) => group.completions.map((c) => c.reward));
  const places = groups.flatMap((group, i) => group.completions.map(() => i));
  const { advantages } = computeAdvantages({ rewards, groups: places, scaleRewards: "group" });
  let at = 0;
  return groups.map(({ promptIds, completions }) => ({
    promptIds,
    completions: completions.map(({ completionIds, finished, oldLogprobs, refLogprobs, samplingLogprobs }) => ({
      ...{ completionIds, finished, advantage: advantages[at++]! },
      oldLogprobs: oldLogprobs ?? null,
      refLogprobs: refLogprobs ?? null,
      samplingLogprobs: samplingLogprobs ?? null,
    })),
  }));
}

function gradientsOf(optimizer: OptimizerState): Tensors {
  return downloadTensors(
    device,
    optimizer.parameters.map(({ weight, gradient }) => ({
      name: weight.name,
      weight: { ...weight, address: gradient.address, dtype: "float32" as const },
    })),
  );
}

/** One causal sequence: prompt and completion, whose last token predicts nothing. */
function plainSequence(promptIds: Int32Array, completionIds: Int32Array): PackedBatch {
  const tokens = Int32Array.from([...promptIds, ...completionIds.subarray(0, -1)]);
  return {
    tokens,
    positions: tokens.map((_, t) => t),
    segments: Int32Array.of(0, tokens.length, 0, 0),
    headRows: completionIds.map((_, t) => promptIds.length - 1 + t),
    entryRows: completionIds.map((_, t) => t),
    entryTargets: completionIds,
  };
}

/** Loss and gradients of one step, a sequence at a time. */
async function plainUpdate(
  { model, activations, optimizer }: TrainedModel,
  groups: readonly ScoredGroup[],
  loss: LossConfig,
  temperature: number,
) {
  const sequences = groups.flatMap((g) => g.completions.map((c) => ({ promptIds: g.promptIds, ...c })));
  const scored: LossCompletion[] = [];
  for (const [index, { promptIds, completionIds, ...completion }] of sequences.entries())
    scored.push({
      ...completion,
      index,
      ...(await forward(model, plainSequence(promptIds, completionIds), activations, temperature)),
    });
  const step = stepDenominators(scored, loss);
  zeroGradients(device, optimizer);
  let total = 0;
  for (const [index, { promptIds, completionIds }] of sequences.entries()) {
    const batch = plainSequence(promptIds, completionIds);
    const scores = await forward(model, batch, activations, temperature);
    const result = computeLoss([{ ...scored[index]!, ...scores }], step, loss);
    total += result.loss;
    await backward(model, batch, activations, optimizer.gradients, result, temperature);
  }
  return { loss: total, gradients: gradientsOf(optimizer) };
}

const cases: readonly [string, Partial<LossConfig>, number][] = [
  ["grpo with KL", { lossType: "grpo", beta: 0.04 }, 1],
  [
    "dapo at temperature 0.7, truncated completions masked",
    { lossType: "dapo", beta: 0, maskTruncatedCompletions: true },
    0.7,
  ],
  ["dr_grpo with an entropy bonus", { lossType: "dr_grpo", beta: 0, entropyCoef: 0.1 }, 1],
  ["bnpo in blocks", { lossType: "bnpo", beta: 0.01, perDeviceTrainBatchSize: 4 }, 1],
  ["the tokens of highest entropy", { lossType: "grpo", beta: 0, topEntropyQuantile: 0.4 }, 1],
  ["sequence level", { lossType: "grpo", beta: 0, importanceSamplingLevel: "sequence", epsilon: 0.02 }, 1],
];

describe.each(models)("%s", (model) => {
  test.each(cases)("%s", async (_, settings, temperature) => {
    const loss: LossConfig = { ...LOSS_DEFAULTS, maxCompletionLength: 16, ...settings };
    const groups = await recordedGroups(model);
    await withSession(planOf(model), async ({ policy }) => {
      const plain = await plainUpdate(policy, groups, loss, temperature);
      expect(Math.max(...[...plain.gradients.values()].map(norm))).toBeGreaterThan(0.1);
      // All at once; with groups that are split; every completion alone.
      for (const microBatchTokens of [512, 40, 1]) {
        const adam = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, maxGradNorm: 0 };
        // A learning rate of 0: the weights stay, the gradients remain where they are.
        const packed = await updateStep(policy, groups, { loss, optimizer: adam, temperature, microBatchTokens }, 0);
        expect(Math.abs(packed.metrics.loss! - plain.loss)).toBeLessThan(1e-6);
        expect(worstRelative(gradientsOf(policy.optimizer), plain.gradients).error).toBeLessThan(1e-5);
      }
    });
  });
});
