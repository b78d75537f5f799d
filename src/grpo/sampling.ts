/**
 * Prompts → completions → rewards: one generation. Plainly, all prompts are drawn, sampled and scored, in this order; with
 * dynamic sampling (dynamic-sampling.ts) each group is scored as soon as it is complete, and replaced where it has no
 * signal. Nothing here learns.
 */
import type { TrainConfig } from "../config/schema.ts";
import { createSampler } from "../data/order.ts";
import { unlessStopped } from "../device/stopping.ts";
import { InputError } from "../errors.ts";
import { joinResults, type RewardResult, type RewardTrainerState } from "../rewards/pool/pool.ts";
import type { RolloutEngine } from "../rollout/engine.ts";
import type { RolloutSettings } from "../rollout/sequence.ts";
import type { Problem } from "../run/prompts.ts";
import { sampleWithSignal } from "./dynamic-sampling.ts";
import type { Group } from "./generation.ts";
import { type RewardSources, startScores } from "./model-rewards.ts";
import type { TrainingSetup } from "./setup.ts";

/** What was sampled and what it is worth; `texts` and `rewards` are by completion, in the order of the groups. */
export interface Generation {
  readonly groups: readonly Group[];
  readonly texts: readonly string[];
  readonly rewards: RewardResult;
  /** Rows drawn so far, in all epochs, up to the last one used: where the next generation goes on. */
  readonly position: number;
  /** Rows passed over because their prompt is too long for the context. */
  readonly skippedRows: number;
  /** Tokens of prompts and of completions, of discarded groups too. */
  readonly promptTokens: number;
  readonly sampledTokens: number;
  /** Tokens of all sequences, a prompt counted with each of its completions: what TRL's `num_tokens` adds up. */
  readonly sequenceTokens: number;
  /** Dynamic sampling: groups thrown away for want of signal, and kept without it as nothing better was found. */
  readonly discardedGroups: number;
  readonly groupsWithoutSignal: number;
}

export interface SamplingRun {
  readonly setup: TrainingSetup;
  readonly rollout: RolloutEngine;
  readonly rewards: RewardSources;
  /** What reward functions are told of training. */
  readonly trainerState: RewardTrainerState;
  readonly shouldStop: () => boolean;
  readonly onPhase: (phase: "rollout" | "reward") => void;
  readonly onProgress: (done: number, total: number) => void;
}

/** How long a run that is to stop waits for rewards under way before it drops their generation. */
const REWARD_GRACE_MS = 1500;

/** The next prompts in the seeded order; rows whose prompt leaves no room for a completion are passed over and counted. */
function promptDrawer({ problems, config, longestPrompt }: TrainingSetup, from: number) {
  const { numRows, path } = problems.dataset;
  const sampler = createSampler({ numRows, seed: config.seed, shuffle: config.shuffleDataset, position: from });
  let skipped = 0;
  return {
    /** @throws InputError where no row fits */
    next(): { readonly problem: Problem; readonly position: number; readonly skipped: number } {
      for (let tries = 0; tries <= numRows; tries++) {
        const problem = problems.problem(sampler.next().row);
        if (problem.promptIds.length <= longestPrompt) return { problem, position: sampler.position, skipped };
        skipped++;
      }
      throw new InputError(`${path}: every prompt is longer than ${longestPrompt} tokens; lower max_completion_length`);
    },
  };
}

/** The texts of whole groups, and their rewards under way. */
async function startScoring({ setup, rewards, trainerState }: SamplingRun, groups: readonly Group[]) {
  const completions = groups.flatMap((group) => group.completions);
  const texts = completions.map((c) => setup.tokenizer.decode([...c.completionIds], { skipSpecialTokens: true }));
  return { texts, ...(await startScores(rewards, trainerState, setup.tokenizer, groups, texts)) };
}

/**
 * Whether a group's rewards differ: those of the function that `dynamic_sampling_reward` names, else what advantages are
 * made of, the weighted sum or each function by itself.
 */
function hasSignal({ config }: TrainingSetup, { total, perFunction }: RewardResult): boolean {
  const { dynamicSamplingReward: name, multiObjectiveAggregation, rewardWeights } = config;
  const weighed = perFunction.filter((_, f) => rewardWeights?.[f] !== 0).map(({ rewards }) => rewards);
  const compared =
    name === null
      ? multiObjectiveAggregation === "normalize_then_sum"
        ? weighed
        : [total]
      : [perFunction.find((f) => f.name === name)!.rewards];
  return compared.some((values) => {
    const scored = values.filter((value) => value !== null);
    return scored.some((value) => value !== scored[0]);
  });
}

const lengthSum = (items: readonly { readonly length: number }[]) => items.reduce((sum, { length }) => sum + length, 0);

const completionTokens = (groups: readonly Group[]) =>
  lengthSum(groups.flatMap((g) => g.completions.map((c) => c.completionIds)));

/** Of each prompt, once for each of its completions. */
const repeatedPromptTokens = (groups: readonly Group[]) =>
  groups.reduce((sum, { problem, completions }) => sum + problem.promptIds.length * completions.length, 0);

/**
 * One generation, scored.
 *
 * @param step of the first update that learns from it: part of the random numbers' key
 * @param from rows drawn so far
 * @returns null where the user stopped it
 */
export function sampleGeneration(run: SamplingRun, step: number, from: number): Promise<Generation | null> {
  const { config, tokenizer } = run.setup;
  const { seed, temperature, topK, topP, minP, repetitionPenalty, maxCompletionLength } = config;
  const settings: RolloutSettings = {
    ...{ seed, stream: 0, step, temperature, topK, topP, minP, repetitionPenalty, maxCompletionLength },
    ...{ isStop: tokenizer.isStop, stopStrings: tokenizer.stopStrings(config.stop) },
  };
  return config.dynamicSampling ? sampleDynamically(run, settings, from) : samplePlainly(run, settings, from);
}

async function samplePlainly(run: SamplingRun, settings: RolloutSettings, from: number): Promise<Generation | null> {
  const { setup } = run;
  const drawer = promptDrawer(setup, from);
  const draws = Array.from({ length: setup.batch.generationPrompts }, () => drawer.next());
  const { position, skipped } = draws.at(-1)!;

  run.onPhase("rollout");
  const samples = setup.config.numGenerations;
  const sampled = await run.rollout.generate(
    draws.map(({ problem }, prompt) => ({ promptIds: problem.promptIds, samples, prompt })),
    settings,
    { onProgress: run.onProgress, shouldStop: run.shouldStop },
  );
  if (run.shouldStop()) return null;
  const groups = draws.map(({ problem }, i): Group => ({ problem, completions: sampled[i]! }));

  run.onPhase("reward");
  const { texts, rest } = await startScoring(run, groups);
  const rewards = await unlessStopped(rest, run.shouldStop, REWARD_GRACE_MS);
  if (rewards === null) return null;
  const sampledTokens = completionTokens(groups);
  return {
    ...{ groups, texts, rewards, position, skippedRows: skipped },
    promptTokens: lengthSum(groups.map((g) => g.problem.promptIds)),
    ...{ sampledTokens, sequenceTokens: sampledTokens + repeatedPromptTokens(groups) },
    ...{ discardedGroups: 0, groupsWithoutSignal: 0 },
  };
}

async function sampleDynamically(
  run: SamplingRun,
  settings: RolloutSettings,
  from: number,
): Promise<Generation | null> {
  const { setup } = run;
  const { config } = setup;
  const drawer = promptDrawer(setup, from);
  const draws: ReturnType<typeof drawer.next>[] = [];
  const wanted = setup.batch.generationPrompts;
  run.onPhase("rollout");
  const outcome = await sampleWithSignal(run.rollout.start(settings), {
    wanted,
    most: wanted * config.dynamicSamplingMaxBatches,
    ahead: config.dynamicSamplingAhead,
    samples: config.numGenerations,
    probe: config.dynamicSamplingProbe,
    draw: () => {
      const draw = drawer.next();
      draws.push(draw);
      return { drawn: draw.problem, promptIds: draw.problem.promptIds };
    },
    score: async (problem, completions) => {
      const { texts, rest } = await startScoring(run, [{ problem, completions }]);
      return { rest: rest.then((result) => ({ texts, result })) };
    },
    hasSignal: ({ result }) => hasSignal(setup, result),
    ...{ onProgress: run.onProgress, shouldStop: run.shouldStop, graceMs: REWARD_GRACE_MS },
  });
  if (outcome === null) return null;
  const { accepted, discarded, discardedTokens, discardedPromptTokens, drawn, withoutSignal } = outcome;
  const { position, skipped } = draws[drawn - 1]!;
  const groups = accepted.map(({ drawn: problem, completions }): Group => ({ problem, completions }));
  const sampledTokens = discardedTokens + completionTokens(groups);
  return {
    groups,
    texts: accepted.flatMap(({ score }) => score.texts),
    rewards: joinResults(accepted.map(({ score }) => score.result)),
    ...{ position, skippedRows: skipped },
    promptTokens: lengthSum(draws.slice(0, drawn).map(({ problem }) => problem.promptIds)),
    ...{ sampledTokens, sequenceTokens: sampledTokens + discardedPromptTokens + repeatedPromptTokens(groups) },
    ...{ discardedGroups: discarded, groupsWithoutSignal: withoutSignal },
  };
}

/** One line where dynamic sampling found too few groups with signal. */
export function samplingWarnings(
  config: TrainConfig,
  { groups, groupsWithoutSignal, discardedGroups }: Generation,
): string[] {
  if (groupsWithoutSignal === 0) return [];
  const sampled = groups.length + discardedGroups;
  return [
    `dynamic_sampling: only ${groups.length - groupsWithoutSignal} of ${sampled} groups have rewards that differ, and ` +
      `dynamic_sampling_max_batches ${config.dynamicSamplingMaxBatches} is reached; the step is filled with groups that ` +
      "teach nothing: the problems are too easy or too hard, or the reward says nothing",
  ];
}
