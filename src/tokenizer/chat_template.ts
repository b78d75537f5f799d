/**
 * A model's chat template: where it is found, and the environment that transformers renders it in. Templates run in the
 * interpreter of `@huggingface/jinja`, which reaches nothing outside what is put in here.
 */
import { join } from "node:path";
import { Environment, Interpreter, Template } from "@huggingface/jinja";
import { isObject, readTextFile } from "../config/json_file.ts";
import { errorText, InputError } from "../errors.ts";
import { isThere } from "../files.ts";
import { formatDate } from "./format_date.ts";

export interface Message {
  readonly role: string;
  readonly content: string;
  /** Templates may read more: `name`, `reasoning_content`, `tool_calls`. */
  readonly [key: string]: unknown;
}

export interface ChatTemplate {
  /**
   * @throws InputError where the template has an error, or refuses the messages (roles that do not alternate, say)
   */
  render(messages: readonly Message[], options: RenderOptions): string;
}

export interface RenderOptions {
  /** Ends with the opening of the assistant's turn. */
  readonly addGenerationPrompt: boolean;
  /** Variables for the template, such as `enable_thinking`. */
  readonly kwargs?: Readonly<Record<string, unknown>>;
}

/** Set from elsewhere, so a setting of that name would be a mistake. */
const reserved = ["messages", "add_generation_prompt"];

/**
 * The template of a model folder: `chat_template.jinja`, else `chat_template` of tokenizer_config.json (a string, or a
 * list of named ones, of which "default" counts).
 *
 * @param specialTokens `bos_token` and the like by name, as templates use them
 * @returns null where the model has none
 */
export function loadChatTemplate(
  folder: string,
  tokenizerConfig: Readonly<Record<string, unknown>>,
  specialTokens: Readonly<Record<string, string>>,
): ChatTemplate | null {
  const file = join(folder, "chat_template.jinja");
  if (isThere(file)) return chatTemplateOf(readTextFile(file), file, specialTokens);
  const where = `${join(folder, "tokenizer_config.json")}: chat_template`;
  const given = tokenizerConfig.chat_template;
  if (given === undefined || given === null) return null;
  if (typeof given === "string") return chatTemplateOf(given, where, specialTokens);
  const named = Array.isArray(given) ? given.find((entry) => isObject(entry) && entry.name === "default") : undefined;
  if (!isObject(named) || typeof named.template !== "string")
    throw new InputError(`${where}: neither a text nor a list with a template named "default"; correct the field`);
  return chatTemplateOf(named.template, where, specialTokens);
}

function chatTemplateOf(source: string, where: string, specialTokens: Readonly<Record<string, string>>): ChatTemplate {
  let template: Template | undefined;
  return {
    render(messages, { addGenerationPrompt, kwargs = {} }) {
      const taken = reserved.find((name) => Object.hasOwn(kwargs, name));
      if (taken !== undefined)
        throw new InputError(`chat_template_kwargs: ${taken}: is set by the program; leave it out`);
      try {
        template ??= new Template(source);
        const environment = new Environment();
        const variables = {
          ...globals,
          ...specialTokens,
          // Given but empty, as in transformers: templates ask whether they are `defined` and `none`.
          tools: null,
          documents: null,
          ...kwargs,
          messages,
          add_generation_prompt: addGenerationPrompt,
        };
        for (const [name, value] of Object.entries(variables)) environment.set(name, value);
        return String(new Interpreter(environment).run(template.parsed).value);
      } catch (error) {
        if (error instanceof TemplateRefusal)
          throw new InputError(`${where}: the template refuses these messages: ${error.message}; change the messages`);
        throw new InputError(`${where}: ${errorText(error)}; correct the template or the messages`);
      }
    },
  };
}

class TemplateRefusal extends Error {}

const globals = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  range(start: number, stop?: number, step = 1): number[] {
    const [from, to] = stop === undefined ? [0, start] : [start, stop];
    return Array.from({ length: Math.max(0, Math.ceil((to - from) / step)) }, (_, i) => from + i * step);
  },
  raise_exception(message: string): never {
    throw new TemplateRefusal(message);
  },
  strftime_now: (format: string) => formatDate(new Date(), format),
};
