/**
 * GRPO (Shao et al. 2024): prompts → rollout → rewards → advantages → policy update → metrics, checkpoint.
 * One generation is sampled, scored and learned from, then the next; everything here is in that order. What a run is
 * made of is setup.ts; the update is policy-update.ts; evaluation is passed in.
 */

import { rmSync } from "node:fs";
import { z } from "zod";
import { configDifferences, toJson } from "../config/record.ts";
import { createSampler, type Sampler } from "../data/order.ts";
import { restoreOptimizer, saveCheckpoint, saveModel } from "../engine/checkpointing.ts";
import { anonymousBytes } from "../engine/memory.ts";
import type { Problem } from "../engine/prompts.ts";
import type { Session } from "../engine/session.ts";
import { InputError } from "../errors.ts";
import { removeCompletionsAfter, writeCompletions } from "../metrics/completions-file.ts";
import type { RunConsole } from "../metrics/console.ts";
import { createMetricsWriter, type MetricsRecord } from "../metrics/metrics-file.ts";
import { createStopwatch } from "../metrics/stopwatch.ts";
import { parameterCount } from "../model/parameters.ts";
import { learningRate } from "../optim/schedule.ts";
import type { RewardPool, RewardResult } from "../rewards/pool.ts";
import type { SampledCompletion } from "../rollout/sequence.ts";
import { computeAdvantages } from "./advantages.ts";
import type { LossConfig } from "./loss/config.ts";
import { type PolicyUpdateSettings, type ScoredGroup, scoreGroups, updateStep } from "./policy-update.ts";
import { formatRollout } from "./rollout-file.ts";
import type { TrainingSetup } from "./setup.ts";
import { completionMetrics, rewardMetrics, samplerDifference, speedMetrics } from "./step-metrics.ts";

/** What a checkpoint keeps beside weights and optimizer. */
export const trainerState = z.object({
  step: z.int().min(0),
  totalSteps: z.int().min(1),
  /** Rows drawn so far, over all epochs. */
  position: z.int().min(0),
  skippedRows: z.int().min(0),
  numTokens: z.number().min(0),
  /** Device and instruction path: the same bits come only from the same. */
  numerics: z.string(),
  config: z.record(z.string(), z.unknown()),
});
export type TrainerState = z.infer<typeof trainerState>;

export interface TrainerHooks {
  readonly console: RunConsole;
  readonly rewards: RewardPool;
  /** Accuracy on the held-out problems, as a metrics record without its step; null: no evaluation. */
  readonly evaluate: ((session: Session) => Promise<{ values: Record<string, number>; note: string }>) | null;
  /** Says that the user wants to stop. */
  readonly stopRequested: () => boolean;
  /** Rewards as they were scored → rewards to learn from; a test shuffles them here. */
  readonly reviseRewards?: (total: readonly (number | null)[], groupSize: number) => (number | null)[];
}

export interface TrainOutcome {
  readonly steps: number;
  /** Ended by the user; the checkpoint says where. */
  readonly stopped: boolean;
  readonly checkpoint: string | null;
}

/** A prompt with what was sampled for it. */
interface Group {
  readonly problem: Problem;
  readonly completions: readonly SampledCompletion[];
}

/** Steps of the whole run, by `max_steps` or by passes over the data. */
function totalSteps({ config, problems, batch }: TrainingSetup): number {
  if (config.maxSteps !== null) return config.maxSteps;
  const generations = Math.floor((problems.dataset.numRows * config.numTrainEpochs) / batch.generationPrompts);
  return Math.max(1, generations) * batch.stepsPerGeneration;
}

export function updateSettings(config: TrainingSetup["config"]): PolicyUpdateSettings {
  const loss: LossConfig = config;
  return {
    loss,
    optimizer: {
      beta1: config.adamBeta1,
      beta2: config.adamBeta2,
      epsilon: config.adamEpsilon,
      weightDecay: config.weightDecay,
      maxGradNorm: config.maxGradNorm,
    },
    temperature: config.temperature,
    microBatchTokens: config.microBatchTokens,
  };
}

/**
 * Runs training to its end or until the user stops it.
 *
 * @param resume folder and state of the checkpoint whose weights the session holds; null: from the start
 * @throws InputError, RunError: what was reached is in the last checkpoint
 */
export async function train(
  setup: TrainingSetup,
  session: Session,
  hooks: TrainerHooks,
  resume: { readonly folder: string; readonly state: TrainerState } | null,
): Promise<TrainOutcome> {
  const { config, batch, problems } = setup;
  const { outputDir } = config;
  const { device, activations, optimizer, rollout, policy, reference } = session;
  if (!activations || !optimizer || !rollout) throw new Error("the session was not planned for training");
  const updater = { model: policy, activations, optimizer };
  const settings = updateSettings(config);
  const steps = totalSteps(setup);
  const parameters = parameterCount(session.config);
  const schedule = {
    type: config.lrSchedulerType,
    base: config.learningRate,
    warmupSteps: config.warmupSteps || Math.ceil(config.warmupRatio * steps),
    totalSteps: steps,
  };

  let { step, skippedRows, numTokens } = resume?.state ?? { step: 0, skippedRows: 0, numTokens: 0 };
  if (resume) restoreOptimizer(session, resume.folder);
  const metrics = createMetricsWriter(outputDir, resume ? { resumeStep: step } : {});
  removeCompletionsAfter(outputDir, step);
  const { numRows } = problems.dataset;
  const { seed, shuffleDataset: shuffle } = config;
  const sampler = createSampler({ numRows, seed, shuffle, position: resume?.state.position ?? 0 });
  const stopwatch = createStopwatch();

  // Where the run stands: saved after a generation is learned from, so a checkpoint never lies within one.
  const state = (): TrainerState => ({
    step,
    totalSteps: steps,
    position: sampler.position,
    skippedRows,
    numTokens,
    numerics: device.numericsKey,
    config: toJson(config) as Record<string, unknown>,
  });
  let reached = state();
  let savedAt = resume ? step : -1;
  const saved: string[] = [];
  const save = async (): Promise<string> => {
    const path = await saveCheckpoint(session, outputDir, reached.step, reached);
    savedAt = reached.step;
    saved.push(path);
    while (config.saveTotalLimit !== null && saved.length > config.saveTotalLimit)
      rmSync(saved.shift()!, { recursive: true, force: true });
    hooks.console.note(`saved ${path}`);
    return path;
  };
  const evaluate = async (): Promise<void> => {
    if (!hooks.evaluate) return;
    stopwatch.start("evaluation");
    const { values, note } = await hooks.evaluate(session);
    stopwatch.stop();
    if (hooks.stopRequested()) return;
    const record = { step, ...values };
    metrics.write(record);
    hooks.console.evaluation(record, note);
  };

  try {
    if (!resume) await evaluate();
    let evaluatedAt = step;
    while (step < steps && !hooks.stopRequested()) {
      stopwatch.lap();
      const firstStep = step + 1;
      const progress = (phase: string, done?: number, total?: number) =>
        hooks.console.progress({
          step: firstStep,
          steps,
          phase,
          ...(done === undefined ? {} : { done }),
          ...(total === undefined ? {} : { total }),
        });

      // Prompts
      const drawn = drawProblems(setup, sampler);
      skippedRows += drawn.skipped;

      // Rollout
      stopwatch.start("rollout");
      const sampled = await rollout.generate(
        drawn.problems.map(({ promptIds }, prompt) => ({ promptIds, samples: config.numGenerations, prompt })),
        {
          seed,
          stream: 0,
          step: firstStep,
          temperature: config.temperature,
          topK: config.topK,
          topP: config.topP,
          minP: config.minP,
          repetitionPenalty: config.repetitionPenalty,
          maxCompletionLength: config.maxCompletionLength,
          isStop: setup.tokenizer.isStop,
        },
        {
          onProgress: (_, finished, total) => progress("rollout", finished, total),
          shouldStop: hooks.stopRequested,
        },
      );
      if (hooks.stopRequested()) break; // this generation is dropped: the checkpoint stands before it
      const groups = drawn.problems.map((problem, i): Group => ({ problem, completions: sampled[i]! }));
      const completions = groups.flatMap((group) => group.completions);

      // Rewards
      stopwatch.start("reward");
      progress("rewards");
      const texts = completions.map((c) => setup.tokenizer.decode([...c.completionIds], { skipSpecialTokens: true }));
      const result = await hooks.rewards.score(rewardBatch(groups, texts));
      for (const warning of result.warnings) hooks.console.note(warning);

      // Advantages
      const revised = hooks.reviseRewards?.(result.total, config.numGenerations);
      const groupOf = groups.flatMap((group, i) => group.completions.map(() => i));
      const advantages = computeAdvantages({
        rewards: revised ?? result.perFunction.map((f) => f.rewards),
        ...(revised ? {} : { weights: config.rewardWeights ?? result.perFunction.map(() => 1) }),
        groups: groupOf,
        scaleRewards: config.scaleRewards,
        multiObjectiveAggregation: config.multiObjectiveAggregation,
      });

      // Reference logprobs
      stopwatch.start("reference");
      const packed = groups.map(({ problem, completions: members }) => ({
        promptIds: problem.promptIds,
        completions: members,
      }));
      let referenceTokens = 0;
      const counted = (tokens: number) => {
        referenceTokens += tokens;
        progress("reference", referenceTokens);
      };
      const referenceScores = reference ? await scoreGroups(reference, activations, packed, settings, counted) : null;

      // Policy update
      stopwatch.start("update");
      let at = 0;
      const scored = groups.map(
        ({ problem, completions: members }): ScoredGroup => ({
          promptIds: problem.promptIds,
          completions: members.map((c) => {
            const i = at++;
            return {
              completionIds: c.completionIds,
              finished: c.finished,
              advantage: advantages.advantages[i]!,
              oldLogprobs: c.logprobs,
              refLogprobs: referenceScores?.[i]?.logprobs ?? null,
              samplingLogprobs: c.samplingLogprobs,
            };
          }),
        }),
      );
      const groupsPerStep = batch.stepCompletions / config.numGenerations;
      const updates: Record<string, number>[] = [];
      let difference: Record<string, number> = {};
      let updateTokens = 0;
      for (let iteration = 0; iteration < config.numIterations; iteration++)
        for (let first = 0; first < scored.length && step < steps; first += groupsPerStep) {
          const slice = scored.slice(first, first + groupsPerStep);
          const lr = learningRate(schedule, step);
          const update = await updateStep(updater, slice, settings, lr, (tokens) => {
            updateTokens += tokens;
            progress("update", updateTokens);
          });
          step++;
          if (updates.length === 0) difference = samplerDifference(completions, update.logprobs);
          updates.push(update.metrics);
        }
      const promptTokens = groups.reduce((sum, { problem }) => sum + problem.promptIds.length, 0);
      const sampledTokens = completions.reduce((sum, c) => sum + c.completionIds.length, 0);
      numTokens += promptTokens + sampledTokens;

      // Metrics
      const times = stopwatch.lap();
      const peakFlops = device.peakFlops();
      const generation = {
        epoch: sampler.position / numRows,
        ...rewardMetrics(result, advantages),
        ...completionMetrics(completions),
        num_tokens: numTokens,
        ...times,
        ...speedMetrics({ sampledTokens, promptTokens, updateTokens, referenceTokens, times, parameters, peakFlops }),
        memory_peak_bytes: anonymousBytes(),
        ...(skippedRows > 0 ? { skipped_rows: skippedRows } : {}),
      };
      for (const [i, update] of updates.entries()) {
        const record: MetricsRecord = { step: firstStep + i, ...update, ...generation, ...difference };
        metrics.write(record);
        if ((firstStep + i) % config.loggingSteps === 0 || firstStep + i === steps) hooks.console.step(record);
      }
      if (config.saveCompletions) await record(outputDir, firstStep, groups, texts, result);
      if (config.logCompletions && (firstStep === 1 || firstStep % config.logCompletionsSteps === 0))
        showSamples(hooks.console, firstStep, config.numCompletionsToPrint, groups, texts, result);
      reached = state();

      // Checkpoint, evaluation
      if (config.saveSteps > 0 && step - Math.max(savedAt, 0) >= config.saveSteps && step < steps) await save();
      if (config.evalSteps !== null && step - evaluatedAt >= config.evalSteps && step < steps) {
        await evaluate();
        evaluatedAt = step;
      }
    }
    if (hooks.stopRequested()) {
      const checkpoint = savedAt === reached.step && saved.length > 0 ? saved.at(-1)! : await save();
      return { steps: reached.step, stopped: true, checkpoint };
    }
    await evaluate();
    await saveModel(session, outputDir);
    hooks.console.note(`saved the model in ${outputDir}`);
    return { steps: step, stopped: false, checkpoint: saved.at(-1) ?? null };
  } finally {
    metrics.close();
    hooks.console.close();
  }
}

/** The next prompts in the seeded order; rows whose prompt leaves no room for a completion are skipped. */
function drawProblems({ problems, batch, longestPrompt }: TrainingSetup, sampler: Sampler) {
  const drawn: Problem[] = [];
  let skipped = 0;
  while (drawn.length < batch.generationPrompts) {
    const problem = problems.problem(sampler.next().row);
    if (problem.promptIds.length <= longestPrompt) drawn.push(problem);
    else if (++skipped > problems.dataset.numRows)
      throw new InputError(
        `${problems.dataset.path}: every prompt is longer than ${longestPrompt} tokens; lower max_completion_length`,
      );
  }
  return { problems: drawn, skipped };
}

function rewardBatch(groups: readonly Group[], texts: readonly string[]) {
  const rows = groups.flatMap(({ problem, completions }) => completions.map(() => problem.example));
  const names = Object.keys(rows[0]?.columns ?? {});
  return {
    prompts: rows.map((example) => example.prompt),
    completions: texts,
    completionIds: groups.flatMap((group) => group.completions.map((c) => [...c.completionIds])),
    golds: rows.map((example) => example.gold),
    columns: Object.fromEntries(names.map((name) => [name, rows.map((example) => example.columns[name])])),
  };
}

/** `completions/step-N.jsonl`: the generation's rollouts, ready for `grpo update`. */
async function record(
  outputDir: string,
  step: number,
  groups: readonly Group[],
  texts: readonly string[],
  result: RewardResult,
): Promise<void> {
  let at = 0;
  const lines = groups.flatMap(({ problem, completions }, group) =>
    completions.map((completion) => {
      const i = at++;
      const { completionIds, finished } = completion;
      return formatRollout(
        { group, promptIds: problem.promptIds, promptText: promptText(problem) },
        {
          completionIds,
          finished,
          reward: result.total[i] ?? null,
          oldLogprobs: Float64Array.from(completion.logprobs),
          samplingLogprobs: Float64Array.from(completion.samplingLogprobs),
          text: texts[i]!,
        },
      );
    }),
  );
  await writeCompletions(outputDir, step, lines);
}

/** A prompt as a reader wants it: the text, or the last message. */
function promptText({ example }: Problem): string {
  return typeof example.prompt === "string" ? example.prompt : (example.prompt.at(-1)?.content ?? "");
}

function showSamples(
  console: RunConsole,
  step: number,
  count: number,
  groups: readonly Group[],
  texts: readonly string[],
  result: RewardResult,
): void {
  const samples = groups.flatMap(({ problem, completions }) =>
    completions.map((completion) => ({ prompt: promptText(problem), completion })),
  );
  const stride = Math.max(1, Math.floor(samples.length / count));
  console.completions(
    step,
    samples
      .map(({ prompt, completion }, i) => ({
        prompt,
        completion: texts[i]!,
        reward: result.total[i] ?? null,
        tokens: completion.completionIds.length,
        finished: completion.finished,
      }))
      .filter((_, i) => i % stride === 0)
      .slice(0, count),
  );
}

/** What changed between a checkpoint's settings and the run's that makes the two runs differ; one remark each. */
export function resumeRemarks(state: TrainerState, config: TrainingSetup["config"], numerics: string): string[] {
  const remarks = configDifferences(state.config, toJson(config) as Record<string, unknown>).map(
    ({ key, before, now }) => `${key} was ${JSON.stringify(before)} and is now ${JSON.stringify(now)}`,
  );
  if (state.numerics !== numerics)
    remarks.push(`the checkpoint was written on ${state.numerics}, this is ${numerics}: the bits will differ`);
  return remarks;
}
