/**
 * `grpo update`: only the policy update, on recorded rollouts. A file is one generation: `num_iterations` passes over
 * it, each of one optimizer step or of the steps that its lines name. For offline use, and to replay a recorded
 * generation; a critic is not updated.
 */
import { baseNameOf, isAdapterFolder } from "../checkpoint/adapter.ts";
import { resolveModel } from "../checkpoint/hub.ts";
import { placesOf, readModelConfig } from "../checkpoint/huggingface.ts";
import type { UpdateConfig } from "../config/schema.ts";
import type { MetricsRecord } from "../metrics/metrics-file.ts";
import { auxLossCoef } from "../model/expert-load.ts";
import { maxMicroBatchTokens } from "../model/micro-batches.ts";
import type { Model } from "../model/model.ts";
import { onDevice, withDevice } from "../run/device.ts";
import { keepOutcome } from "../run/run.ts";
import { trainedAdapters } from "../session/adapters.ts";
import { restoreOptimizer, savedReference, type TrainedModels } from "../session/checkpointing.ts";
import { planPolicy, planTraining, type TrainedModel } from "../session/policy.ts";
import { openReference, planReference, referenceWithoutAdapters } from "../session/reference.ts";
import { planSession, withSession } from "../session/session.ts";
import type { SessionPlan } from "../session/tenant.ts";
import { createLearner } from "./learner/learner.ts";
import { noFunctions, type OwnFunctions, recordOf } from "./own-functions.ts";
import {
  checkAdvantages,
  checkGroups,
  type Recorded,
  type RecordedSteps,
  recordedSamples,
  recordedSteps,
} from "./recorded-generation.ts";
import { weighRecorded } from "./recorded-weigh.ts";
import { movement, type ReplayStart, replayRemarks } from "./replay.ts";
import { readRollouts } from "./rollout-file.ts";

export interface RecordedUpdateOptions {
  readonly config: UpdateConfig;
  readonly folder: string;
  readonly resume: ReplayStart | null;
  readonly note: (text: string) => void;
  readonly onStep: (record: MetricsRecord) => void;
  /** Called when everything is ready, before the update writes anything. */
  readonly onBegin?: () => void;
  readonly shouldStop?: () => boolean;
  /** In place of names in the settings. */
  readonly functions?: OwnFunctions | undefined;
}

/** Runs the update and saves the model; returns the records of its steps, or null if it was stopped before the end. */
export async function runRecordedUpdate(options: RecordedUpdateOptions): Promise<MetricsRecord[] | null> {
  const { config, folder, resume, note } = options;
  const startFolder = resume?.folder ?? folder;
  const modelConfig = readModelConfig(startFolder);
  auxLossCoef(modelConfig, config.routerAuxLossCoef, startFolder);
  const groups = await readRollouts(config.rollouts, { vocabSize: modelConfig.vocabSize });
  checkGroups(config, groups, modelConfig.maxPositionEmbeddings);
  const recorded = recordedSamples(groups);
  checkAdvantages(config, recorded);
  const steps = recordedSteps(config.rollouts, recorded);
  const longestPrompt = Math.max(...groups.map((g) => g.promptIds.length));
  const longestCompletion = Math.max(...recorded.map((c) => c.completionIds.length));
  // Before the first step the policy is the starting model, so it serves as the reference unless another is named.
  const needsReference = config.beta !== 0 && recorded.some((c) => !c.refLogprobs);
  const moving = movement(config, resume);
  return withDevice(options.config, note, async (device) => {
    const config = onDevice(options.config, device);
    // run.json has null where a checkpoint has the device's number.
    const compared = resume?.state.config.micro_batch_tokens === null ? options.config : config;
    for (const remark of replayRemarks(compared, resume, steps)) note(`note: ${remark}`);
    const tokens = maxMicroBatchTokens({
      budget: config.microBatchTokens,
      longestPrompt,
      longestCompletion,
      groups: groups.length,
      completions: recorded.length,
    });
    const { numerics } = resume?.state ?? {};
    if (numerics !== undefined && numerics !== device.numericsKey)
      note(`note: the checkpoint was written on ${numerics}, this is ${device.numericsKey}: the bits will differ`);
    const moves = moving !== null;
    const referencePath = moves || needsReference ? await referenceFolder(options, moves) : null;
    const tenants = (plan: SessionPlan) => {
      const from = plan.folder(startFolder, "lm", placesOf(folder).config);
      const adapters = trainedAdapters(from, config, typeof resume?.folder === "string");
      const isOwn = adapters !== null && referencePath === folder && !isAdapterFolder(folder);
      const referenceFrom = referencePath === null || isOwn ? null : openReference(plan, referencePath, from, moves);
      const positions = longestPrompt + longestCompletion;
      const model = planPolicy(plan, from, { dtype: config.dtype, positions, adapters, fourBit: config.loadIn4bit });
      const reference = isOwn
        ? referenceWithoutAdapters(model)
        : referenceFrom && planReference(plan, referenceFrom, model);
      const policy = planTraining(plan, model, { tokens, longestPrompt }, config.gradientCheckpointing, null, config);
      return { policy, reference };
    };
    const planned = planSession(device, tenants, note);
    return withSession(planned, (session) => {
      options.onBegin?.();
      return learnRecorded(session, options, recorded, steps);
    });
  });
}

/** The update on the open models; null if it was stopped. */
async function learnRecorded(
  { policy, reference }: { readonly policy: TrainedModel; readonly reference: Model | null },
  { config: given, folder, resume, note, onStep, shouldStop, functions = noFunctions }: RecordedUpdateOptions,
  recorded: readonly Recorded[],
  steps: RecordedSteps,
): Promise<MetricsRecord[] | null> {
  const config = onDevice(given, policy.model.device);
  const moving = movement(config, resume);
  const movingReference = moving && reference;
  const base = baseNameOf(folder, { name: config.model ?? folder, revision: config.modelRevision });
  const assets = { folder, chatTemplate: null, base };
  const models: TrainedModels = { policy, critic: null, movingReference, assets };
  if (typeof resume?.folder === "string") restoreOptimizer(models, resume.folder);
  const weighed = await weighRecorded(
    { policy, reference },
    recorded,
    { ...config, ownEstimator: functions.estimator },
    steps.cut.length,
  );
  for (const warning of weighed.warnings) note(`note: ${warning}`);
  const first = resume?.state.step ?? 0;
  const totalSteps = resume?.state.totalSteps ?? config.numIterations * steps.cut.length;
  const learner = createLearner({
    ...{ policy, config, ownLoss: functions.loss, critic: null, totalSteps },
    reference: moving && movingReference && { model: movingReference, ...moving },
    // max_steps may end a run within a generation; an update that is not that run's next step has no such end.
    end: resume && steps.first === first + 1 ? totalSteps : Infinity,
    start: resume?.state,
  });
  const records: MetricsRecord[] = [];
  const { complete } = await learner.learn(weighed.samples, steps.cut, {
    onStep(step, metrics) {
      const record = { step, ...metrics, ...weighed.metrics };
      onStep(record);
      records.push(record);
    },
    ...(shouldStop ? { shouldStop } : {}),
  });
  if (!complete) return null;
  const state = {
    ...{ step: learner.step, totalSteps, entropyControl: learner.entropyControl },
    numerics: policy.model.device.numericsKey,
    // Keep the run's settings that the update lacks: how its reference moves, the size of its generations.
    config: { ...resume?.state.config, ...recordOf(config, functions) },
  };
  // `true` means the newest checkpoint in this folder, whose metrics are continued.
  const goesOn = typeof resume?.folder === "string" && config.resumeFromCheckpoint === true;
  await keepOutcome(models, config.outputDir, records, state, goesOn ? first : null);
  return records;
}

/** The reference's folder; null: the policy before its first step, which is the starting model. */
async function referenceFolder(options: RecordedUpdateOptions, moves: boolean): Promise<string | null> {
  const { config, folder, resume } = options;
  if (moves && typeof resume?.folder === "string") return savedReference(resume.folder);
  if (config.refModel) return resolveModel(config.refModel, { note: options.note });
  return moves || typeof resume?.folder === "string" ? folder : null;
}
