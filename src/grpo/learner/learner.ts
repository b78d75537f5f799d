/**
 * The learner takes weighed samples and updates weights. One call learns from one generation: `num_iterations` passes
 * over it, each divided into optimizer steps. It owns everything that lasts from step to step: the step count, the
 * learning-rate schedules, the entropy controller, the moving reference. `grpo train` and `grpo update` use it; they
 * produce the samples and report on them.
 */
import type { Model } from "../../model/model.ts";
import { routeShape } from "../../model/routes.ts";
import { learningRate, type ScheduleSettings, scheduleOf } from "../../optim/schedule.ts";
import type { Critic } from "../../session/critic.ts";
import type { TrainedModel } from "../../session/policy.ts";
import { routesOf } from "../../session/step-routes.ts";
import { type GenerationStep, samplesOfStep, wholeGeneration } from "../generation-steps.ts";
import type { OwnLoss } from "../loss/config.ts";
import type { ValueLossConfig } from "../loss/value.ts";
import { packed, type Weighed } from "../sample.ts";
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
  readonly config: PolicyUpdateConfig &
    EntropySettings &
    ScheduleSettings & { readonly numIterations: number; readonly routerReplay?: boolean };
  /** In place of `config.lossType`. */
  readonly ownLoss?: OwnLoss | null | undefined;
  /** PPO's critic with its settings; null for none. */
  readonly critic: { readonly critic: Critic; readonly value: ValueLossConfig; readonly learningRate: number } | null;
  /**
   * A reference that moves a fraction `alpha` of the way to the policy every `everySteps` steps; null if none moves.
   */
  readonly reference: { readonly model: Model; readonly everySteps: number; readonly alpha: number } | null;
  /** Steps of the whole run, for the schedules. */
  readonly totalSteps: number;
  /** The step to end after; `totalSteps` by default. */
  readonly end?: number;
  /** State from a checkpoint; by default the run starts at step 0. */
  readonly start?: { readonly step: number; readonly entropyControl?: EntropyControl | undefined } | undefined;
}

export interface LearnEvents {
  /** Receives the tokens that the policy has processed so far in this call. */
  readonly onTokens?: (tokens: number) => void;
  /** Called after each optimizer step. */
  readonly onStep?: (step: number, metrics: StepMetrics) => void;
  /** Checked between two steps; true skips the rest. */
  readonly shouldStop?: () => boolean;
}

/** `loss`, `grad_norm`, `learning_rate`, `kl`, `value/loss`, …; null for a mean over no tokens. */
export type StepMetrics = Readonly<Record<string, number | null>>;

export interface Learned {
  readonly steps: readonly StepMetrics[];
  /** Logprobs under the sampling weights for the samples of the first step; missing for the others. (N)(R) */
  readonly firstLogprobs: readonly Float32Array[];
  /** Entropies of each sample in the forward pass of its first step; missing if it had none. (N)(R) */
  readonly entropies: readonly Float32Array[];
  /** Tokens that the policy processed. */
  readonly tokens: number;
  /** False if it was stopped between two steps. */
  readonly complete: boolean;
}

export interface Learner {
  /** Optimizer steps taken so far, including those before a resume. */
  readonly step: number;
  readonly entropyControl: EntropyControl;
  /**
   * @param cut the steps of one pass over the samples
   * @throws RunError if a logprob, a value, the loss or a gradient is not finite; the weights stay those of the step
   * before
   */
  learn(samples: readonly Weighed[], cut: readonly GenerationStep[], events?: LearnEvents): Promise<Learned>;
}

/** @throws InputError if `lr_scheduler_kwargs` do not match the schedule */
export function createLearner(options: LearnerOptions): Learner {
  const { policy, config, critic, reference, totalSteps, end = totalSteps, start } = options;
  const settings = updateSettings(config, options.ownLoss);
  const { optimizer, microBatchTokens } = settings;
  const schedule = scheduleOf(config, totalSteps);
  const criticUpdate = critic && {
    settings: { value: critic.value, optimizer, microBatchTokens },
    schedule: scheduleOf(config, totalSteps, critic.learningRate),
  };
  let step = start?.step ?? 0;
  let control = start?.entropyControl ?? startEntropyControl(config);

  /** One optimizer step of the policy and the critic, then the entropy controller and the moving reference. */
  const optimize = async (samples: readonly Weighed[], context: Parameters<typeof updateStep>[4]) => {
    const loss = { ...settings.loss, entropyCoef: appliedEntropyCoef(control, config) };
    const update = await updateStep(policy, samples, { ...settings, loss }, learningRate(schedule, step), context);
    const valued =
      criticUpdate &&
      (await criticStep(critic.critic, samples, criticUpdate.settings, learningRate(criticUpdate.schedule, step)));
    step++;
    control = nextEntropyControl(control, update.meanEntropy, config);
    if (reference && step % reference.everySteps === 0)
      await mixReference(reference.model, policy.optimizer, reference.alpha, policy.shards);
    const metrics = { ...update.metrics, ...valued };
    const { logprobs, entropies } = update;
    return { logprobs, entropies, metrics: { ...metrics, ...entropyMetrics(metrics, control, config) } };
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
      const entropies: Float32Array[] = [];
      let tokens = 0;
      const context = {
        generation: wholeGeneration(samples, cut.length, settings.loss),
        onTokens(more: number) {
          tokens += more;
          onTokens?.(tokens);
        },
      };
      const count = cut.length * config.numIterations;
      let current = await withReplay(policy, samples, config, count, context.onTokens);
      for (let iteration = 0; iteration < config.numIterations; iteration++)
        for (const part of cut) {
          if (step >= end) break;
          if (steps.length > 0 && shouldStop?.()) return { steps, firstLogprobs, entropies, tokens, complete: false };
          const { metrics, ...scored } = await optimize(samplesOfStep(current, part), context);
          const { logprobs } = scored;
          if (steps.length === 0) for (const [k, i] of part.members.entries()) firstLogprobs[i] = logprobs[k]!;
          for (const [k, i] of part.members.entries()) entropies[i] ??= scored.entropies[k]!;
          // Later passes need π_old: for samples that have none, it is the first forward pass of their step.
          if (iteration === 0) current = withOldLogprobs(current, part, logprobs);
          steps.push(metrics);
          onStep?.(step, metrics);
        }
      return { steps, firstLogprobs, entropies, tokens, complete: true };
    },
  };
}

/** The same samples, with these logprobs as π_old for those of the step that have none. */
function withOldLogprobs(
  samples: readonly Weighed[],
  { members }: GenerationStep,
  logprobs: readonly Float32Array[],
): readonly Weighed[] {
  if (members.every((member) => samples[member]!.oldLogprobs)) return samples;
  const own = new Map(members.map((member, k) => [member, logprobs[k]!]));
  return samples.map((sample, i) => ({ ...sample, oldLogprobs: sample.oldLogprobs ?? own.get(i) ?? null }));
}

/**
 * The samples with the routes that their tokens take in every step, or without any if the trained router chooses. Where the
 * sampler's are unknown, those of the model before the first of several steps are the same to the bit on a device that samples
 * exactly on-policy.
 */
async function withReplay(
  policy: TrainedModel,
  samples: readonly Weighed[],
  { routerReplay = true, microBatchTokens }: LearnerOptions["config"],
  steps: number,
  onTokens: (tokens: number) => void,
): Promise<readonly Weighed[]> {
  if (routeShape(policy.model.config) === null) return samples;
  if (!routerReplay) return samples.map((sample) => ({ ...sample, routes: null }));
  if (steps === 1 || samples.every(({ routes }) => routes)) return samples;
  const routes = await routesOf(policy, packed(samples), microBatchTokens, onTokens);
  return samples.map((sample, i) => ({ ...sample, routes: routes[i]! }));
}
