/**
 * `grpo update`: the policy update alone, on recorded rollouts. All lines are one batch; `num_iterations` optimizer
 * steps are made over it. Offline use, and the way to run a recorded step again.
 */
import { z } from "zod";
import { readModelConfig } from "../checkpoint/huggingface.ts";
import { toJson } from "../config/record.ts";
import type { UpdateConfig } from "../config/schema.ts";
import { restoreOptimizer, saveCheckpoint, saveModel } from "../engine/checkpointing.ts";
import { modelFolder, openRunDevice, packedSizes } from "../engine/inputs.ts";
import { planSession, type Session } from "../engine/session.ts";
import { InputError } from "../errors.ts";
import { createMetricsWriter, type MetricsRecord } from "../metrics/metrics-file.ts";
import { maxMicroBatchTokens } from "../model/micro-batches.ts";
import { learningRate } from "../optim/schedule.ts";
import { ESTIMATORS, estimateAdvantages, klOfTokens } from "./estimators/estimators.ts";
import {
  appliedEntropyCoef,
  type EntropyControl,
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
import { type RolloutGroup, readRollouts } from "./rollout-file.ts";

/** What of a trainer's state an update goes on from. */
export const updateState = z.looseObject({
  step: z.int().min(0),
  totalSteps: z.int().min(1),
  config: z.record(z.string(), z.unknown()),
  entropyControl: z.object({ coef: z.number(), lastEntropy: z.number().nullable() }).optional(),
});

export interface RecordedUpdateOptions {
  readonly config: UpdateConfig;
  readonly folder: string;
  /** Checkpoint whose weights, Adam state, step and schedule are taken. */
  readonly resume: { readonly folder: string; readonly state: z.infer<typeof updateState> } | null;
  readonly note: (text: string) => void;
  readonly onStep: (record: MetricsRecord) => void;
  /** Called when everything is ready and the update begins to write. */
  readonly onBegin?: () => void;
  readonly shouldStop?: () => boolean;
}

/** What `gae` alone reads. */
const NO_CRITIC = { lam: 1, whitenAdvantages: false } as const;

/** @throws InputError where a group's size is not num_generations, or a sequence exceeds the context */
function checkGroups(config: UpdateConfig, groups: readonly RolloutGroup[], context: number): void {
  for (const { group, promptIds, completions } of groups) {
    if (config.numGenerations !== null && completions.length !== config.numGenerations)
      throw new InputError(
        `${config.rollouts}: group ${group} has ${completions.length} completions, num_generations is ${config.numGenerations}; leave the flag out to take the file's groups`,
      );
    const longest = Math.max(...completions.map((c) => c.completionIds.length));
    if (promptIds.length + longest > context)
      throw new InputError(
        `${config.rollouts}: group ${group}: prompt and completion have ${promptIds.length + longest} tokens, the model's context is ${context}; leave the group out`,
      );
  }
}

/** @throws InputError where the estimator needs a critic, or only some lines have advantages of their own */
function checkAdvantages(config: UpdateConfig, groups: readonly RolloutGroup[]): void {
  const completions = groups.flatMap((group) => group.completions);
  const own = completions.filter((c) => c.advantages !== undefined).length;
  if (own > 0 && own < completions.length)
    throw new InputError(
      `${config.rollouts}: ${own} of ${completions.length} lines have "advantages"; give them on every line or on none`,
    );
  if (own === 0 && ESTIMATORS[config.advantageEstimator].needsCritic)
    throw new InputError(
      `advantage_estimator ${config.advantageEstimator} needs a critic, and ${config.rollouts} has no "advantages"; use grpo train, or write them into the file`,
    );
}

/** Advantages, old and reference logprobs of the file's groups; what the file does not have is computed. */
async function scoredGroups(
  session: Session,
  config: UpdateConfig,
  groups: readonly RolloutGroup[],
  settings: PolicyUpdateSettings,
): Promise<{ groups: ScoredGroup[]; metrics: Record<string, number>; warnings: readonly string[] }> {
  const completions = groups.flatMap((g) => g.completions);
  const missing = config.beta !== 0 && completions.some((c) => !c.refLogprobs);
  const reference = missing
    ? await scoreGroups(session.reference ?? session.policy, session.activations!, groups, settings)
    : null;
  const charged = config.useKlInReward && config.beta !== 0;
  // The reward is charged with the KL of the policy that sampled; where that is not recorded it is the starting one.
  const own =
    charged && completions.some((c) => !c.oldLogprobs)
      ? await scoreGroups(session.policy, session.activations!, groups, settings)
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
      rewards: completions.map((c) => c.reward),
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
          oldLogprobs: c.oldLogprobs ?? null,
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
  const reference = config.refModel ? await modelFolder(config.refModel) : resume ? folder : null;
  const device = await openRunDevice(config, note);
  const session = await planSession({
    device,
    folder: startFolder,
    assets: folder,
    dtype: config.dtype,
    packed: packedSizes(device, modelConfig, tokens, longestPrompt),
    training: true,
    reference: needsReference ? reference : null,
    rollout: null,
    positions: longestPrompt + longestCompletion,
  }).open();
  const first = resume?.state.step ?? 0;
  options.onBegin?.();
  // `true` is the newest checkpoint of this very folder: its lines are the earlier part of the same metrics.
  const goesOn = resume !== null && config.resumeFromCheckpoint === true;
  try {
    if (resume) restoreOptimizer(session, resume.folder);
    const settings = updateSettings(config);
    const scored = await scoredGroups(session, config, groups, settings);
    for (const warning of scored.warnings) note(`note: ${warning}`);
    const totalSteps = resume?.state.totalSteps ?? config.numIterations;
    const schedule = {
      type: config.lrSchedulerType,
      base: config.learningRate,
      warmupSteps: config.warmupSteps || Math.ceil(config.warmupRatio * totalSteps),
      totalSteps,
    };
    const updater = { model: session.policy, activations: session.activations!, optimizer: session.optimizer! };
    const records: MetricsRecord[] = [];
    let batch = scored.groups;
    let entropy: EntropyControl = resume?.state.entropyControl ?? startEntropyControl(config);
    for (let iteration = 0; iteration < config.numIterations; iteration++) {
      const step = first + iteration;
      const lr = learningRate(schedule, step);
      const loss = { ...settings.loss, entropyCoef: appliedEntropyCoef(entropy, config) };
      const update = await updateStep(updater, batch, { ...settings, loss }, lr);
      entropy = nextEntropyControl(entropy, update.meanEntropy, config);
      const record: MetricsRecord = { step: step + 1, ...update.metrics, ...scored.metrics };
      options.onStep(record);
      records.push(record);
      if (iteration === 0) batch = withOldLogprobs(batch, update.logprobs);
      if (options.shouldStop?.() && iteration + 1 < config.numIterations) return null;
    }
    // Not before: an update that was stopped leaves nothing.
    const metrics = createMetricsWriter(config.outputDir, goesOn ? { resumeStep: first } : {});
    for (const record of records) metrics.write(record);
    metrics.close();
    await saveModel(session, config.outputDir);
    const state = { step: first + config.numIterations, totalSteps, config: toJson(config), entropyControl: entropy };
    await saveCheckpoint(session, config.outputDir, state.step, state);
    return records;
  } finally {
    session.close();
    device.close();
  }
}

/** π_old of completions that came without one: the update's own first forward. */
function withOldLogprobs(groups: readonly ScoredGroup[], logprobs: readonly Float32Array[]): ScoredGroup[] {
  let at = 0;
  return groups.map((group) => ({
    ...group,
    completions: group.completions.map((c) => {
      const own = logprobs[at++] ?? null;
      return { ...c, oldLogprobs: c.oldLogprobs ?? own };
    }),
  }));
}
