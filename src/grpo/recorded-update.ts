/**
 * `grpo update`: the policy update alone, on recorded rollouts. A file is one generation: `num_iterations` passes are made
 * over it, each of one optimizer step, or of the steps that its lines name. Offline use, and the way to run a recorded
 * generation again; a critic is not updated.
 */
import { z } from "zod";
import { resolveModel } from "../checkpoint/hub.ts";
import { readModelConfig } from "../checkpoint/huggingface.ts";
import { configDifferences, freeInReplay, toJson } from "../config/record.ts";
import { settingsOf, type UpdateConfig } from "../config/schema.ts";
import { createMetricsWriter, type MetricsRecord } from "../metrics/metrics-file.ts";
import type { Model } from "../model/lm-head.ts";
import { maxMicroBatchTokens } from "../model/micro-batches.ts";
import { learningRate, scheduleOf } from "../optim/schedule.ts";
import { withDevice } from "../run/device.ts";
import {
  restoreOptimizer,
  saveCheckpoint,
  savedReference,
  saveModel,
  type TrainedModels,
} from "../session/checkpointing.ts";
import { mixReference } from "../session/moving-reference.ts";
import { planPolicy, planTraining, type ScoringModel } from "../session/policy.ts";
import { openReference, planReference } from "../session/reference.ts";
import { planSession, withSession } from "../session/session.ts";
import { estimateAdvantages, klOfTokens } from "./estimators/estimators.ts";
import { type GenerationStep, groupsOfStep, settingsOfSteps } from "./generation-steps.ts";
import {
  appliedEntropyCoef,
  type EntropyControl,
  entropyMetrics,
  nextEntropyControl,
  startEntropyControl,
} from "./loss/entropy-control.ts";
import {
  type PolicyUpdateSettings,
  type ScoredGroup,
  scoreGroups,
  updateSettings,
  updateStep,
} from "./policy-update.ts";
import {
  checkAdvantages,
  checkGroups,
  type RecordedSteps,
  recordedRewards,
  recordedSteps,
} from "./recorded-generation.ts";
import { type RolloutGroup, readRollouts } from "./rollout-file.ts";

/** What of a trainer's state an update goes on from. */
export const updateState = z.looseObject({
  step: z.int().min(0),
  totalSteps: z.int().min(1),
  config: z.record(z.string(), z.unknown()),
  entropyControl: z.object({ coef: z.number(), lastEntropy: z.number().nullable() }).optional(),
  numerics: z.string().optional(),
});

/** Of a run whose reference moves: how it does. */
const movingReference = z.object({
  sync_ref_model: z.literal(true),
  ref_model_sync_steps: z.int().min(1),
  ref_model_mixup_alpha: z.number(),
});

export interface RecordedUpdateOptions {
  readonly config: UpdateConfig;
  readonly folder: string;
  /**
   * Where a run stood: its state, and the checkpoint with the weights and Adam's moments; `folder` null: at its beginning,
   * which no checkpoint holds: the model that it started from.
   */
  readonly resume: { readonly folder: string | null; readonly state: z.infer<typeof updateState> } | null;
  readonly note: (text: string) => void;
  readonly onStep: (record: MetricsRecord) => void;
  /** Called when everything is ready and the update begins to write. */
  readonly onBegin?: () => void;
  readonly shouldStop?: () => boolean;
}

/** What `gae` alone reads. */
const NO_CRITIC = { lam: 1, whitenAdvantages: false } as const;

/** Advantages, old and reference logprobs of the file's groups; what the file does not have is computed. */
async function scoredGroups(
  { model, activations }: ScoringModel,
  referenceModel: Model | null,
  config: UpdateConfig,
  groups: readonly RolloutGroup[],
  settings: PolicyUpdateSettings,
  steps: number,
): Promise<{ groups: ScoredGroup[]; metrics: Record<string, number | null>; warnings: readonly string[] }> {
  const completions = groups.flatMap((g) => g.completions);
  const missing = config.beta !== 0 && completions.some((c) => !c.refLogprobs);
  const reference = missing ? await scoreGroups(referenceModel ?? model, activations, groups, settings) : null;
  const charged = config.useKlInReward && config.beta !== 0;
  // Where the policy that sampled is not recorded it is the starting one: for all steps of a pass, and for the reward that is
  // charged with its KL. One step of a pass has it from its own first forward.
  const own =
    (charged || steps > 1) && completions.some((c) => !c.oldLogprobs)
      ? await scoreGroups(model, activations, groups, settings)
      : null;
  const kl = charged
    ? klOfTokens(
        config.klInRewardEstimator,
        completions.map((c, i) => c.oldLogprobs ?? own![i]!.logprobs),
        completions.map((c, i) => c.refLogprobs ?? reference![i]!.logprobs),
      )
    : null;
  const advantages = estimateAdvantages(
    {
      ...recordedRewards(config.rollouts, completions),
      groups: groups.flatMap((g, i) => g.completions.map(() => i)),
      lengths: completions.map((c) => c.completionIds.length),
      finished: completions.map((c) => c.finished),
      kl,
      values: null,
    },
    // Advantages of the file go before: nothing is estimated then but the statistics of rewards.
    { ...config, ...(completions[0]?.advantages !== undefined && { advantageEstimator: "grpo" }), ...NO_CRITIC },
  );
  let at = 0;
  const scored = groups.map(
    (group): ScoredGroup => ({
      promptIds: group.promptIds,
      completions: group.completions.map((c) => {
        const i = at++;
        return {
          completionIds: c.completionIds,
          finished: c.finished,
          advantage: c.advantages ?? advantages.advantages[i]!,
          oldLogprobs: c.oldLogprobs ?? (steps > 1 ? own![i]!.logprobs : null),
          refLogprobs: c.refLogprobs ?? reference?.[i]?.logprobs ?? null,
          samplingLogprobs: c.samplingLogprobs ?? null,
        };
      }),
    }),
  );
  const { rewardMean, rewardStd, fracRewardZeroStd, warnings } = advantages;
  return {
    groups: scored,
    metrics: {
      ...{ reward: rewardMean, reward_std: rewardStd, frac_reward_zero_std: fracRewardZeroStd },
      ...advantages.metrics,
    },
    warnings,
  };
}

/** Runs the update and saves the model; returns the records of its steps, null where it was stopped before its end. */
export async function runRecordedUpdate(options: RecordedUpdateOptions): Promise<MetricsRecord[] | null> {
  const { config, folder, resume, note } = options;
  const startFolder = resume?.folder ?? folder;
  const modelConfig = readModelConfig(startFolder);
  const groups = await readRollouts(config.rollouts, { vocabSize: modelConfig.vocabSize });
  checkGroups(config, groups, modelConfig.maxPositionEmbeddings);
  checkAdvantages(config, groups);
  const completions = groups.flatMap((g) => g.completions);
  const steps = recordedSteps(config.rollouts, completions);
  const first = resume?.state.step ?? 0;
  for (const remark of replayRemarks(options, steps)) note(`note: ${remark}`);
  const longestPrompt = Math.max(...groups.map((g) => g.promptIds.length));
  const longestCompletion = Math.max(...completions.map((c) => c.completionIds.length));
  const tokens = maxMicroBatchTokens({
    budget: config.microBatchTokens,
    longestPrompt,
    longestCompletion,
    groups: groups.length,
    completions: completions.length,
  });
  // Before the first step the policy is the starting model, so it scores for itself unless another is named.
  const needsReference = config.beta !== 0 && completions.some((c) => !c.refLogprobs);
  const moving =
    config.beta === 0 || namesReference(options) ? undefined : movingReference.safeParse(resume?.state.config).data;
  return withDevice(config, note, async (device) => {
    const { numerics } = resume?.state ?? {};
    if (numerics !== undefined && numerics !== device.numericsKey)
      note(`note: the checkpoint was written on ${numerics}, this is ${device.numericsKey}: the bits will differ`);
    const referencePath = moving || needsReference ? await referenceFolder(options, moving !== undefined) : null;
    const planned = planSession(device, (plan) => {
      const from = plan.folder(startFolder);
      const referenceFrom =
        referencePath === null ? null : openReference(plan, referencePath, from, moving !== undefined);
      const positions = longestPrompt + longestCompletion;
      const model = planPolicy(plan, from, { dtype: config.dtype, positions });
      const reference = referenceFrom && planReference(plan, referenceFrom, model);
      return { policy: planTraining(plan, model, { tokens, longestPrompt }), reference };
    });
    return withSession(planned, async ({ policy, reference }) => {
      const assets = { folder, chatTemplate: null };
      const models: TrainedModels = { policy, critic: null, movingReference: moving ? reference : null, assets };
      options.onBegin?.();
      // `true` is the newest checkpoint of this very folder: its lines are the earlier part of the same metrics.
      const goesOn = typeof resume?.folder === "string" && config.resumeFromCheckpoint === true;
      if (typeof resume?.folder === "string") restoreOptimizer(models, resume.folder);
      const settings = updateSettings(config);
      const scored = await scoredGroups(policy, reference, config, groups, settings, steps.cut.length);
      for (const warning of scored.warnings) note(`note: ${warning}`);
      const totalSteps = resume?.state.totalSteps ?? config.numIterations * steps.cut.length;
      const schedule = scheduleOf(config, totalSteps);
      const records: MetricsRecord[] = [];
      const ofStep = settingsOfSteps(settings, completions, steps.cut.length);
      // A run ends within a generation where max_steps says so; what goes on elsewhere has no such end.
      const end = resume && steps.first === first + 1 ? totalSteps : Infinity;
      let batch = scored.groups;
      let step = first;
      let entropy: EntropyControl = resume?.state.entropyControl ?? startEntropyControl(config);
      for (let iteration = 0; iteration < config.numIterations; iteration++)
        for (const part of steps.cut) {
          if (step >= end) break;
          if (records.length > 0 && options.shouldStop?.()) return null;
          const lr = learningRate(schedule, step);
          const loss = { ...settings.loss, entropyCoef: appliedEntropyCoef(entropy, config) };
          const update = await updateStep(policy, groupsOfStep(batch, part), { ...ofStep, loss }, lr);
          step++;
          entropy = nextEntropyControl(entropy, update.meanEntropy, config);
          if (moving && models.movingReference && step % moving.ref_model_sync_steps === 0)
            await mixReference(models.movingReference, policy.optimizer, moving.ref_model_mixup_alpha);
          const values = { ...update.metrics, ...entropyMetrics(update.metrics, entropy, config) };
          const record: MetricsRecord = { step, ...values, ...scored.metrics };
          options.onStep(record);
          records.push(record);
          if (iteration === 0) batch = withOldLogprobs(batch, part, update.logprobs);
        }
      // Not before: an update that was stopped leaves nothing.
      const metrics = createMetricsWriter(config.outputDir, goesOn ? { resumeStep: first } : {});
      for (const record of records) metrics.write(record);
      metrics.close();
      await saveModel(models, config.outputDir);
      const state = {
        ...{ step, totalSteps, entropyControl: entropy, numerics: device.numericsKey },
        // What the run's own settings say beside the update's: how its reference moves, what its generations are.
        config: { ...resume?.state.config, ...toJson(config) },
      };
      await saveCheckpoint(models, config.outputDir, state.step, state);
      return records;
    });
  });
}

/** π_old of completions that came without one, for later passes: the first forward of the step. */
function withOldLogprobs(
  groups: readonly ScoredGroup[],
  { members }: GenerationStep,
  logprobs: readonly Float32Array[],
): ScoredGroup[] {
  const own = new Map(members.map((member, k) => [member, logprobs[k]!]));
  let at = 0;
  return groups.map((group) => ({
    ...group,
    completions: group.completions.map((c) => {
      const first = own.get(at++) ?? null;
      return { ...c, oldLogprobs: c.oldLogprobs ?? first };
    }),
  }));
}

/** Whether a reference is asked for that is not the run's own. */
function namesReference({ config, resume }: RecordedUpdateOptions): boolean {
  return config.refModel !== null && config.refModel !== (resume?.state.config.ref_model ?? null);
}

/** Folder of the reference; null: the policy before its first step, which is the starting model. */
async function referenceFolder(options: RecordedUpdateOptions, moves: boolean): Promise<string | null> {
  const { config, folder, resume } = options;
  if (moves && typeof resume?.folder === "string") return savedReference(resume.folder);
  if (config.refModel) return resolveModel(config.refModel);
  return moves || typeof resume?.folder === "string" ? folder : null;
}

/** Why this is not the recorded step again, where it looks as if it should be. */
function replayRemarks({ config, resume }: RecordedUpdateOptions, { first, cut }: RecordedSteps): string[] {
  const { rollouts } = config;
  if (!resume)
    return first !== null && first > 1
      ? [
          `${rollouts} was learned from at step ${first}: without that step's checkpoint (--resume_from_checkpoint) weights, Adam's state and schedule begin anew`,
        ]
      : [];
  const { step, config: before } = resume.state;
  if (first !== null && first !== step + 1)
    return [
      `${rollouts} was learned from at step ${first}, and the checkpoint is of step ${step}: this is not the recorded step; checkpoint-${first - 1} would be`,
    ];
  const remarks = configDifferences(before, toJson(config), freeInReplay)
    .filter(
      ({ key, before: was, now }) => was !== undefined && now !== undefined && Object.hasOwn(settingsOf("train"), key),
    )
    .map(({ key, before: was, now }) => `${key} was ${JSON.stringify(was)} and is now ${JSON.stringify(now)}`);
  const { gradient_accumulation_steps: perStep, steps_per_generation: perGeneration } = before;
  if (first === null && cut.length === 1 && typeof perGeneration === "number" && perGeneration !== perStep)
    remarks.push(
      `${rollouts} has no "step", and a generation of the checkpoint's run served several steps: all lines are one step here; record it anew, or give each line its step`,
    );
  return remarks;
}
