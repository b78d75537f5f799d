/**
 * A neural reward model: its plan in a session, and its scores of texts: prompt and completion → the model's own
 * template and tokenizer → one number at the last token. Like TRL (grpo_trainer.py, `_calculate_rewards`), but without
 * padding or truncation.
 */
import { readModelConfig } from "../checkpoint/huggingface.ts";
import { RunError } from "../errors.ts";
import type { Message } from "../message.ts";
import { planForward } from "../model/activations.ts";
import { type ScalarActivations, scalarHead, scoreSequences } from "../model/scalar-head.ts";
import type { ComputeDType } from "../tensor/dtype.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { loadModelTokenizer } from "./model-tokenizer.ts";
import { computeDType, planModel, planPass } from "./planned-model.ts";
import type { ScoringModel } from "./policy.ts";
import type { SessionPlan, Tenant } from "./tenant.ts";

export interface RewardModelRequest {
  readonly folder: string;
  /** Tokens of the longest sequence to score; limited by the model's context. */
  readonly longest: number;
  /** Tokens scored at once. */
  readonly microBatchTokens: number;
  /** Sequences in the largest call, if known: a few short ones do not need the whole budget. */
  readonly sequences?: number;
}

export interface RewardModel extends ScoringModel<ScalarActivations> {
  readonly folder: string;
  /** Longest sequence it can score, in tokens. */
  readonly longest: number;
  readonly microBatchTokens: number;
}

export interface RewardModelOptions {
  /** null: each model's own. */
  readonly dtype: ComputeDType | null;
  /** Scoring runs during sampling (dynamic sampling), so the two must not share memory. */
  readonly duringRollout: boolean;
}

/**
 * Plans reward models, in order.
 *
 * @throws InputError for a folder that is not a sequence classification model with one label
 */
export function planRewardModels(
  plan: SessionPlan,
  requests: readonly RewardModelRequest[],
  options: RewardModelOptions,
): Tenant<RewardModel>[] {
  return requests.map((request, i) =>
    planRewardModel(plan, i === 0 ? "reward model" : `reward model ${i + 1}`, request, options),
  );
}

function planRewardModel(
  plan: SessionPlan,
  name: string,
  request: RewardModelRequest,
  { dtype: asked, duringRollout }: RewardModelOptions,
): Tenant<RewardModel> {
  const { folder, sequences = Infinity } = request;
  const from = plan.folder(folder, "score");
  const { config } = from;
  const longest = Math.min(request.longest, config.maxPositionEmbeddings);
  const dtype = computeDType(config, asked);
  const scorer = planModel(plan, from, { prefix: name, dtype, positions: longest });
  const tokens = Math.max(longest, Math.min(request.microBatchTokens, sequences * longest));
  const microBatchTokens = Math.min(request.microBatchTokens, tokens);
  const bindActivations = planForward(plan.memory.of(name), scalarHead, {
    ...{ device: plan.device, config, dtype, sizes: { tokens, longestPrompt: longest }, prefix: name },
    lifetime: duringRollout ? ["rollout", "scoring"] : ["scoring"],
  });
  planPass(plan, scorer, { tokens, headRows: tokens, sequences: 1 });
  return {
    async open(place) {
      const model = await place.open(scorer);
      return { folder, model, activations: bindActivations(place.tensors), longest, microBatchTokens };
    },
  };
}

export interface TextToScore {
  readonly prompt: string | readonly Message[];
  /** The completion's text, without special tokens. */
  readonly completion: string;
}

export interface ModelRewards {
  /** One per text; null: longer than the model's context or the plan, and so not scored. (N) */
  readonly rewards: (number | null)[];
  readonly tooLong: number;
}

export interface RewardModelScorer {
  /** The ids that the model scores. */
  encode(text: TextToScore): Int32Array; // (T)
  /**
   * Scores texts, packed into batches. Calls are served one after the other.
   *
   * @throws InputError if the template rejects the messages, RunError for a score that is not finite
   */
  score(texts: readonly TextToScore[], onTokens?: (tokens: number) => void): Promise<ModelRewards>;
}

/**
 * Tokens to plan for the longest text under the reward model's template and tokenizer, if it takes `positions` under
 * the policy's: twice as many plus a template's, limited by the model's context.
 *
 * @throws InputError for a folder that is not a sequence classification model with one label
 */
export function rewardSequenceLimit(folder: string, positions: number): number {
  return Math.min(readModelConfig(folder, "score").maxPositionEmbeddings, 2 * positions + 256);
}

/**
 * @param options.systemPrompt prepended to prompts that have no system message
 * @throws InputError if the model's tokenizer is missing or damaged
 */
export function createRewardModelScorer(
  rewardModel: RewardModel,
  options: { readonly systemPrompt?: string | undefined } = {},
): RewardModelScorer {
  const { model, activations, folder, longest, microBatchTokens } = rewardModel;
  const tokenizer = loadModelTokenizer(folder);
  const encode = (text: TextToScore) => Int32Array.from(encodeText(tokenizer, text, options.systemPrompt));
  // Two calls at once would compute in the same buffers.
  let last: Promise<unknown> = Promise.resolve();

  const score = async (texts: readonly TextToScore[], onTokens?: (tokens: number) => void): Promise<ModelRewards> => {
    const encoded = texts.map(encode);
    const fitting = encoded.flatMap(({ length }, i) => (length > 0 && length <= longest ? [i] : []));
    const sequences = fitting.map((i) => encoded[i]!);
    const scores = await scoreSequences(model, activations, sequences, { microBatchTokens }, onTokens);
    const rewards: (number | null)[] = texts.map(() => null);
    for (const [at, i] of fitting.entries()) {
      if (!Number.isFinite(scores[at]))
        throw new RunError(
          `${folder}: the reward model gives ${scores[at]} for text ${i} of ${texts.length}; its weights are damaged, or bfloat16 is too narrow for them: try dtype float32`,
        );
      rewards[i] = scores[at]!;
    }
    return { rewards, tooLong: encoded.filter(({ length }) => length > longest).length };
  };
  return {
    encode,
    score(texts, onTokens) {
      const result = last.then(() => score(texts, onTokens));
      last = result.catch(() => {}); // the caller gets the error
      return result;
    },
  };
}

function encodeText(tokenizer: Tokenizer, { prompt, completion }: TextToScore, systemPrompt?: string): number[] {
  if (typeof prompt === "string") {
    const before = systemPrompt ? `${systemPrompt}\n\n${prompt}` : prompt;
    return tokenizer.encode(before + completion, { specialTokens: false });
  }
  const isOwn = prompt.some(({ role }) => role === "system");
  const messages = systemPrompt && !isOwn ? [{ role: "system", content: systemPrompt }, ...prompt] : prompt;
  if (!tokenizer.hasChatTemplate) {
    const before = messages.map(({ content }) => content).join("\n\n");
    return tokenizer.encode(before + completion, { specialTokens: false });
  }
  // A prompt that ends within the assistant's turn is continued by the completion.
  const begun = messages.at(-1)?.role === "assistant" ? messages.at(-1)! : null;
  const answer = { role: "assistant", content: (begun?.content ?? "") + completion };
  const chat = [...(begun ? messages.slice(0, -1) : messages), answer];
  return tokenizer.encode(tokenizer.renderChat(chat, { addGenerationPrompt: false }), { specialTokens: false });
}
