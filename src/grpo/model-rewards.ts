/** Rewards from neural reward models, under their names in the reward pool. */

import type { RewardBatch, RewardPool, RewardResult, RewardTrainerState } from "../rewards/pool/pool.ts";
import type { Answer } from "../run/prompts.ts";
import { createRewardModelScorer, type RewardModel } from "../session/reward-model.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { rewardBatch } from "./generation.ts";

/** Where rewards come from. Neural ones compute on the session's device, so nothing else may use it meanwhile. */
export interface RewardSources {
  readonly pool: RewardPool;
  /** Rewards by reward model name; null without reward models. */
  readonly models: ((batch: RewardBatch) => Promise<ReadonlyMap<string, readonly (number | null)[]>>) | null;
}

/**
 * A run's reward sources: the pool and, before it, reward models, which compute on the device.
 *
 * @throws InputError if a reward model's tokenizer is missing or damaged
 */
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
