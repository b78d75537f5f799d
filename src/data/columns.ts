/**
 * Rows → examples: a row's prompt, gold answer and worked answer, from the columns that column-names.ts finds. Leaves out
 * the system prompt, the chat template and tokenizing.
 */

import { answerText, goldOf } from "../answers/gold.ts";
import { InputError } from "../errors.ts";
import type { Message } from "../message.ts";
import { type ExampleColumns, valueIn } from "./column-names.ts";
import type { Dataset } from "./dataset.ts";

export { type ColumnSettings, type ExampleColumns, findColumns } from "./column-names.ts";

export interface Example {
  /** Plain text, or messages for the chat template (the last one is not the assistant's). */
  readonly prompt: string | readonly Message[];
  readonly promptKind: "text" | "chat";
  /** The answer to compare with; null if the row has none. */
  readonly gold: string | null;
  /** The whole worked answer, for supervised fine-tuning; null if the row has none. */
  readonly answerText: string | null;
  /** The row itself, for reward functions. */
  readonly columns: Readonly<Record<string, unknown>>;
}

/** Text in this column is continued as it is, as in TRL; in any other it becomes a user message. */
const PLAIN_PROMPT = "prompt";

/**
 * The example of one row.
 * @throws InputError naming the row when its prompt is empty or of the wrong type
 */
export function exampleAt(dataset: Dataset, columns: ExampleColumns, index: number): Example {
  const row = dataset.row(index);
  const where = `${dataset.path}: row ${index}, column "${columns.prompt.name}"`;
  const { prompt, reply } = promptOf(valueIn(row, columns.prompt), columns.prompt.name, where);
  const worked = (columns.worked === null ? null : replyText(valueIn(row, columns.worked))) ?? reply;
  return {
    prompt,
    promptKind: typeof prompt === "string" ? "text" : "chat",
    gold: goldIn(row, columns, reply),
    answerText: worked,
    columns: row,
  };
}

/** Only the prompt of one row. @throws InputError like `exampleAt` */
export function promptAt(dataset: Dataset, columns: ExampleColumns, index: number): Example["prompt"] {
  const where = `${dataset.path}: row ${index}, column "${columns.prompt.name}"`;
  return promptOf(valueIn(dataset.row(index), columns.prompt), columns.prompt.name, where).prompt;
}

/** Only the gold answer of one row; null if it has none, or its prompt is not one. */
export function goldOfRow(dataset: Dataset, columns: ExampleColumns, index: number): string | null {
  const row = dataset.row(index);
  if (columns.gold !== null) return goldIn(row, columns, null);
  const messages = valueIn(row, columns.prompt);
  if (!Array.isArray(messages)) return null;
  const last = messages.at(-1) as { role?: unknown; content?: unknown } | null | undefined;
  const reply = last?.role === "assistant" && messages.length > 1 ? contentText(last.content) : null;
  return goldIn(row, columns, reply);
}

function goldIn(row: Readonly<Record<string, unknown>>, { gold }: ExampleColumns, reply: string | null): string | null {
  const text = gold === null ? reply : replyText(valueIn(row, gold));
  return text === null ? null : goldOf(text);
}

interface Prompt {
  readonly prompt: string | readonly Message[];
  /** The assistant's last message in a complete conversation: the answer, not part of the prompt. */
  readonly reply: string | null;
}

function promptOf(given: unknown, column: string, where: string): Prompt {
  const value = given instanceof Uint8Array ? decoded(given, where) : given;
  if (typeof value === "string") {
    if (!value.isWellFormed())
      throw new InputError(`${where}: half of a surrogate pair, which UTF-8 cannot encode; remove the row`);
    if (value.trim() === "") throw new InputError(`${where}: the prompt is empty; remove the row`);
    return { prompt: column === PLAIN_PROMPT ? value : [{ role: "user", content: value }], reply: null };
  }
  if (!Array.isArray(value) || value.length === 0)
    throw new InputError(`${where}: expected text or a list of messages, not ${kindOf(value)}; name another column`);
  const messages = value.map((message, i) => messageOf(message, `${where}, message ${i}`));
  const last = messages.at(-1)!;
  if (last.role !== "assistant") return { prompt: messages, reply: null };
  if (messages.length === 1) throw new InputError(`${where}: nothing precedes the assistant's message; remove the row`);
  return { prompt: messages.slice(0, -1), reply: last.content ?? null };
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Text stored as bytes, as by some writers of Parquet. */
function decoded(bytes: Uint8Array, where: string): string {
  try {
    return decoder.decode(bytes);
  } catch {
    throw new InputError(`${where}: bytes that are not UTF-8 text; name another column`);
  }
}

function messageOf(value: unknown, where: string): Message {
  const { role, content, ...others } = (typeof value === "object" && value !== null ? value : {}) as Record<
    string,
    unknown
  >;
  const text = contentText(content);
  const callsTools = (content ?? null) === null && Array.isArray(others.tool_calls) && others.tool_calls.length > 0;
  if (typeof role !== "string" || (text === null && !callsTools))
    throw new InputError(`${where}: expected {role, content} with text, not ${kindOf(value)}`);
  // In a column of structs, a key that a message lacks is null.
  const present = Object.entries(others).filter(([, other]) => other !== null);
  return { role, ...(text !== null && { content: text }), ...Object.fromEntries(present) };
}

/** A message's text: plain, or the text parts of `[{"type": "text", "text": …}]`. */
function contentText(content: unknown): string | null {
  if (typeof content === "string") return content;
  if (!Array.isArray(content) || content.length === 0) return null;
  const parts = content.map((part) => (part as { text?: unknown } | null)?.text);
  return parts.every((part) => typeof part === "string") ? parts.join("") : null;
}

/** An answer as text, or the text of its messages (TRL's conversational `completion`). */
function replyText(value: unknown): string | null {
  const message = Array.isArray(value) ? (value.at(-1) as { content?: unknown } | null) : null;
  return contentText(message?.content) ?? answerText(value);
}

function kindOf(value: unknown): string {
  if (value === null || value === undefined) return "null";
  if (Array.isArray(value)) return value.length === 0 ? "an empty list" : "a list";
  if (value instanceof Uint8Array) return "bytes";
  if (typeof value !== "object") return `a ${typeof value}`;
  return `an object with ${Object.keys(value).join(", ") || "no fields"}`;
}
