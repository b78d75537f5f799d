/** Completions of prompts, wired together from the settings: reading prompts, tokenizer, session, lines of JSON. */
import { z } from "zod";
import { resolveModel } from "../checkpoint/hub.ts";
import { readModelConfig } from "../checkpoint/huggingface.ts";
import { requireFreeFile } from "../checkpoint/output-folder.ts";
import type { GenerateConfig } from "../config/schema.ts";
import { errorText, InputError } from "../errors.ts";
import { writeOutput } from "../files/atomic.ts";
import { isThere, requireFile } from "../files/paths.ts";
import type { Message } from "../message.ts";
import type { RolloutEngine } from "../rollout/engine.ts";
import type { Ending, Sequence } from "../rollout/sequence.ts";
import { withDeviceSession } from "../run/device.ts";
import { rolloutLimits } from "../run/rollout-limits.ts";
import { loadModelTokenizer } from "../session/model-tokenizer.ts";
import { planPolicy, planSampling } from "../session/policy.ts";
import { readChatTemplate, type Tokenizer } from "../tokenizer/tokenizer.ts";
import { bundledModel } from "./bundled.ts";

/** A conversation, rendered by the chat template, or a text as it stands. */
export type Prompt = string | readonly Message[];

export interface GeneratedCompletion extends Ending {
  /** Without special tokens. */
  readonly text: string;
  /** With the end-of-sequence token, if the model has ended it. (R) */
  readonly completionIds: Int32Array;
  /** Of each token, in nats, at the sampling temperature (greedy: at 1), before penalty and truncation. (R) */
  readonly logprobs: Float32Array;
}

export interface Generated {
  readonly prompt: Prompt;
  readonly promptIds: Int32Array; // (P)
  /** `numGenerations` of them. */
  readonly completions: readonly GeneratedCompletion[];
}

export interface GenerateControl {
  readonly note: (text: string) => void;
  readonly stopRequested: () => boolean;
  readonly onBegin?: (() => void) | undefined;
  /** Each token as it is sampled. */
  readonly onToken?: ((token: TokenEvent) => void) | undefined;
}

/** A token of a completion as it is sampled. The texts of a completion's tokens, joined, are its text. */
export interface TokenEvent {
  /** Which prompt, and which of its completions, both from 0. */
  readonly prompt: number;
  readonly sample: number;
  /** null: no token, but the rest of a text that was cut within a character. */
  readonly id: number | null;
  /** Text that is final now: "" for a special token, or while a character is incomplete. */
  readonly text: string;
  /** In nats, as in the completion's `logprobs`; null without a token. */
  readonly logprob: number | null;
}

const message = z.looseObject({ role: z.string(), content: z.string() });
const promptType = z.union([z.string(), z.array(message).min(1)]);
const line = z.looseObject({ prompt: promptType });

export interface PlacedPrompt {
  readonly prompt: Prompt;
  /** Where it stands, for messages. */
  readonly place: string;
}

export interface EncodedPrompt extends PlacedPrompt {
  readonly ids: Int32Array; // (P)
}

/**
 * @param given prompts that stand in for the settings' `prompt` and `input`; null: those
 * @returns the completions of each prompt, in order; null: it was stopped
 */
export async function generateWith(
  config: GenerateConfig,
  given: readonly Prompt[] | null,
  control: GenerateControl,
): Promise<Generated[] | null> {
  const model = config.model ?? bundledModel();
  requireFreeFile(config.output, config.overwrite, { model, input: config.input });
  const folder = await resolveModel(model, { revision: config.modelRevision, note: control.note });
  const context = readModelConfig(folder).maxPositionEmbeddings;
  const tokenizer = loadModelTokenizer(folder, readChatTemplate(config.chatTemplate));
  const cure = `the model's context is ${context}; shorten it`;
  const prompts = encoded(await promptsOf(config, given, tokenizer), config, tokenizer, {
    folder,
    room: context,
    cure,
  });
  const longestPrompt = prompts.reduce((longest, { ids }) => Math.max(longest, ids.length), 0);
  const maxCompletionLength = Math.min(config.maxCompletionLength, context - longestPrompt);
  const limits = rolloutLimits({
    maxConcurrentSequences: config.maxConcurrentSequences,
    completions: prompts.length * config.numGenerations,
    samples: config.numGenerations,
    evaluates: false,
    longestPrompt,
    maxCompletion: maxCompletionLength,
    repetitionPenalty: config.repetitionPenalty,
  });
  return withDeviceSession(
    config,
    control.note,
    (plan) => {
      const positions = longestPrompt + maxCompletionLength;
      const policy = planPolicy(plan, plan.folder(folder), {
        dtype: config.dtype,
        positions,
        fourBit: config.loadIn4bit,
      });
      return { rollout: planSampling(plan, policy, limits) };
    },
    ({ rollout }) => {
      control.onBegin?.();
      return complete(rollout, { ...config, maxCompletionLength }, tokenizer, prompts, control);
    },
  );
}

/** @throws InputError where a prompt is none, or a line of `input` cannot be read */
export async function promptsOf(
  config: GenerateConfig,
  given: readonly Prompt[] | null,
  tokenizer: Tokenizer,
): Promise<PlacedPrompt[]> {
  if (given !== null) return given.map((prompt, i) => ({ prompt: checked(prompt, i), place: `prompts[${i}]` }));
  const { prompt, input } = config;
  if (prompt === null) return readPrompts(input!);
  return [{ prompt: tokenizer.hasChatTemplate ? [{ role: "user", content: prompt }] : prompt, place: "--prompt" }];
}

function checked(prompt: Prompt, i: number): Prompt {
  if (promptType.safeParse(prompt).success) return prompt;
  throw new InputError(`prompts[${i}]: must be a text or a list of messages with role and content`);
}

async function textOf(path: string): Promise<string> {
  requireFile(path, { once: true });
  if (!isThere(path)) throw new InputError(`${path}: there is no such file; check --input`);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await Bun.file(path).bytes());
  } catch (error) {
    const why = error instanceof TypeError ? "is not UTF-8 text" : `cannot be read (${errorText(error)})`;
    throw new InputError(`${path}: ${why}; give --input a file of JSON lines`);
  }
}

async function readPrompts(path: string): Promise<PlacedPrompt[]> {
  const prompts: PlacedPrompt[] = [];
  for (const [i, text] of (await textOf(path)).split("\n").entries()) {
    if (text.trim() === "") continue;
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch (error) {
      throw new InputError(
        `${path}: line ${i + 1}: not JSON (${errorText(error)}); each line is {"prompt": text or messages}`,
      );
    }
    const parsed = line.safeParse(json);
    if (!parsed.success)
      throw new InputError(
        `${path}: line ${i + 1}: "prompt" must be a text or a list of messages with role and content`,
      );
    prompts.push({ prompt: parsed.data.prompt, place: `${path}: line ${i + 1}` });
  }
  if (prompts.length === 0) throw new InputError(`${path}: holds no prompt; each line is {"prompt": text or messages}`);
  return prompts;
}

/**
 * @param limit.room tokens of a prompt and a completion
 * @throws InputError for a prompt without tokens, or with as many as there is room for
 */
export function encoded(
  prompts: readonly PlacedPrompt[],
  config: GenerateConfig,
  tokenizer: Tokenizer,
  { folder, room, cure }: { readonly folder: string; readonly room: number; readonly cure: string },
): EncodedPrompt[] {
  const options = { systemPrompt: config.systemPrompt ?? undefined, chatTemplateKwargs: config.chatTemplateKwargs };
  return prompts.map(({ prompt, place }) => {
    const ids = Int32Array.from(tokenizer.encodePrompt(prompt, options));
    if (ids.length === 0)
      throw new InputError(
        `${place}: the prompt is empty for ${folder}'s tokenizer; the model needs at least one token`,
      );
    if (ids.length >= room)
      throw new InputError(`${place}: the prompt has ${ids.length} tokens by ${folder}'s tokenizer, ${cure}`);
    return { prompt, place, ids };
  });
}

/** Samples the completions of `prompts`; null: it was stopped. */
export async function complete(
  rollout: RolloutEngine,
  config: GenerateConfig,
  tokenizer: Tokenizer,
  prompts: readonly EncodedPrompt[],
  { stopRequested, onToken }: Pick<GenerateControl, "stopRequested" | "onToken">,
): Promise<Generated[] | null> {
  const { seed, temperature, topK, topP, minP, repetitionPenalty, maxCompletionLength } = config;
  const sampling = { seed, stream: 0, step: 0, temperature, topK, topP, minP, repetitionPenalty, maxCompletionLength };
  const streamed = onToken && streamTokens(tokenizer, onToken);
  const results = await rollout.generate(
    prompts.map(({ ids }, prompt) => ({ promptIds: ids, samples: config.numGenerations, prompt })),
    { ...sampling, isStop: tokenizer.isStop, stopStrings: tokenizer.stopStrings(config.stop) },
    { shouldStop: stopRequested, onToken: streamed?.token },
  );
  streamed?.end();
  if (stopRequested()) return null;
  return prompts.map(({ prompt, ids }, i) => ({
    prompt,
    promptIds: ids,
    completions: results[i]!.map(({ completionIds, logprobs, finished, stop }) => ({
      text: tokenizer.decode([...completionIds], { skipSpecialTokens: true }),
      completionIds,
      logprobs,
      finished,
      ...(stop === undefined ? {} : { stop }),
    })),
  }));
}

/** The tokens of each completion with their texts as they come; a character may take several. */
function streamTokens(tokenizer: Tokenizer, onToken: NonNullable<GenerateControl["onToken"]>) {
  const open = new Map<Sequence, ReturnType<Tokenizer["incrementalDecoder"]>>();
  return {
    token(sequence: Sequence, id: number) {
      const decoder = open.get(sequence) ?? tokenizer.incrementalDecoder({ skipSpecialTokens: true });
      open.set(sequence, decoder);
      const { place: prompt, sample, logprobs } = sequence;
      onToken({ prompt, sample, id, text: decoder.push(id), logprob: logprobs.at(-1)! });
    },
    /** The rest of what was cut within a character. */
    end() {
      for (const [{ place: prompt, sample }, decoder] of open) {
        const text = decoder.end();
        if (text !== "") onToken({ prompt, sample, id: null, text, logprob: null });
      }
    },
  };
}

/** A line per prompt: `{"prompt", "completions": [{"text", "tokens", "finished", "stop"}]}`. */
export function generatedLines(generated: readonly Generated[]): string {
  return generated
    .map(({ prompt, completions }) => {
      const shown = completions.map(({ text, completionIds, finished, stop }) => ({
        text,
        tokens: completionIds.length,
        finished,
        ...(stop === undefined ? {} : { stop }),
      }));
      return `${JSON.stringify({ prompt, completions: shown })}\n`;
    })
    .join("");
}

export function writeGenerated(path: string, generated: readonly Generated[]): void {
  writeOutput(path, generatedLines(generated));
}
