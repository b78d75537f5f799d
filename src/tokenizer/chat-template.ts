/**
 * A model's chat template: where it is found, and how transformers' `apply_chat_template` prepares messages for it.
 * `jinja/` renders it.
 */
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { isObject, readJsonObject, readTextFile } from "../config/json-file.ts";
import { errorText, InputError } from "../errors.ts";
import { isThere } from "../files/paths.ts";
import type { Message } from "../message.ts";
import { ChatTemplateProgram, TemplateFault, TemplateRefusal } from "./jinja/environment.ts";

export interface ChatTemplate {
  /**
   * @throws InputError if the template has an error or refuses the messages (for example, roles that do not alternate)
   */
  render(messages: readonly Message[], options: RenderOptions): string;
}

export interface RenderOptions {
  /** Ends with the opening of the assistant's turn. */
  readonly addGenerationPrompt: boolean;
  /** Variables for the template, such as `enable_thinking`. */
  readonly kwargs?: Readonly<Record<string, unknown>>;
}

/** Set by the program, so a setting of that name would be a mistake. */
const reserved = ["messages", "add_generation_prompt"];

/**
 * The template of a model folder: `chat_template.jinja`, else `chat_template` in tokenizer_config.json (a string, or a
 * list of named ones, from which "default" is used).
 *
 * @param specialTokens `bos_token` and the like by name, for templates
 * @returns null if the model has none
 */
export function loadChatTemplate(
  folder: string,
  tokenizerConfig: Readonly<Record<string, unknown>>,
  specialTokens: Readonly<Record<string, string>>,
): ChatTemplate | null {
  const found = findTemplate(folder, tokenizerConfig);
  return found === null ? null : chatTemplateOf(found.source, found.where, specialTokens);
}

interface Found {
  readonly source: string;
  /** For messages. */
  readonly where: string;
}

function findTemplate(folder: string, tokenizerConfig: Readonly<Record<string, unknown>>): Found | null {
  const file = join(folder, "chat_template.jinja");
  if (isThere(file)) return { source: readTextFile(file), where: file };
  const where = `${join(folder, "tokenizer_config.json")}: chat_template`;
  const given = tokenizerConfig.chat_template;
  if (given === undefined || given === null) return null;
  if (typeof given === "string") return { source: given, where };
  const named = Array.isArray(given) ? given.find((entry) => isObject(entry) && entry.name === "default") : undefined;
  if (!isObject(named) || typeof named.template !== "string")
    throw new InputError(`${where}: neither a string nor a list with a template named "default"; correct the field`);
  return { source: named.template, where };
}

/** Text with a tag is a template; a path has no tags. */
const tag = /\{[{%#]/;

/**
 * Reads the setting `chat_template`: a template's file, a model's folder, or the template itself.
 *
 * @returns the template's text; null for null
 * @throws InputError if it is none of the three, or the template has an error
 */
export function readChatTemplate(given: string | null): string | null {
  if (given === null) return null;
  const { source, where } = namedTemplate(given);
  try {
    new ChatTemplateProgram(source);
  } catch (error) {
    throw new InputError(`${where}: ${errorText(error)}; correct the template`);
  }
  return source;
}

function namedTemplate(given: string): Found {
  if (tag.test(given)) return { source: given, where: "chat_template" };
  if (!existsSync(given))
    throw new InputError(
      `chat_template: ${given} does not exist; give a .jinja file, a model's folder, or the template itself`,
    );
  if (!statSync(given).isDirectory()) return { source: readTextFile(given), where: given };
  const config = join(given, "tokenizer_config.json");
  const found = findTemplate(given, existsSync(config) ? readJsonObject(config) : {});
  if (found === null)
    throw new InputError(
      `chat_template: ${given} holds neither chat_template.jinja nor a chat_template in tokenizer_config.json`,
    );
  return found;
}

export function chatTemplateOf(
  source: string,
  where: string,
  specialTokens: Readonly<Record<string, string>>,
): ChatTemplate {
  let program: ChatTemplateProgram | undefined;
  return {
    render(messages, { addGenerationPrompt, kwargs = {} }) {
      const taken = reserved.find((name) => Object.hasOwn(kwargs, name));
      if (taken !== undefined)
        throw new InputError(`chat_template_kwargs: ${taken}: is set by the program; leave it out`);
      try {
        program ??= new ChatTemplateProgram(source);
        return program.render({
          ...specialTokens,
          // Defined but None, as in transformers: templates test for both.
          tools: null,
          documents: null,
          ...kwargs,
          messages: messages.map(normalized),
          add_generation_prompt: addGenerationPrompt,
        });
      } catch (error) {
        if (error instanceof TemplateRefusal)
          throw new InputError(`${where}: the template refuses these messages: ${error.message}; change the messages`);
        if (!(error instanceof TemplateFault || error instanceof RangeError)) throw error;
        throw new InputError(`${where}: ${errorText(error)}; correct the template or the messages`);
      }
    },
  };
}

/** Names of a message's reasoning; templates read the first. */
const reasoningFields = ["reasoning_content", "thinking", "reasoning"];

/** A message as transformers 5 passes it to a template: without nulls, and with its reasoning under the usual names. */
function normalized(message: Message): Record<string, unknown> {
  const given = Object.fromEntries(
    Object.entries(message).filter(([, value]) => value !== null && value !== undefined),
  );
  const field = reasoningFields.find((name) => given[name] !== undefined);
  if (field === undefined) return given;
  return { thinking: given[field], ...given, reasoning_content: given[field] };
}
