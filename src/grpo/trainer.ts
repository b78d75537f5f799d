/**
 * GRPO (Shao et al. 2024) and its kin, PPO included: prompts → rollout → rewards → advantages → policy update (and the
 * critic's) → metrics, checkpoint.
 * One generation is sampled, scored and learned from, then the next; everything here is in that order. What a run is
 * made of is setup.ts; the update is policy-update.ts; evaluation is passed in.
 */
import { isEarlierWaiting } from "../checkpoint/earlier.ts";
import { everySteps } from "../config/often.ts";
import { toJson } from "../config/record.ts";
import { RunError } from "../errors.ts";
import { parameterCount } from "../families/parameters.ts";
import { removeCompletionsAfter } from "../metrics/completions-file.ts";
import type { RunConsole } from "../metrics/console.ts";
import { createMetricsWriter } from "../metrics/metrics-file.ts";
import { createStopwatch } from "../metrics/stopwatch.ts";
import { learningRate, scheduleOf } from "../optim/schedule.ts";
import type { RewardTrainerState } from "../rewards/pool/pool.ts";
import type { BestState } from "../run/best-checkpoint.ts";
import { openRunOutput } from "../run/run-output.ts";
import { restoreOptimizer, type TrainedModels } from "../session/checkpointing.ts";
import { anonymousBytes } from "../session/memory.ts";
import { mixReference } from "../session/moving-reference.ts";
import { criticStep } from "./critic-update.ts";
import { ESTIMATORS, estimateAdvantages, klOfTokens } from "./estimators/estimators.ts";
import { completionSamples, recordRollouts, scoredGroups } from "./generation.ts";
import { cutGeneration, groupsOfStep, settingsOfSteps } from "./generation-steps.ts";
import { appliedEntropyCoef, entropyMetrics, nextEntropyControl, startEntropyControl } from "./loss/entropy-control.ts";
import { measure } from "./measure.ts";
import type { RewardSources } from "./model-rewards.ts";
import { updateSettings, updateStep } from "./policy-update.ts";
import { rewardTrainerState, type TrainerState } from "./run-state.ts";
import { sampleGeneration, samplingWarnings } from "./sampling.ts";
import { type TrainingSession, type TrainingSetup, totalSteps } from "./setup.ts";
import {
  completionMetrics,
  dynamicMetrics,
  functionMetrics,
  rewardMetrics,
  samplerDifference,
  speedMetrics,
} from "./step-metrics.ts";
import { createStepWarnings } from "./step-warnings.ts";
import { createUnscoredGuard } from "./unscored.ts";

export interface TrainerHooks {
  readonly console: RunConsole;
  readonly rewards: RewardSources;
  /** Accuracy on the held-out problems, as a metrics record without its step; null: no evaluation. */
  readonly evaluate: ((state: RewardTrainerState) => Promise<{ values: Record<string, number>; note: string }>) | null;
  /** Says that the user wants to stop. */
  readonly stopRequested: () => boolean;
  /** Rewards as they were scored → rewards to learn from; a test shuffles them here. */
  readonly reviseRewards?: (total: readonly (number | null)[], groupSize: number) => (number | null)[];
}

export interface TrainOutcome {
  readonly steps: number;
  /** Ended by the user, with a checkpoint of the last step. */
  readonly stopped: boolean;
}

/**
 * Runs training to its end or until the user stops it.
 *
 * @param resume folder and state of the checkpoint whose weights the session holds; null: from the start
 * @throws InputError, RunError: what was reached is in the last checkpoint
 */
export async function train(
  setup: TrainingSetup,
  session: TrainingSession,
  hooks: TrainerHooks,
  resume: { readonly folder: string; readonly state: TrainerState } | null,
): Promise<TrainOutcome> {
  const { config, batch, problems } = setup;
  const { outputDir } = config;
  const { policy, reference, rollout, critic } = session;
  const { device, config: modelConfig } = policy.model;
  const movingReference = config.syncRefModel ? reference : null;
  const models: TrainedModels = { policy, critic, movingReference, assets: setup.assets };
  const settings = updateSettings(config);
  const { optimizer: adamw, microBatchTokens } = settings;
  const criticSettings = { value: config, optimizer: adamw, microBatchTokens };
  const steps = totalSteps(setup);
  const parameters = parameterCount(modelConfig);
  const schedule = scheduleOf(config, steps);
  const criticSchedule = scheduleOf(config, steps, config.criticLearningRate ?? config.learningRate);

  let { step, position, skippedRows, numTokens } = resume?.state ?? {
    ...{ step: 0, position: 0, skippedRows: 0, numTokens: 0 },
  };
  let entropyControl = resume?.state.entropyControl ?? startEntropyControl(config);
  if (resume) restoreOptimizer(models, resume.folder);
  const metrics = createMetricsWriter(outputDir, resume ? { resumeStep: step } : {});
  removeCompletionsAfter(outputDir, step);
  const stopwatch = createStopwatch();
  const unscored = createUnscoredGuard();
  /** A run that has learned nothing does not take the place of an earlier one. */
  let anyScored = false;
  const stepWarnings = createStepWarnings(ESTIMATORS[config.advantageEstimator]);

  // Where the run stands: saved after a generation is learned from, so a checkpoint never lies within one.
  const state = (best: BestState | null): TrainerState => ({
    ...{ step, totalSteps: steps, position, skippedRows, numTokens },
    ...(config.useAdaptiveEntropy ? { entropyControl } : {}),
    ...(best ? { best } : {}),
    numerics: device.numericsKey,
    config: toJson(config) as Record<string, unknown>,
  });
  const told = (isEvaluation: boolean) => rewardTrainerState(state(null), problems.dataset.numRows, isEvaluation);
  const output = openRunOutput({
    ...{ models, config, metrics, state, resume, console: hooks.console, stopRequested: hooks.stopRequested },
    byDefault: "eval_reward",
    evaluate: hooks.evaluate && (() => hooks.evaluate!(told(true))),
  });

  const passed = (every: number, since: number) => Math.floor(step / every) > Math.floor(since / every);
  const often = everySteps(config, steps);
  const evaluationDue = (since: number) => often.eval !== null && passed(often.eval, since) && step < steps;

  try {
    // Resumed, the run may have ended before the evaluation of the checkpoint's step was written.
    if (step === 0 || evaluationDue(step - batch.stepsPerGeneration)) await output.evaluate();
    while (step < steps && !hooks.stopRequested() && !output.exhausted) {
      stopwatch.lap();
      const firstStep = step + 1;
      const progress = (phase: string, done = 0, total = done) =>
        hooks.console.progress({ step: firstStep, steps, phase, done, total });

      // Prompts, rollout, rewards
      const generation = await sampleGeneration(
        {
          ...{ setup, rollout, rewards: hooks.rewards, trainerState: told(false), shouldStop: hooks.stopRequested },
          onPhase: (phase) => {
            stopwatch.start(phase);
            if (phase === "reward") progress("rewards");
          },
          onProgress: (done, total) => progress("rollout", done, total),
        },
        firstStep,
        position,
      );
      if (!generation) break; // it is dropped: the checkpoint stands before it
      const { groups, texts, rewards: result } = generation;
      const completions = groups.flatMap((group) => group.completions);
      ({ position } = generation);
      skippedRows += generation.skippedRows;
      for (const warning of [...result.warnings, ...samplingWarnings(config, generation)]) hooks.console.note(warning);

      // Logprobs under the reference and under the policy that sampled, values of the critic
      stopwatch.start("reference");
      const packed = groups.map((g) => ({ promptIds: g.problem.promptIds, completions: g.completions }));
      const { perDeviceTrainBatchSize, lossType, seed } = config;
      const cut = cutGeneration({
        ...{ completions: completions.length, perStep: batch.stepCompletions, seed, step: firstStep },
        blockSize: lossType === "bnpo" ? perDeviceTrainBatchSize : null,
      });
      const single = config.numIterations === 1 && cut.length === 1;
      let referenceTokens = 0;
      const measured = await measure(session, packed, completions, {
        settings,
        needsOld: !single || config.useKlInReward,
        onTokens(model, tokens) {
          if (model === "reference") referenceTokens += tokens;
          progress(model, tokens);
        },
      });

      // Advantages
      const revised = hooks.reviseRewards?.(result.total, config.numGenerations);
      const weights = config.rewardWeights ?? result.perFunction.map(() => 1);
      const charged = config.useKlInReward && measured.reference !== null;
      const advantages = estimateAdvantages(
        {
          ...(revised ? { rewards: revised } : { rewards: result.perFunction.map((f) => f.rewards), weights }),
          names: result.perFunction.map(({ name }) => name),
          groups: groups.flatMap((group, i) => group.completions.map(() => i)),
          lengths: completions.map((c) => c.completionIds.length),
          finished: completions.map((c) => c.finished),
          kl: charged ? klOfTokens(config.klInRewardEstimator, measured.old!, measured.reference!) : null,
          values: measured.values,
        },
        config,
      );
      if (firstStep === 1) for (const warning of advantages.warnings) hooks.console.note(`note: ${warning}`);

      // Policy update, and the critic's
      stopwatch.start("update");
      const scored = scoredGroups(groups, advantages.advantages, measured.old, measured.reference);
      const ofStep = settingsOfSteps(settings, completions, cut.length);
      const updates: Record<string, number | null>[] = [];
      const first: Float32Array[] = []; // logprobs under the weights that sampled, of the completions of the first step
      let updateTokens = 0;
      const onTokens = (tokens: number) => {
        updateTokens += tokens;
        progress("update", updateTokens);
      };
      for (let iteration = 0; iteration < config.numIterations; iteration++)
        for (const part of cut) {
          if (step >= steps) break;
          const slice = groupsOfStep(scored, part);
          const loss = { ...settings.loss, entropyCoef: appliedEntropyCoef(entropyControl, config) };
          const update = await updateStep(policy, slice, { ...ofStep, loss }, learningRate(schedule, step), onTokens);
          let { metrics: values } = update;
          if (critic) {
            const own = <T>(all: readonly T[]) => part.members.map((i) => all[i]!);
            const rate = learningRate(criticSchedule, step);
            const [old, returns] = [own(measured.values!), own(advantages.returns!)];
            values = { ...values, ...(await criticStep(critic, slice, old, returns, criticSettings, rate)).metrics };
          }
          step++;
          entropyControl = nextEntropyControl(entropyControl, update.meanEntropy, config);
          values = { ...values, ...entropyMetrics(values, entropyControl, config) };
          if (movingReference && step % config.refModelSyncSteps === 0)
            await mixReference(movingReference, policy.optimizer, config.refModelMixupAlpha);
          if (updates.length === 0) for (const [k, i] of part.members.entries()) first[i] = update.logprobs[k]!;
          updates.push(values);
        }

      // Metrics
      const { promptTokens, sampledTokens } = generation;
      numTokens += generation.sequenceTokens;
      const times = stopwatch.lap();
      const peakFlops = device.peakFlops(policy.model.weights.dtype);
      const common = {
        epoch: position / problems.dataset.numRows,
        ...functionMetrics(result),
        ...rewardMetrics(result, advantages),
        ...advantages.metrics,
        ...completionMetrics(completions),
        ...(config.dynamicSampling ? dynamicMetrics(generation) : {}),
        num_tokens: numTokens,
        ...times,
        ...speedMetrics({ sampledTokens, promptTokens, updateTokens, referenceTokens, times, parameters, peakFlops }),
        memory_peak_bytes: device.heldBytes() ?? anonymousBytes(),
        ...(skippedRows > 0 ? { skipped_rows: skippedRows } : {}),
      };
      const difference = samplerDifference(completions, measured.scored ?? first);
      for (const [i, update] of updates.entries()) {
        const record = { step: firstStep + i, ...update, ...common, ...difference };
        metrics.write(record);
        for (const warning of stepWarnings(record, advantages.hasSpread)) hooks.console.note(`note: ${warning}`);
        if (record.step % often.logging === 0 || record.step === steps) hooks.console.step(record);
      }
      if (config.saveCompletions)
        await recordRollouts(outputDir, firstStep, {
          ...{ groups, texts, result, weights, cut },
          old: measured.old ?? first,
          // What no replay of the policy's update can make: it has no critic.
          advantages: critic ? advantages.advantages : null,
        });
      if (config.logCompletions && (firstStep === 1 || firstStep % config.logCompletionsSteps === 0))
        hooks.console.completions(firstStep, completionSamples(groups, texts, result, config.numCompletionsToPrint));

      // Checkpoint, evaluation
      const hopeless = unscored(result);
      anyScored ||= result.total.some((reward) => reward !== null);
      if (hopeless !== null) {
        if (!anyScored && isEarlierWaiting(outputDir)) throw new RunError(`${hopeless}; mend it and start again`);
        await output.save();
        throw new RunError(`${hopeless}; mend it and go on with --resume_from_checkpoint true`);
      }
      if (often.save > 0 && passed(often.save, firstStep - 1)) await output.save();
      if (evaluationDue(firstStep - 1)) await output.evaluate();
    }
    await output.evaluate();
    const stopped = hooks.stopRequested();
    if (stopped) await output.stop();
    else await output.finish(steps);
    return { steps: step, stopped };
  } finally {
    metrics.close();
    hooks.console.close();
  }
}
