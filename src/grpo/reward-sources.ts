/**
 * A run's reward sources: the pool's functions, and neural reward models, which compute on the session's device.
 * Converts answers to their inputs and collects the rewards.
 */
import type { RewardBatch, RewardPool, RewardResult, RewardTrainerState } from "../rewards/pool/pool.ts";
import type { Answer } from "../run/prompts.ts";
import { createRewardModelScorer, type RewardModel } from "../session/reward-model.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";

/** While the models score, nothing else may compute on the device. */
export interface RewardSources {
  readonly pool: RewardPool;
  /** Rewards by reward model name; null without reward models. */
  readonly models: ((batch: RewardBatch) => Promise<ReadonlyMap<string, readonly (number | null)[]>>) | null;
}

/** @throws InputError if a reward model's tokenizer is missing or damaged */
export function rewardSources(
  rewardModels: readonly RewardModel[],
  pool: RewardPool,
  systemPrompt: string | null,
): RewardSources {
  const names = pool.members.flatMap(({ name, spec }) => (typeof spec === "object" && "model" in spec ? [name] : []));
  if (names.length !== rewardModels.length) throw new Error("the planned reward models differ from the pool's");
  if (names.length === 0) return { pool, models: null };
  const scorers = rewardModels.map((model) =>
    createRewardModelScorer(model, { systemPrompt: systemPrompt ?? undefined }),
  );
  return {
    pool,
    async models({ prompts, completions }) {
      const texts = prompts.map((prompt, i) => ({
        prompt,
        completion: completions[i]!,
      }));
      const rewards = new Map<string, readonly (number | null)[]>();
      for (const [i, scorer] of scorers.entries()) rewards.set(names[i]!, (await scorer.score(texts)).rewards);
      return rewards;
    },
  };
}

/** Tokens of a prompt's end that reward functions receive: enough for the opening of the assistant's turn. */
const PROMPT_END_TOKENS = 32;

/** The reward functions' inputs: one value per answer, the dataset's columns included. */
function rewardBatch(
  answers: readonly Answer[],
  decode: (ids: readonly number[]) => string,
): Omit<RewardBatch, "trainerState"> {
  const rows = answers.map(({ problem }) => problem.example);
  // The files of one dataset may have different columns.
  const names = [...new Set(rows.flatMap((example) => Object.keys(example.columns)))];
  const problems = new Set(answers.map(({ problem }) => problem));
  const ends = new Map([...problems].map((one) => [one, decode([...one.promptIds.slice(-PROMPT_END_TOKENS)])]));
  return {
    prompts: rows.map((example) => example.prompt),
    completions: answers.map(({ text }) => text),
    completionIds: answers.map(({ completionIds }) => [...completionIds]),
    promptEnds: answers.map(({ problem }) => ends.get(problem)!),
    golds: rows.map((example) => example.gold),
    columns: Object.fromEntries(names.map((name) => [name, rows.map((example) => example.columns[name] ?? null)])),
    rows: answers.map(({ problem }) => problem.row),
    groups: answers.map(({ group }) => group),
  };
}

/** Rewards of whole groups from functions and models. Device work is done when the outer promise resolves. */
export async function startScores(
  { pool, models }: RewardSources,
  trainerState: RewardTrainerState,
  { decode }: Pick<Tokenizer, "decode">,
  answers: readonly Answer[],
): Promise<{ readonly rest: Promise<RewardResult> }> {
  const batch = { ...rewardBatch(answers, (ids) => decode(ids)), trainerState };
  const external = (await models?.(batch)) ?? undefined;
  return { rest: pool.score(batch, external) };
}

/** Scores whole groups, as training does. */
export const scoreAnswers =
  (sources: RewardSources, trainerState: RewardTrainerState, tokenizer: Pick<Tokenizer, "decode">) =>
  async (answers: readonly Answer[]): Promise<RewardResult> =>
    (await startScores(sources, trainerState, tokenizer, answers)).rest;
