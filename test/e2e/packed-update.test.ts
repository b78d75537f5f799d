/**
 * The packed update, which computes a group's prompt once, against the plain one: one completion at a time, each after its own
 * prompt, in one causal sequence without sharing, with gradients summed. Equal up to float32 rounding.
 */
import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { readModelConfig } from "../../src/checkpoint/huggingface.ts";
import type { Device } from "../../src/device/device.ts";
import { computeAdvantages } from "../../src/grpo/advantages.ts";
import { byCompletion, updateStep } from "../../src/grpo/learner/policy-update.ts";
import { LOSS_DEFAULTS, type LossCompletion, type LossConfig, type TokenValues } from "../../src/grpo/loss/config.ts";
import { computeLoss } from "../../src/grpo/loss/loss.ts";
import { denominatorsOf, stepDenominators } from "../../src/grpo/loss/step.ts";
import { recordedSamples } from "../../src/grpo/recorded-generation.ts";
import { readRollouts } from "../../src/grpo/rollout-file.ts";
import { packed, type Weighed } from "../../src/grpo/sample.ts";
import { backward, forward, type Scores } from "../../src/model/lm-head.ts";
import { cutMicroBatches } from "../../src/model/micro-batches.ts";
import type { PackedBatch } from "../../src/model/trunk.ts";
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

/** The recorded rollouts with GRPO's advantages; `masked`: some of their tokens were forced. */
async function weighedSamples(model: string, masked: boolean): Promise<Weighed[]> {
  const folder = folderOf(model);
  const groups = await readRollouts(join(folder, "rollouts.jsonl"), { vocabSize: readModelConfig(folder).vocabSize });
  const samples = recordedSamples(groups);
  const { advantages } = computeAdvantages({
    rewards: samples.map(({ reward }) => reward),
    groups: samples.map(({ group }) => group),
    scaleRewards: "group",
  });
  return samples.map(({ group, promptIds, completionIds, finished, ...sample }, i) => ({
    ...{ group, promptIds, completionIds, finished, advantage: advantages[i]!, values: null, returns: null },
    mask: masked && i % 3 > 0 ? Uint8Array.from(completionIds, (_, t) => (t % 4 === 1 ? 0 : 1)) : null,
    oldLogprobs: sample.oldLogprobs ?? null,
    refLogprobs: sample.refLogprobs ?? null,
    samplingLogprobs: sample.samplingLogprobs ?? null,
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

/** One causal sequence: prompt and completion; its last token predicts nothing. */
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

/** A sample with its scores and without its forced tokens: masking must be equivalent. */
function withoutForced({ mask, ...sample }: Weighed, index: number, scores: Scores): LossCompletion {
  const kept = <T extends TokenValues | null>(values: T) => (values?.filter((_, t) => mask?.[t] !== 0) ?? null) as T;
  const { oldLogprobs, refLogprobs, samplingLogprobs } = sample;
  return {
    ...{ index, finished: sample.finished, advantage: sample.advantage },
    ...{ logprobs: kept(scores.logprobs), entropies: kept(scores.entropies) },
    ...{ oldLogprobs: kept(oldLogprobs), refLogprobs: kept(refLogprobs), samplingLogprobs: kept(samplingLogprobs) },
  };
}

/** The derivatives of the kept tokens at their places among all tokens; 0 elsewhere. */
function inPlace(values: Float64Array, mask: Weighed["mask"]): Float64Array {
  let at = 0;
  return mask ? Float64Array.from(mask, (own) => (own === 1 ? values[at++]! : 0)) : values;
}

/** Loss and gradients of one step, a sequence at a time. */
async function plainUpdate(
  { model, activations, optimizer }: TrainedModel,
  samples: readonly Weighed[],
  loss: LossConfig,
  temperature: number,
) {
  const scored: LossCompletion[] = [];
  const scoresOf = ({ promptIds, completionIds }: Weighed) =>
    forward(model, plainSequence(promptIds, completionIds), activations, temperature);
  for (const [index, sample] of samples.entries()) scored.push(withoutForced(sample, index, await scoresOf(sample)));
  const step = stepDenominators(scored, loss);
  zeroGradients(device, optimizer);
  let total = 0;
  for (const [index, sample] of samples.entries()) {
    const result = computeLoss([withoutForced(sample, index, await scoresOf(sample))], step, loss);
    total += result.loss;
    const gradients = {
      dlogprobs: inPlace(result.dlogprobs, sample.mask),
      dentropies: inPlace(result.dentropies, sample.mask),
    };
    const batch = plainSequence(sample.promptIds, sample.completionIds);
    await backward(model, batch, activations, optimizer.gradients, gradients, temperature);
  }
  return { loss: total, gradients: gradientsOf(optimizer) };
}

const cases: readonly [string, Partial<LossConfig>, number, masked?: boolean][] = [
  ["grpo with KL", { lossType: "grpo", beta: 0.04 }, 1],
  [
    "dapo at temperature 0.7, truncated completions masked",
    { lossType: "dapo", beta: 0, maskTruncatedCompletions: true },
    0.7,
  ],
  ["dapo with forced tokens", { lossType: "dapo", beta: 0.04, topEntropyQuantile: 0.6 }, 1, true],
  ["dr_grpo with an entropy bonus", { lossType: "dr_grpo", beta: 0, entropyCoef: 0.1 }, 1],
  ["bnpo in blocks", { lossType: "bnpo", beta: 0.01, perDeviceTrainBatchSize: 4 }, 1],
  ["the tokens of highest entropy", { lossType: "grpo", beta: 0, topEntropyQuantile: 0.4 }, 1],
  ["grpo with KL, forced tokens", { lossType: "grpo", beta: 0.04, entropyCoef: 0.1 }, 1, true],
  ["sequence level", { lossType: "grpo", beta: 0, importanceSamplingLevel: "sequence", epsilon: 0.02 }, 1],
];

describe.each(models)("%s", (model) => {
  test("logits computed once: the same bits as a forward pass and then a backward pass", async () => {
    const samples = await weighedSamples(model, true);
    const loss: LossConfig = { ...LOSS_DEFAULTS, maxCompletionLength: 16, entropyCoef: 0.1 };
    await withSession(planOf(model), async ({ policy: { model: weights, activations: planned, optimizer } }) => {
      const step = denominatorsOf(
        samples.map((sample) => ({ ...sample, tokens: sample.completionIds.length })),
        loss,
      );
      for (const headChunk of [1, 7, 512]) {
        const activations = { ...planned, sizes: { ...planned.sizes, headChunk } };
        const policy = { model: weights, activations, optimizer, shards: null };
        zeroGradients(device, optimizer);
        const apart: Float32Array[] = [];
        for (const batch of cutMicroBatches(packed(samples), 60)) {
          const scores = await forward(weights, batch, activations, 0.7);
          const [logprobs, entropies] = [byCompletion(batch, scores.logprobs), byCompletion(batch, scores.entropies)];
          const part = Array.from(batch.completions, (index, i) => {
            apart[index] = logprobs[i]!;
            return { ...samples[index]!, index, logprobs: logprobs[i]!, entropies: entropies[i]! };
          });
          await backward(weights, batch, activations, optimizer.gradients, computeLoss(part, step, loss), 0.7);
        }
        const wanted = gradientsOf(optimizer);
        const adam = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, maxGradNorm: 0 };
        const once = await updateStep(
          policy,
          samples,
          { loss, optimizer: adam, temperature: 0.7, microBatchTokens: 60 },
          0,
        );
        expect(gradientsOf(optimizer)).toEqual(wanted);
        expect(once.logprobs).toEqual(apart);
      }
    });
  });

  test.each(cases)("%s", async (_, settings, temperature, masked = false) => {
    const loss: LossConfig = { ...LOSS_DEFAULTS, maxCompletionLength: 16, ...settings };
    const samples = await weighedSamples(model, masked);
    await withSession(planOf(model), async ({ policy }) => {
      const plain = await plainUpdate(policy, samples, loss, temperature);
      expect(Math.max(...[...plain.gradients.values()].map(norm))).toBeGreaterThan(0.1);
      // All at once; with split groups; every completion alone.
      for (const microBatchTokens of [512, 40, 1]) {
        const adam = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, maxGradNorm: 0 };
        // A learning rate of 0: the weights stay, and the gradients remain in place.
        const packed = await updateStep(policy, samples, { loss, optimizer: adam, temperature, microBatchTokens }, 0);
        expect(Math.abs(packed.metrics.loss! - plain.loss)).toBeLessThan(1e-6);
        expect(worstRelative(gradientsOf(policy.optimizer), plain.gradients).error).toBeLessThan(1e-5);
      }
    });
  });
});
