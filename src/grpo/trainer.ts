/**
 * GRPO (Shao et al. 2024, arXiv 2402.03300, algorithm 1) and its variants, PPO included. For each generation:
 *
 * 1. prompts are drawn, a group of completions is sampled for each and scored (sampling.ts)
 * 2. the reference and the sampling policy give the logprob of every token, PPO's critic its value (measure.ts)
 * 3. rewards become advantages: in the paper, relative to the group's mean (weigh.ts, estimators/)
 * 4. the policy, and the critic if there is one, learn from them in one or several optimizer steps (learner/)
 * 5. it is logged and recorded (report.ts); checkpoints and evaluations belong to the run (run/run.ts)
 *
 * Unlike in the paper, the reference stays the starting model or slowly follows the policy (`sync_ref_model`), and the
 * reward model is not trained. A generation is a list of samples (sample.ts), to which each phase adds fields.
 */
import type { RunConsole } from "../metrics/console.ts";
import type { RewardTrainerState } from "../rewards/pool/pool.ts";
import type { BestState } from "../run/best-checkpoint.ts";
import { keepRun, type RunOptions, type RunOutcome, type Turn } from "../run/run.ts";
import type { TrainedModels } from "../session/checkpointing.ts";
import { ESTIMATORS, ownEntry } from "./estimators/estimators.ts";
import { cutGeneration } from "./generation-steps.ts";
import { createLearner } from "./learner/learner.ts";
import { measure } from "./measure.ts";
import { noFunctions, type OwnFunctions, recordOf } from "./own-functions.ts";
import { createReport } from "./report.ts";
import type { RewardSources } from "./reward-sources.ts";
import { rewardTrainerState, type TrainerState } from "./run-state.ts";
import { sampleGeneration, samplingWarnings } from "./sampling.ts";
import { type TrainingSession, type TrainingSetup, totalSteps } from "./setup.ts";
import { createStepWarnings } from "./step-warnings.ts";
import { rewardInput, weigh } from "./weigh.ts";

export interface TrainerHooks {
  readonly console: RunConsole;
  readonly rewards: RewardSources;
  /** Accuracy on the held-out problems, as a metrics record without its step; null: no evaluation. */
  readonly evaluate: ((state: RewardTrainerState) => Promise<{ values: Record<string, number>; note: string }>) | null;
  /** Called after a checkpoint was saved. */
  readonly onSaved?: RunOptions["onSaved"];
  readonly sinks?: RunOptions["sinks"];
  /** Replaces the scored rewards with those to learn from; a test shuffles them here. */
  readonly reviseRewards?: (total: readonly (number | null)[], groupSize: number) => (number | null)[];
  /** In place of names in the settings. */
  readonly functions?: OwnFunctions | undefined;
}

/**
 * Runs training to its end or until the user stops it.
 *
 * @param resume folder and state of the checkpoint whose weights the session holds; null: from the start
 * @throws InputError, RunError; progress up to then is in the last checkpoint
 */
export async function train(
  setup: TrainingSetup,
  session: TrainingSession,
  hooks: TrainerHooks,
  resume: { readonly folder: string; readonly state: TrainerState } | null,
): Promise<RunOutcome> {
  const { config, batch, problems } = setup;
  const { ranks } = setup.team;
  const { functions = noFunctions } = hooks;
  const { policy, reference, rollout, critic } = session;
  const movingReference = config.syncRefModel ? reference : null;
  const models: TrainedModels = { policy, critic, movingReference, assets: setup.assets };
  const { numRows } = problems.dataset;
  const steps = totalSteps(setup);
  const learner = createLearner({
    policy,
    critic: critic && { critic, value: config, learningRate: config.criticLearningRate ?? config.learningRate },
    reference: movingReference && {
      ...{ model: movingReference, everySteps: config.refModelSyncSteps, alpha: config.refModelMixupAlpha },
    },
    ...{ config, ownLoss: functions.loss, totalSteps: steps, start: resume?.state },
  });
  let { position, skippedRows, numTokens } = resume?.state ?? { position: 0, skippedRows: 0, numTokens: 0 };
  const stepWarnings = createStepWarnings(
    functions.estimator ? ownEntry(functions.estimator) : ESTIMATORS[config.advantageEstimator],
  );
  const report = createReport(setup, session, stepWarnings);

  // The run's progress. It is saved after a generation is learned from, so a checkpoint is never within one.
  const state = (best: BestState | null): TrainerState => ({
    ...{ step: learner.step, totalSteps: steps, position, skippedRows, numTokens },
    ...(config.useAdaptiveEntropy ? { entropyControl: learner.entropyControl } : {}),
    ...(best ? { best } : {}),
    numerics: setup.device.numericsKey,
    config: { ...recordOf(config, functions) },
  });
  const told = (isEvaluation: boolean) => rewardTrainerState(state(null), numRows, isEvaluation);

  const oneGeneration = async (turn: Turn): Promise<boolean> => {
    const { firstStep } = turn;

    // 1. Prompts, rollout, rewards
    const generation = await sampleGeneration(
      {
        ...{ setup, ranks, rollout, rewards: hooks.rewards, trainerState: told(false) },
        onPhase(phase) {
          turn.phase(phase);
          if (phase === "reward") turn.progress("rewards", 0);
        },
        onProgress: (done, total) => turn.progress("rollout", done, total),
      },
      firstStep,
      position,
    );
    if (!generation) return false;
    const { perFunction, total, warnings } = generation.rewards;
    for (const warning of [...warnings, ...samplingWarnings(config, generation)]) turn.note(`note: ${warning}`);

    // 2. Logprobs under the reference and under the policy that sampled, values of the critic
    turn.phase("reference");
    const { seed, lossType, perDeviceTrainBatchSize } = config;
    const cut = cutGeneration({
      ...{ completions: generation.samples.length, perStep: batch.stepCompletions, seed, step: firstStep },
      blockSize: lossType === "bnpo" ? perDeviceTrainBatchSize : null,
    });
    const needsOld = config.numIterations > 1 || cut.length > 1 || config.useKlInReward;
    const measured = await measure(session, generation.samples, config, needsOld, turn.progress, ranks);

    // 3. Advantages
    const revised = hooks.reviseRewards?.(total, config.numGenerations);
    const rewards = rewardInput(perFunction, config.rewardWeights, revised);
    const { samples, estimate } = weigh(measured.samples, rewards, {
      ...config,
      ownEstimator: functions.estimator,
    });
    if (firstStep === 1) for (const warning of estimate.warnings) turn.note(`note: ${warning}`);

    // 4. Updates of the policy and the critic
    turn.phase("update");
    const learned = await learner.learn(samples, cut, { onTokens: (tokens) => turn.progress("update", tokens) });
    position = generation.position;
    skippedRows += generation.skippedRows;
    numTokens += generation.sequenceTokens;

    // 5. Report
    // Of all ranks; only the reports of speed need them.
    const counts = await ranks.gather("tokens", [learned.tokens, measured.referenceTokens] as const);
    const sumOf = (which: 0 | 1) => counts.reduce((sum, count) => sum + count[which], 0);
    const [updateTokens, referenceTokens] = [sumOf(0), sumOf(1)];
    const reached = { position, skippedRows, numTokens };
    await report(turn, { generation, samples, estimate, cut, learned, updateTokens, referenceTokens, reached });
    return true;
  };

  return keepRun(
    {
      ...{ models, config, state, resume, steps, stepsPerTurn: batch.stepsPerGeneration },
      settings: recordOf(config, functions),
      ...{ console: hooks.console, ranks, byDefault: "eval_reward" },
      evaluate:
        hooks.evaluate &&
        (async () => {
          const evaluation = await hooks.evaluate!(told(true));
          stepWarnings.evaluated(evaluation.values);
          return evaluation;
        }),
      ...{ onSaved: hooks.onSaved, sinks: hooks.sinks },
    },
    oneGeneration,
  );
}
