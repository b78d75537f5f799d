/**
 * What learns: weighed samples go in, weights are updated. One call learns from one generation: `num_iterations` passes over it,
 * each in the steps it is cut into. Owns everything that lasts from step to step: the step count, the learning-rate schedules,
 * the controller of the entropy bonus, the moving reference. Used by `grpo train` and `grpo update`; where samples come from and
 * what is written about them is up to those.
 */
import type { Model } from "../../model/model.ts";
import { learningRate, type ScheduleSettings, scheduleOf } from "../../optim/schedule.ts";
import type { Critic } from "../../session/critic.ts";
import type { TrainedModel } from "../../session/policy.ts";
import { type GenerationStep, samplesOfStep, wholeGeneration } from "../generation-steps.ts";
import type { ValueLossConfig } from "../loss/value.ts";
import type { Weighed } from "../sample.ts";
import { criticStep } from "./critic-update.ts";
import {
  appliedEntropyCoef,
  type EntropyControl,
  type EntropySettings,
  entropyMetrics,
  nextEntropyControl,
  startEntropyControl,
} from "./entropy-control.ts";
import { mixReference } from "./moving-reference.ts";
import { type PolicyUpdateConfig, updateSettings, updateStep } from "./policy-update.ts";

export interface LearnerOptions {
  readonly policy: TrainedModel;
  readonly config: PolicyUpdateConfig & EntropySettings & ScheduleSettings & { readonly numIterations: number };
  /** PPO's, with its settings; null: none learns. */
  readonly critic: { readonly critic: Critic; readonly value: ValueLossConfig; readonly learningRate: number } | null;
  /** The reference that follows the policy: after every so many steps, by a share of the way; null: none moves. */
  readonly reference: { readonly model: Model; readonly everySteps: number; readonly alpha: number } | null;
  /** Steps of the whole run, which schedules reckon with, and the one after which it ends: by default the same. */
  readonly totalSteps: number;
  readonly end?: number;
  /** What a checkpoint kept; by default the run begins. */
  readonly start?: { readonly step: number; readonly entropyControl?: EntropyControl | undefined } | undefined;
}

export interface LearnEvents {
  /** Tokens that have gone through the policy so far, in this call. */
  readonly onTokens?: (tokens: number) => void;
  /** After each optimizer step; its count and what it logs. */
  readonly onStep?: (step: number, metrics: StepMetrics) => void;
  /** Asked between two steps; where it says so the rest is left out. */
  readonly shouldStop?: () => boolean;
}

/** `loss`, `grad_norm`, `learning_rate`, `kl`, `value/loss`, …; null: a mean over no token. */
export type StepMetrics = Readonly<Record<string, number | null>>;

export interface Learned {
  /** Of each optimizer step. */
  readonly steps: readonly StepMetrics[];
  /** Logprobs under the weights that sampled, of the samples of the first step; the others are missing. (N)(R) */
  readonly firstLogprobs: readonly Float32Array[];
  /** Tokens that went through the policy. */
  readonly tokens: number;
  /** False: it was stopped between two steps. */
  readonly complete: boolean;
}

export interface Learner {
  /** Optimizer steps made so far, earlier runs' included. */
  readonly step: number;
  readonly entropyControl: EntropyControl;
  /**
   * @param cut the steps of one pass over the samples
   * @throws RunError when a logprob, a value, the loss or a gradient is not finite; the weights are those of the step before
   */
  learn(samples: readonly Weighed[], cut: readonly GenerationStep[], events?: LearnEvents): Promise<Learned>;
}

/** @throws InputError where `lr_scheduler_kwargs` do not fit the schedule */
export function createLearner(options: LearnerOptions): Learner {
  const { policy, config, critic, reference, totalSteps, end = totalSteps, start } = options;
  const settings = updateSettings(config);
  const { optimizer, microBatchTokens } = settings;
  const schedule = scheduleOf(config, totalSteps);
  const criticUpdate = critic && {
    settings: { value: critic.value, optimizer, microBatchTokens },
    schedule: scheduleOf(config, totalSteps, critic.learningRate),
  };
  let step = start?.step ?? 0;
  let control = start?.entropyControl ?? startEntropyControl(config);

  /** One optimizer step of the policy, of the critic beside it, of what follows the two. */
  const optimize = async (samples: readonly Weighed[], context: Parameters<typeof updateStep>[4]) => {
    const loss = { ...settings.loss, entropyCoef: appliedEntropyCoef(control, config) };
    const update = await updateStep(policy, samples, { ...settings, loss }, learningRate(schedule, step), context);
    const valued =
      criticUpdate &&
      (await criticStep(critic.critic, samples, criticUpdate.settings, learningRate(criticUpdate.schedule, step)));
    step++;
    control = nextEntropyControl(control, update.meanEntropy, config);
    if (reference && step % reference.everySteps === 0)
      await mixReference(reference.model, policy.optimizer, reference.alpha);
    const metrics = { ...update.metrics, ...valued };
    return { logprobs: update.logprobs, metrics: { ...metrics, ...entropyMetrics(metrics, control, config) } };
  };

  return {
    get step() {
      return step;
    },
    get entropyControl() {
      return control;
    },
    async learn(samples, cut, { onTokens, onStep, shouldStop } = {}) {
      const steps: StepMetrics[] = [];
      const firstLogprobs: Float32Array[] = [];
      let tokens = 0;
      const context = {
        generation: wholeGeneration(samples, cut.length, settings.loss),
        onTokens(more: number) {
          tokens += more;
          onTokens?.(tokens);
        },
      };
      let current = samples;
      for (let iteration = 0; iteration < config.numIterations; iteration++)
        for (const part of cut) {
          if (step >= end) break;
          if (steps.length > 0 && shouldStop?.()) return { steps, firstLogprobs, tokens, complete: false };
          const { logprobs, metrics } = await optimize(samplesOfStep(current, part), context);
          if (steps.length === 0) for (const [k, i] of part.members.entries()) firstLogprobs[i] = logprobs[k]!;
          // π_old of samples that came without one, for later passes: the first forward of their step.
          if (iteration === 0) current = withOldLogprobs(current, part, logprobs);
          steps.push(metrics);
          onStep?.(step, metrics);
        }
      return { steps, firstLogprobs, tokens, complete: true };
    },
  };
}

/** The same samples; those of the step that have no π_old take these logprobs. */
function withOldLogprobs(
  samples: readonly Weighed[],
  { members }: GenerationStep,
  logprobs: readonly Float32Array[],
): readonly Weighed[] {
  if (members.every((member) => samples[member]!.oldLogprobs)) return samples;
  const own = new Map(members.map((member, k) => [member, logprobs[k]!]));
  return samples.map((sample, i) => ({ ...sample, oldLogprobs: sample.oldLogprobs ?? own.get(i) ?? null }));
}
