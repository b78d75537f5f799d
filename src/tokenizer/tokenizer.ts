/**
 * Text ↔ token ids for a model folder, by its tokenizer.json: prompts with the chat template, the ids that end a
 * completion, decoding. `@huggingface/tokenizers` tokenizes, through `library.ts`. Leaves out tokenizers without
 * tokenizer.json, pairs of texts, padding and truncation.
 */
import { join } from "node:path";
import type { Tokenizer as Library } from "@huggingface/tokenizers";
import { isObject, readJsonObject } from "../config/json-file.ts";
import { InputError } from "../errors.ts";
import { isThere } from "../files/paths.ts";
import type { Message } from "../message.ts";
import { type ChatTemplate, chatTemplateOf, loadChatTemplate, type RenderOptions } from "./chat-template.ts";
import { byteLevelDecoder, type Decoder, type IncrementalDecoder, windowedDecoder } from "./decoder.ts";
import { fallbackByte, openLibrary } from "./library.ts";
import { type StopMatcher, stopMatchers } from "./stop-strings.ts";
import { readStopTokens } from "./stop-tokens.ts";

export { readChatTemplate } from "./chat-template.ts";
export type { IncrementalDecoder } from "./decoder.ts";
export type { StopMatcher } from "./stop-strings.ts";

export interface PromptOptions {
  /** Put before the prompt if the prompt has no system message. */
  readonly systemPrompt?: string | undefined;
  /** Variables for the chat template. */
  readonly chatTemplateKwargs?: Readonly<Record<string, unknown>> | undefined;
}

export interface Tokenizer {
  /** One more than the highest id. The model's vocabulary is often larger (padded), never smaller for ids in use. */
  readonly vocabSize: number;
  readonly hasChatTemplate: boolean;
  /** The ids that end a completion, ascending. */
  readonly stopTokenIds: readonly number[];
  isStop(id: number): boolean;
  /**
   * Ids of a text. Special tokens written in it are recognized; those that the tokenizer puts around every text (`<s>`)
   * are added unless `specialTokens` is false.
   *
   * @throws InputError if a token is beyond the model's vocabulary
   */
  encode(text: string, options?: { readonly specialTokens?: boolean }): number[];
  /**
   * Ids of a prompt. Messages go through the chat template and get no further special tokens. A text is tokenized
   * plainly, and so are messages if the model has no template (their contents, with blank lines between them).
   *
   * @throws InputError if the template refuses the messages
   */
  encodePrompt(prompt: string | readonly Message[], options?: PromptOptions): number[];
  /** @throws InputError if the model has no chat template, or it refuses the messages */
  renderChat(messages: readonly Message[], options?: Partial<RenderOptions>): string;
  /** @throws InputError for an id outside the model's vocabulary; ids inside it without a token decode to nothing */
  decode(ids: readonly number[], options?: { readonly skipSpecialTokens?: boolean }): string;
  /** Decodes ids as they are sampled. */
  incrementalDecoder(options?: { readonly skipSpecialTokens?: boolean }): IncrementalDecoder;
  /** Makes the matcher of these strings for one completion (stop-strings.ts); null: there are none. */
  stopStrings(strings: readonly string[] | null): (() => StopMatcher) | null;
  /** The text of a single token; part of a character shows as U+FFFD. */
  tokenText(id: number): string;
}

const fileName = "tokenizer.json";

/**
 * @param chatTemplate a template's text instead of the folder's own (`readChatTemplate`)
 * @param modelFolder where config.json is, if not there
 * @throws InputError if tokenizer.json is missing, incomplete, or of an unsupported kind
 */
export function loadTokenizer(
  folder: string,
  chatTemplate: string | null = null,
  modelFolder: string = folder,
): Tokenizer {
  const path = join(folder, fileName);
  if (!isThere(path))
    throw new InputError(
      `${folder}: holds no ${fileName}; download it, or convert the tokenizer: load it in transformers and call save_pretrained`,
    );
  const json = readJsonObject(path);
  const config = readOptional(join(folder, "tokenizer_config.json"));
  const names = specialTokenNames(config, readOptional(join(folder, "special_tokens_map.json")));
  const library = openLibrary(json, config, Object.values(names), path);
  const special = new Set<number>();
  for (const [id, token] of library.get_added_tokens_decoder()) if (token.special) special.add(id);

  const modelConfigPath = join(modelFolder, "config.json");
  const modelConfig = readOptional(modelConfigPath);
  const vocabSize = highestId(json) + 1;
  const limit = typeof modelConfig.vocab_size === "number" ? modelConfig.vocab_size : vocabSize;
  const eosOfTokenizer = names.eos_token === undefined ? undefined : library.token_to_id(names.eos_token);
  const stopTokenIds = readStopTokens(folder, modelConfig, eosOfTokenizer);
  const stops = new Set(stopTokenIds);
  const template =
    chatTemplate === null
      ? loadChatTemplate(folder, config, names)
      : chatTemplateOf(chatTemplate, "chat_template", names);
  const decoder = decoderOf(json, library, config);

  function requireId(id: number): void {
    if (!Number.isInteger(id) || id < 0 || id >= limit)
      throw new InputError(`token id ${id} is outside the model's vocabulary of ${limit} (${folder}); correct the ids`);
  }
  function encode(text: string, options: { readonly specialTokens?: boolean } = {}): number[] {
    const encoded = library.encode(text, { add_special_tokens: options.specialTokens ?? true }).ids;
    // The library leaves a hole for text without a token; transformers drops it.
    const ids = (encoded as (number | undefined)[]).filter((id) => id !== undefined);
    const beyond = ids.find((id) => id >= limit);
    if (beyond !== undefined)
      throw new InputError(
        `${path}: token ${JSON.stringify(library.id_to_token(beyond))} has id ${beyond}, and the model's vocabulary ends ` +
          `at ${limit} (${modelConfigPath}: vocab_size); use the tokenizer that belongs to the model`,
      );
    return ids;
  }
  function renderChat(messages: readonly Message[], options: Partial<RenderOptions> = {}): string {
    return requireTemplate(template, folder).render(messages, { addGenerationPrompt: true, ...options });
  }

  function incrementalDecoder({ skipSpecialTokens = false } = {}): IncrementalDecoder {
    const incremental = decoder.incremental();
    return {
      ...incremental,
      push(id) {
        requireId(id);
        return skipSpecialTokens && special.has(id) ? "" : incremental.push(id);
      },
    };
  }

  return {
    vocabSize,
    hasChatTemplate: template !== null,
    stopTokenIds,
    isStop: (id) => stops.has(id),
    encode,
    encodePrompt(prompt, { systemPrompt, chatTemplateKwargs: kwargs } = {}) {
      if (typeof prompt === "string") return encode(systemPrompt ? `${systemPrompt}\n\n${prompt}` : prompt);
      const isOwn = prompt.some((message) => message.role === "system");
      const messages = systemPrompt && !isOwn ? [{ role: "system", content: systemPrompt }, ...prompt] : prompt;
      if (template === null) return encode(messages.map((message) => message.content).join("\n\n"));
      return encode(renderChat(messages, { ...(kwargs !== undefined && { kwargs }) }), { specialTokens: false });
    },
    renderChat,
    decode(ids, { skipSpecialTokens = false } = {}) {
      for (const id of ids) requireId(id);
      return decoder.decode(skipSpecialTokens ? ids.filter((id) => !special.has(id)) : ids);
    },
    incrementalDecoder,
    stopStrings: (strings) => (strings === null ? null : stopMatchers(strings, incrementalDecoder)),
    tokenText(id) {
      requireId(id);
      return decoder.decode([id]);
    },
  };
}

function requireTemplate(template: ChatTemplate | null, folder: string): ChatTemplate {
  if (template !== null) return template;
  throw new InputError(
    `${folder}: the model has no chat template; give plain text, or add chat_template.jinja, or set chat_template`,
  );
}

function readOptional(path: string): Record<string, unknown> {
  return isThere(path) ? readJsonObject(path) : {};
}

/** `bos_token`, `eos_token`, …: name → token, from both files that may hold them, the newer one first. */
function specialTokenNames(...sources: readonly Record<string, unknown>[]): Record<string, string> {
  const names: Record<string, string> = {};
  for (const source of sources)
    for (const [name, value] of Object.entries(source)) {
      const content = isObject(value) ? value.content : value;
      if (/^[a-z]+_token$/.test(name) && typeof content === "string") names[name] ??= content;
    }
  return names;
}

function highestId(json: Record<string, unknown>): number {
  const { model, added_tokens: added = [] } = json as {
    model: { vocab: Record<string, number> | unknown[] };
    added_tokens?: { id: number }[];
  };
  // A list is a Unigram model's, numbered by position.
  let highest = Array.isArray(model.vocab) ? model.vocab.length - 1 : -1;
  if (!Array.isArray(model.vocab)) for (const id of Object.values(model.vocab)) highest = Math.max(highest, id);
  for (const { id } of added) highest = Math.max(highest, id);
  return highest;
}

function decoderOf(json: Record<string, unknown>, library: Library, config: Record<string, unknown>): Decoder {
  const model = json.model as Record<string, unknown>;
  const given = isObject(json.decoder) ? json.decoder : {};
  const steps = given.type === "Sequence" && Array.isArray(given.decoders) ? given.decoders : [given];
  const isByteLevel = steps.length === 1 && steps[0].type === "ByteLevel" && !model.end_of_word_suffix;
  if (isByteLevel) return byteLevelDecoder((id) => library.id_to_token(id));
  // transformers 5 ignores the setting for BPE, whose text it would corrupt.
  const cleanUp = config.clean_up_tokenization_spaces === true && model.type !== "BPE";
  const byteOf = (id: number) => fallbackByte(library.id_to_token(id) ?? "");
  const decode = (ids: readonly number[]) => {
    const tokens = ids.filter((id) => library.id_to_token(id) !== undefined);
    return tokens.length === 0 ? "" : library.decode(tokens, { clean_up_tokenization_spaces: false });
  };
  return windowedDecoder(decode, byteOf, cleanUp);
}
