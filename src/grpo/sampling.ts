/**
 * Prompts → completions → rewards: one generation. Normally all prompts are drawn, sampled and scored, in this order;
 * with dynamic sampling (dynamic-sampling.ts) each group is scored as soon as it is complete, and replaced if it has no
 * signal.
 */
import type { TrainConfig } from "../config/schema.ts";
import { createSampler } from "../data/order.ts";
import { unlessStopped } from "../device/stopping.ts";
import { InputError } from "../errors.ts";
import { type Ranks, shareOf } from "../ranks/ranks.ts";
import { joinResults, loggedColumns, type RewardResult, type RewardTrainerState } from "../rewards/pool/pool.ts";
import type { RolloutEngine } from "../rollout/engine.ts";
import type { RolloutSettings, SampledCompletion } from "../rollout/sequence.ts";
import type { Problem } from "../run/prompts.ts";
import { sampleInRounds } from "./dynamic-rounds.ts";
import { type DynamicSamplingOptions, sampleWithSignal } from "./dynamic-sampling.ts";
import type { Generation } from "./generation.ts";
import { type RewardSources, startScores } from "./reward-sources.ts";
import { type Sampled, type Scored, sampledTokens } from "./sample.ts";
import type { TrainingSetup } from "./setup.ts";

export interface SamplingRun {
  readonly setup: TrainingSetup;
  readonly ranks: Ranks;
  readonly rollout: RolloutEngine;
  readonly rewards: RewardSources;
  /** Training progress, for reward functions. */
  readonly trainerState: RewardTrainerState;
  readonly onPhase: (phase: "rollout" | "reward") => void;
  readonly onProgress: (done: number, total: number) => void;
}

/** Stream of random numbers; evaluation uses another. */
const TRAINING_STREAM = 0;

/** How long a stopping run waits for pending rewards before it drops their generation. */
const REWARD_GRACE_MS = 1500;

/** The next prompts in the seeded order; rows whose prompt leaves no room for a completion are skipped and counted. */
function promptDrawer({ problems, config, longestPrompt }: TrainingSetup, from: number) {
  const { numRows, path } = problems.dataset;
  const sampler = createSampler({ numRows, seed: config.seed, shuffle: config.shuffleDataset, position: from });
  let skipped = 0;
  return {
    /** @throws InputError if no row fits */
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

/** The completions of a problem as samples. */
function samplesOf(
  { tokenizer }: TrainingSetup,
  problem: Problem,
  group: number,
  completions: readonly SampledCompletion[],
): Sampled[] {
  return completions.map((completion) => ({
    ...{ group, problem, promptIds: problem.promptIds, ...completion },
    text: tokenizer.decode([...completion.completionIds], { skipSpecialTokens: true }),
  }));
}

/** A group of a draw with its rewards. */
interface DrawScore {
  readonly samples: readonly Sampled[];
  readonly result: RewardResult;
}

/** Each sample with its rewards. */
function withRewards(samples: readonly Sampled[], result: RewardResult): Scored[] {
  const { perFunction, total } = result;
  const columns = loggedColumns(result);
  return samples.map((sample, i) => ({
    ...sample,
    reward: total[i] ?? null,
    rewards: Object.fromEntries(perFunction.map(({ name, rewards }) => [name, rewards[i] ?? null])),
    ...(columns && { extra: columns[i]! }),
  }));
}

/**
 * Whether a group's rewards differ: those of the function that `dynamic_sampling_reward` names or, by default, the
 * input of the advantages: the weighted sum, or each function separately.
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

const sumOf = <T>(items: readonly T[], value: (item: T) => number) => items.reduce((sum, item) => sum + value(item), 0);

const promptLength = ({ promptIds }: { readonly promptIds: Int32Array }) => promptIds.length;

/** Tokens of a completion that the policy did not sample. */
const forcedTokens = (sample: Sampled) => sample.completionIds.length - sampledTokens(sample);

/**
 * One generation, scored.
 *
 * @param step the first update that learns from it: part of the random numbers' key
 * @param from rows drawn so far
 * @returns null if the user stopped it
 */
export function sampleGeneration(run: SamplingRun, step: number, from: number): Promise<Generation | null> {
  const { config, tokenizer } = run.setup;
  const { seed, temperature, topK, topP, minP, repetitionPenalty, maxCompletionLength } = config;
  const settings: RolloutSettings = {
    ...{ seed, stream: TRAINING_STREAM, step, temperature, topK, topP, minP, repetitionPenalty, maxCompletionLength },
    ...{ isStop: tokenizer.isStop, stopStrings: tokenizer.stopStrings(config.stop) },
    recordsRoutes: config.routerReplay,
  };
  return config.dynamicSampling ? sampleDynamically(run, settings, from) : samplePlainly(run, settings, from);
}

async function samplePlainly(run: SamplingRun, settings: RolloutSettings, from: number): Promise<Generation | null> {
  const { setup, ranks } = run;
  const drawer = promptDrawer(setup, from);
  const draws = Array.from({ length: setup.batch.generationPrompts }, () => drawer.next());
  const { position, skipped } = draws.at(-1)!;
  const problems = draws.map(({ problem }) => problem);
  const parts = await ranks.gather("a generation", await sampleShare(run, settings, problems));
  if (parts.includes(null)) return null;
  const completions = parts.flatMap((part) => part!.completions);
  const samples = problems.flatMap((problem, group) => samplesOf(setup, problem, group, completions[group]!));
  const rewards = joinScored(parts.map((part) => part!.rewards));
  const sampled = sumOf(samples, sampledTokens);
  return {
    ...{ samples: withRewards(samples, rewards), rewards, position, skippedRows: skipped },
    promptTokens: sumOf(draws, ({ problem }) => promptLength(problem)) + sumOf(samples, forcedTokens),
    ...{ sampledTokens: sampled, sequenceTokens: sampled + sumOf(samples, promptLength) },
    ...{ groups: draws.length, discardedGroups: 0, groupsWithoutSignal: 0 },
  };
}

/** The rank's share of the problems, sampled and scored; null: it was stopped. */
async function sampleShare(run: SamplingRun, settings: RolloutSettings, problems: readonly Problem[]) {
  const { setup, ranks } = run;
  const { from, to } = shareOf(problems.length, ranks.rank, ranks.size);
  const share = problems.slice(from, to);
  const perPrompt = setup.config.numGenerations;
  run.onPhase("rollout");
  const completions = await run.rollout.generate(
    share.map(({ promptIds }, i) => ({ promptIds, samples: perPrompt, prompt: from + i })),
    settings,
    { onProgress: run.onProgress, shouldStop: ranks.shouldHurry },
  );
  if (ranks.shouldHurry()) return null;

  run.onPhase("reward");
  const samples = share.flatMap((problem, i) => samplesOf(setup, problem, from + i, completions[i]!));
  const { rest } = await startScores(run.rewards, run.trainerState, setup.tokenizer, samples);
  const rewards = await unlessStopped(rest, ranks.shouldHurry, REWARD_GRACE_MS);
  return rewards && { completions, rewards };
}

/** The ranks' results as one; those of ranks without completions say nothing. */
function joinScored(results: readonly RewardResult[]): RewardResult {
  const scored = results.filter(({ total }) => total.length > 0);
  return scored.length === 1 ? scored[0]! : joinResults(scored);
}

async function sampleDynamically(
  run: SamplingRun,
  settings: RolloutSettings,
  from: number,
): Promise<Generation | null> {
  const { setup, ranks } = run;
  const { config } = setup;
  const drawer = promptDrawer(setup, from);
  const draws: ReturnType<typeof drawer.next>[] = [];
  const wanted = setup.batch.generationPrompts;
  run.onPhase("rollout");
  const options: DynamicSamplingOptions<Problem, DrawScore> = {
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
    score: async (problem: Problem, completions: readonly SampledCompletion[]) => {
      const samples = samplesOf(setup, problem, 0, completions);
      const { rest } = await startScores(run.rewards, run.trainerState, setup.tokenizer, samples);
      return { rest: rest.then((result) => ({ samples, result })) };
    },
    hasSignal: ({ result }) => hasSignal(setup, result),
    ...{ onProgress: run.onProgress, shouldStop: ranks.shouldHurry, graceMs: REWARD_GRACE_MS },
  };
  const start = () => run.rollout.start(settings);
  const rescored = (
    problem: Problem,
    completions: readonly SampledCompletion[],
    { result }: Pick<DrawScore, "result">,
  ) => ({
    samples: samplesOf(setup, problem, 0, completions),
    result,
  });
  const outcome =
    ranks.size === 1
      ? await sampleWithSignal(start(), options)
      : await sampleInRounds(start, options, ranks, { pack: ({ result }) => ({ result }), unpack: rescored });
  if (outcome === null) return null;
  const { accepted, discarded, discardedTokens, discardedPromptTokens, drawn, withoutSignal } = outcome;
  const { position, skipped } = draws[drawn - 1]!;
  const samples = accepted.flatMap(({ score }, group) => score.samples.map((sample) => ({ ...sample, group })));
  const rewards = joinResults(accepted.map(({ score }) => score.result));
  const sampled = discardedTokens + sumOf(samples, sampledTokens);
  return {
    ...{ samples: withRewards(samples, rewards), rewards, position, skippedRows: skipped },
    promptTokens: sumOf(draws.slice(0, drawn), ({ problem }) => promptLength(problem)) + sumOf(samples, forcedTokens),
    ...{ sampledTokens: sampled, sequenceTokens: sampled + discardedPromptTokens + sumOf(samples, promptLength) },
    ...{ groups: accepted.length, discardedGroups: discarded, groupsWithoutSignal: withoutSignal },
  };
}

/** A warning if dynamic sampling found too few groups with signal. */
export function samplingWarnings(
  config: TrainConfig,
  { groups, groupsWithoutSignal, discardedGroups }: Generation,
): string[] {
  if (groupsWithoutSignal === 0) return [];
  const sampled = groups + discardedGroups;
  return [
    `dynamic_sampling: only ${groups - groupsWithoutSignal} of ${sampled} groups have rewards that differ, and ` +
      `dynamic_sampling_max_batches ${config.dynamicSamplingMaxBatches} is reached; the step is filled with groups that ` +
      "teach nothing: the problems are too easy or too hard, or the reward is uninformative",
  ];
}
