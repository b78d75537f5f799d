/**
 * Dataset rows → prompt and answer tokens for supervised fine-tuning. The answer ends as the model's chat template ends
 * a reply, or with the end-of-sequence token, so that the model learns to stop.
 */

import { InputError } from "../errors.ts";
import type { Message } from "../message.ts";
import type { PackedGroup } from "../model/micro-batches.ts";
import type { ProblemSource } from "../run/prompts.ts";
import type { PromptOptions, Tokenizer } from "../tokenizer/tokenizer.ts";

export interface SftSettings extends PromptOptions {
  /** Prompt and answer together, in tokens. */
  readonly maxLength: number;
  /** False: the prompt's tokens are learned too. */
  readonly completionOnlyLoss: boolean;
}

/** Ids of the answer as the assistant's reply; null if the template's conversation does not start with its prompt. */
function replyIds(
  tokenizer: Tokenizer,
  messages: readonly Message[],
  answer: string,
  options: SftSettings,
): number[] | null {
  const kwargs = options.chatTemplateKwargs ?? {};
  const { systemPrompt } = options;
  const conversation: Message[] =
    systemPrompt && messages[0]?.role !== "system"
      ? [{ role: "system", content: systemPrompt }, ...messages]
      : [...messages];
  const prompt = tokenizer.renderChat(conversation, { addGenerationPrompt: true, kwargs });
  const reply: Message = { role: "assistant", content: answer };
  const whole = tokenizer.renderChat([...conversation, reply], { addGenerationPrompt: false, kwargs });
  if (!whole.startsWith(prompt)) return null;
  const ids = tokenizer.encode(whole.slice(prompt.length), { specialTokens: false });
  const end = ids.findIndex((id) => tokenizer.isStop(id));
  return end < 0 ? null : ids.slice(0, end + 1);
}

/**
 * One row as a group with one "completion", or null if it is longer than `maxLength`.
 *
 * @throws InputError if the row has no answer or the model no end-of-sequence token
 */
export function supervisedExample(
  source: ProblemSource,
  tokenizer: Tokenizer,
  row: number,
  settings: SftSettings,
): PackedGroup | null {
  const { promptIds, example } = source.problem(row);
  const { path } = source.dataset;
  if (example.answerText === null)
    throw new InputError(`${path}: row ${row} has no answer to learn; name the column with --answer_column`);
  const chat = typeof example.prompt === "string" || !tokenizer.hasChatTemplate ? null : example.prompt;
  const stop = tokenizer.stopTokenIds[0];
  if (stop === undefined)
    throw new InputError(
      `${path}: the model has no end-of-sequence token; name one as eos_token_id in generation_config.json`,
    );
  const answer = (chat && replyIds(tokenizer, chat, example.answerText, settings)) ?? [
    ...tokenizer.encode(example.answerText, { specialTokens: false }),
    stop,
  ];
  if (promptIds.length + answer.length > settings.maxLength) return null;
  if (settings.completionOnlyLoss) return { promptIds, completions: [{ completionIds: Int32Array.from(answer) }] };
  const learned = Int32Array.from([...promptIds.subarray(1), ...answer]);
  return { promptIds: promptIds.slice(0, 1), completions: [{ completionIds: learned }] };
}
