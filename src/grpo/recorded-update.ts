/**
 * `grpo update`: the policy update alone, on recorded rollouts. A file is one generation: `num_iterations` passes are made
 * over it, each of one optimizer step, or of the steps that its lines name. Offline use, and the way to run a recorded
 * generation again; a critic is not updated.
 */
import { z } from "zod";
import { readModelConfig } from "../checkpoint/huggingface.ts";
import { configDifferences, freeInReplay, toJson } from "../config/record.ts";
import { settingsOf, type UpdateConfig } from "../config/schema.ts";
import { createMetricsWriter, type MetricsRecord } from "../metrics/metrics-file.ts";
import { maxMicroBatchTokens } from "../model/micro-batches.ts";
import { learningRate, scheduleOf } from "../optim/schedule.ts";
import { modelFolder, openRunDevice, packedSizes } from "../run/inputs.ts";
import { restoreOptimizer, saveCheckpoint, savedReference, saveModel } from "../session/checkpointing.ts";
import { mixReference } from "../session/moving-reference.ts";
import { planSession, type Session } from "../session/session.ts";
import { type GenerationStep, samplesOfStep, wholeGeneration } from "./generation-steps.ts";
import {
  appliedEntropyCoef,
  type EntropyControl,
  entropyMetrics,
  nextEntropyControl,
  startEntropyControl,
} from "./loss/entropy-control.ts";
import { type PolicyUpdateSettings, scoreGroups, updateSettings, updateStep } from "./policy-update.ts";
import {
  checkAdvantages,
  checkGroups,
  type Recorded,
  type RecordedSteps,
  recordedRewards,
  recordedSamples,
  recordedSteps,
} from "./recorded-generation.ts";
import { readRollouts } from "./rollout-file.ts";
import { type Measured, packed, type Weighed } from "./sample.ts";
import { weigh } from "./weigh.ts";

/** The part of a trainer's state that an update resumes from. */
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

/** Old and reference logprobs of the file's samples; what the file does not have is computed where it is needed. */
async function measureRecorded(
  { policy, reference, activations }: Session,
  samples: readonly Recorded[],
  config: UpdateConfig,
  settings: PolicyUpdateSettings,
  steps: number,
): Promise<(Omit<Recorded, keyof Measured> & Measured)[]> {
  const score = (model: typeof policy) => scoreGroups(model, activations!, packed(samples), settings);
  const missing = config.beta !== 0 && samples.some((sample) => !sample.refLogprobs);
  const underReference = missing ? await score(reference ?? policy) : null;
  // Where the policy that sampled is not recorded it is the starting one: for all steps of a pass, and for the reward that is
  // charged with its KL. One step of a pass has it from its own first forward.
  const needsOld = steps > 1 || (config.useKlInReward && config.beta !== 0);
  const underPolicy = needsOld && samples.some((sample) => !sample.oldLogprobs) ? await score(policy) : null;
  return samples.map((sample, i) => ({
    ...sample,
    samplingLogprobs: sample.samplingLogprobs ?? null,
    oldLogprobs: sample.oldLogprobs ?? underPolicy?.[i]?.logprobs ?? null,
    refLogprobs: sample.refLogprobs ?? underReference?.[i]?.logprobs ?? null,
    values: null,
  }));
}

/** The file's samples with their advantages, those that it has or those of its rewards; and what is logged of both. */
async function weighRecorded(
  session: Session,
  recorded: readonly Recorded[],
  config: UpdateConfig,
  settings: PolicyUpdateSettings,
  steps: number,
): Promise<{ samples: Weighed[]; metrics: Record<string, number | null>; warnings: readonly string[] }> {
  const measured = await measureRecorded(session, recorded, config, settings, steps);
  const { samples, estimate } = weigh(measured, recordedRewards(config.rollouts, recorded), {
    ...config,
    // The file's advantages override them: nothing is estimated then but the statistics of rewards.
    ...(recorded[0]?.advantages !== undefined && { advantageEstimator: "grpo" as const }),
    ...NO_CRITIC,
  });
  const { rewardMean, rewardStd, fracRewardZeroStd, warnings } = estimate;
  return {
    samples: samples.map((sample) => ({ ...sample, advantage: sample.advantages ?? sample.advantage })),
    metrics: {
      ...{ reward: rewardMean, reward_std: rewardStd, frac_reward_zero_std: fracRewardZeroStd },
      ...estimate.metrics,
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
  const recorded = recordedSamples(groups);
  checkAdvantages(config, recorded);
  const steps = recordedSteps(config.rollouts, recorded);
  const first = resume?.state.step ?? 0;
  for (const remark of replayRemarks(options, steps)) note(`note: ${remark}`);
  const longestPrompt = Math.max(...groups.map((g) => g.promptIds.length));
  const longestCompletion = Math.max(...recorded.map((c) => c.completionIds.length));
  const tokens = maxMicroBatchTokens({
    budget: config.microBatchTokens,
    longestPrompt,
    longestCompletion,
    groups: groups.length,
    completions: recorded.length,
  });
  // Before the first step the policy is the starting model, so it scores for itself unless another is named.
  const needsReference = config.beta !== 0 && recorded.some((c) => !c.refLogprobs);
  const moving =
    config.beta === 0 || namesReference(options) ? undefined : movingReference.safeParse(resume?.state.config).data;
  const device = await openRunDevice(config, note);
  const { numerics } = resume?.state ?? {};
  if (numerics !== undefined && numerics !== device.numericsKey)
    note(`note: the checkpoint was written on ${numerics}, this is ${device.numericsKey}: the bits will differ`);
  const session = await planSession({
    device,
    folder: startFolder,
    assets: folder,
    dtype: config.dtype,
    packed: packedSizes(device, modelConfig, tokens, longestPrompt),
    training: true,
    reference: moving || needsReference ? await referenceFolder(options, moving !== undefined) : null,
    movingReference: moving !== undefined,
    rollout: null,
    positions: longestPrompt + longestCompletion,
  }).open();
  options.onBegin?.();
  // `true` is the newest checkpoint of this very folder: its lines are the earlier part of the same metrics.
  const goesOn = typeof resume?.folder === "string" && config.resumeFromCheckpoint === true;
  try {
    if (typeof resume?.folder === "string") restoreOptimizer(session, resume.folder);
    const settings = updateSettings(config);
    const weighed = await weighRecorded(session, recorded, config, settings, steps.cut.length);
    for (const warning of weighed.warnings) note(`note: ${warning}`);
    const totalSteps = resume?.state.totalSteps ?? config.numIterations * steps.cut.length;
    const schedule = scheduleOf(config, totalSteps);
    const updater = { model: session.policy, activations: session.activations!, optimizer: session.optimizer! };
    const records: MetricsRecord[] = [];
    const generation = wholeGeneration(recorded, steps.cut.length, settings.loss);
    // A run ends within a generation where max_steps says so; what goes on elsewhere has no such end.
    const end = resume && steps.first === first + 1 ? totalSteps : Infinity;
    let { samples } = weighed;
    let step = first;
    let entropy: EntropyControl = resume?.state.entropyControl ?? startEntropyControl(config);
    for (let iteration = 0; iteration < config.numIterations; iteration++)
      for (const part of steps.cut) {
        if (step >= end) break;
        if (records.length > 0 && options.shouldStop?.()) return null;
        const lr = learningRate(schedule, step);
        const loss = { ...settings.loss, entropyCoef: appliedEntropyCoef(entropy, config) };
        const update = await updateStep(updater, samplesOfStep(samples, part), { ...settings, loss }, lr, {
          generation,
        });
        step++;
        entropy = nextEntropyControl(entropy, update.meanEntropy, config);
        if (moving && step % moving.ref_model_sync_steps === 0)
          await mixReference(session, moving.ref_model_mixup_alpha);
        const values = { ...update.metrics, ...entropyMetrics(update.metrics, entropy, config) };
        const record: MetricsRecord = { step, ...values, ...weighed.metrics };
        options.onStep(record);
        records.push(record);
        // π_old of samples that came without one, for later passes: the first forward of their step
        if (iteration === 0) samples = withOldLogprobs(samples, part, update.logprobs);
      }
    // Not before: an update that was stopped leaves nothing.
    const metrics = createMetricsWriter(config.outputDir, goesOn ? { resumeStep: first } : {});
    for (const record of records) metrics.write(record);
    metrics.close();
    await saveModel(session, config.outputDir);
    const state = {
      ...{ step, totalSteps, entropyControl: entropy, numerics: device.numericsKey },
      // What the run's own settings say beside the update's: how its reference moves, what its generations are.
      config: { ...resume?.state.config, ...toJson(config) },
    };
    await saveCheckpoint(session, config.outputDir, state.step, state);
    return records;
  } finally {
    session.close();
    device.close();
  }
}

/** The same samples; those of the step that have no π_old take these logprobs. */
function withOldLogprobs(
  samples: readonly Weighed[],
  { members }: GenerationStep,
  logprobs: readonly Float32Array[],
): Weighed[] {
  const own = new Map(members.map((member, k) => [member, logprobs[k]!]));
  return samples.map((sample, i) => ({ ...sample, oldLogprobs: sample.oldLogprobs ?? own.get(i) ?? null }));
}

/** Whether a reference is asked for that is not the run's own. */
function namesReference({ config, resume }: RecordedUpdateOptions): boolean {
  return config.refModel !== null && config.refModel !== (resume?.state.config.ref_model ?? null);
}

/** Folder of the reference; null: the policy before its first step, which is the starting model. */
async function referenceFolder(options: RecordedUpdateOptions, moves: boolean): Promise<string | null> {
  const { config, folder, resume } = options;
  if (moves && typeof resume?.folder === "string") return savedReference(resume.folder);
  if (config.refModel) return modelFolder(config.refModel);
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
