/**
 * One update of policy and critic under a setting of `gradient_checkpointing`, for the tests that it changes no bit: on
 * the CPU (gradient-checkpointing.test.ts) and on the emulated GPU (../cuda/gradient-checkpointing.test.ts).
 */
import type { Device } from "../../src/device/device.ts";
import { criticStep } from "../../src/grpo/learner/critic-update.ts";
import { updateStep } from "../../src/grpo/learner/policy-update.ts";
import { LOSS_DEFAULTS } from "../../src/grpo/loss/config.ts";
import type { Weighed } from "../../src/grpo/sample.ts";
import type { OptimizerState } from "../../src/optim/adamw.ts";
import { planCritic } from "../../src/session/critic.ts";
import type { GradientCheckpointing } from "../../src/session/gradient-checkpointing.ts";
import { planPolicy, planTraining } from "../../src/session/policy.ts";
import { planSession, withSession } from "../../src/session/session.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { downloadTensors, type Tensors } from "./tensors.ts";

const ids = (length: number, from: number) => Int32Array.from({ length }, (_, i) => (from + 37 * i) % 320);

/** Two groups, one with a completion of a single token. */
const samples: readonly Weighed[] = [
  { group: 0, prompt: ids(6, 1), completion: ids(9, 4) },
  { group: 0, prompt: ids(6, 1), completion: ids(1, 8) },
  { group: 1, prompt: ids(2, 7), completion: ids(70, 2) },
].map(({ group, prompt, completion }, i) => ({
  ...{ group, promptIds: prompt, completionIds: completion, finished: true, mask: null },
  advantage: 1 - i,
  ...{ oldLogprobs: null, refLogprobs: null, samplingLogprobs: null },
  values: new Float32Array(completion.length),
  returns: new Float32Array(completion.length).fill(0.5),
}));

const optimizer = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01, maxGradNorm: 1 };
const value = { cliprangeValue: 0.2, vfCoef: 0.5, maskTruncatedCompletions: false };

function gradientsOf(device: Device, { parameters }: OptimizerState): Tensors {
  return downloadTensors(
    device,
    parameters.map(({ weight, gradient }) => ({
      name: weight.name,
      weight: { ...weight, address: gradient.address, dtype: "float32" },
    })),
  );
}

export interface KeptRun {
  readonly policy: string;
  readonly critic: string;
  readonly dtype: ComputeDType;
  readonly checkpointing: GradientCheckpointing;
}

/** Layers that the policy keeps, the plan's bytes and the kernels' scratch, and all numbers of two steps. */
export async function keptRun(device: Device, { policy: folder, critic: scorer, dtype, checkpointing }: KeptRun) {
  const planned = planSession(device, (plan) => {
    const model = planPolicy(plan, plan.folder(folder), { dtype, positions: 96 });
    const sizes = { tokens: 128, longestPrompt: 32 };
    const policy = planTraining(plan, model, sizes, checkpointing);
    return { policy, critic: planCritic(plan, { folder: scorer }, model, sizes, checkpointing) };
  });
  const { plan, scratchBytes } = planned.memory;
  return withSession(planned, async ({ policy, critic }) => {
    const settings = { loss: { ...LOSS_DEFAULTS, beta: 0 }, optimizer, temperature: 1, microBatchTokens: 96 };
    const steps: unknown[] = [];
    for (let step = 0; step < 2; step++) {
      const { metrics, logprobs } = await updateStep(policy, samples, settings, 1e-2);
      const gradients = gradientsOf(device, policy.optimizer); // the critic's take their place
      const valued = await criticStep(critic, samples, { value, optimizer, microBatchTokens: 96 }, 1e-2);
      steps.push({ metrics, logprobs, gradients, valued, criticGradients: gradientsOf(device, critic.optimizer) });
    }
    const weightsOf = (state: OptimizerState) =>
      downloadTensors(
        device,
        state.parameters.map(({ weight }) => ({ name: weight.name, weight })),
      );
    const kept = policy.activations.gradient.kept.filter((layer) => layer !== null).length;
    const numbers = { steps, policy: weightsOf(policy.optimizer), critic: weightsOf(critic.optimizer) };
    return { kept, totalBytes: plan.totalBytes, scratchBytes, numbers };
  });
}
