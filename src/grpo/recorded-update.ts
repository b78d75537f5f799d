/**
 * `grpo update`: the policy update alone, on recorded rollouts. A file is one generation: `num_iterations` passes are made
 * over it, each of one optimizer step, or of the steps that its lines name. Offline use, and the way to run a recorded
 * generation again; a critic is not updated.
 */
import { readModelConfig } from "../checkpoint/huggingface.ts";
import { toJson } from "../config/record.ts";
import type { UpdateConfig } from "../config/schema.ts";
import type { MetricsRecord } from "../metrics/metrics-file.ts";
import { maxMicroBatchTokens } from "../model/micro-batches.ts";
import { modelFolder, openRunDevice, packedSizes } from "../run/inputs.ts";
import { keepOutcome } from "../run/run.ts";
import { restoreOptimizer, savedReference } from "../session/checkpointing.ts";
import { planSession } from "../session/session.ts";
import { createLearner } from "./learner/learner.ts";
import { checkAdvantages, checkGroups, recordedSamples, recordedSteps } from "./recorded-generation.ts";
import { weighRecorded } from "./recorded-weigh.ts";
import { movement, type ReplayStart, replayRemarks } from "./replay.ts";
import { readRollouts } from "./rollout-file.ts";

export interface RecordedUpdateOptions {
  readonly config: UpdateConfig;
  readonly folder: string;
  readonly resume: ReplayStart | null;
  readonly note: (text: string) => void;
  readonly onStep: (record: MetricsRecord) => void;
  /** Called when everything is ready and the update begins to write. */
  readonly onBegin?: () => void;
  readonly shouldStop?: () => boolean;
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
  for (const remark of replayRemarks(config, resume, steps)) note(`note: ${remark}`);
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
  const moving = movement(config, resume);
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
    reference: moving || needsReference ? await referenceFolder(options, moving !== null) : null,
    movingReference: moving !== null,
    rollout: null,
    positions: longestPrompt + longestCompletion,
  }).open();
  options.onBegin?.();
  // `true` is the newest checkpoint of this very folder: its lines are the earlier part of the same metrics.
  const goesOn = typeof resume?.folder === "string" && config.resumeFromCheckpoint === true;
  try {
    if (typeof resume?.folder === "string") restoreOptimizer(session, resume.folder);
    const weighed = await weighRecorded(session, recorded, config, steps.cut.length);
    for (const warning of weighed.warnings) note(`note: ${warning}`);
    const totalSteps = resume?.state.totalSteps ?? config.numIterations * steps.cut.length;
    const learner = createLearner({
      ...{
        policy: { model: session.policy, activations: session.activations!, optimizer: session.optimizer! },
        config,
      },
      critic: null,
      reference: moving && { model: session.reference!, ...moving },
      totalSteps,
      // A run ends within a generation where max_steps says so; what goes on elsewhere has no such end.
      end: resume && steps.first === first + 1 ? totalSteps : Infinity,
      start: resume?.state,
    });
    const records: MetricsRecord[] = [];
    const { complete } = await learner.learn(weighed.samples, steps.cut, {
      onStep(step, metrics) {
        const record = { step, ...metrics, ...weighed.metrics };
        options.onStep(record);
        records.push(record);
      },
      ...(options.shouldStop ? { shouldStop: options.shouldStop } : {}),
    });
    if (!complete) return null;
    const state = {
      ...{ step: learner.step, totalSteps, entropyControl: learner.entropyControl, numerics: device.numericsKey },
      // What the run's own settings say beside the update's: how its reference moves, what its generations are.
      config: { ...resume?.state.config, ...toJson(config) },
    };
    await keepOutcome(session, config.outputDir, records, state, goesOn ? first : null);
    return records;
  } finally {
    session.close();
    device.close();
  }
}

/** Folder of the reference; null: the policy before its first step, which is the starting model. */
async function referenceFolder(options: RecordedUpdateOptions, moves: boolean): Promise<string | null> {
  const { config, folder, resume } = options;
  if (moves && typeof resume?.folder === "string") return savedReference(resume.folder);
  if (config.refModel) return modelFolder(config.refModel);
  return moves || typeof resume?.folder === "string" ? folder : null;
}
