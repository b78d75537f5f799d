/**
 * Rows → examples: which columns hold the prompt and the answer, found by their names or named by the settings, and what a
 * row's prompt, gold answer and worked answer are. Leaves out the system prompt, the chat template and tokenizing.
 */
import { InputError } from "../errors.ts";
import type { Column, Dataset } from "./dataset.ts";
import { answerText, goldOf } from "./gold.ts";

export interface Message {
  readonly role: string;
  /** Absent where the message is calls of tools alone. */
  readonly content?: string;
  /** What else the row has, for templates that read it: `name`, `tool_calls`. */
  readonly [key: string]: unknown;
}

export interface Example {
  /** Text as it stands, or messages for the chat template (the last one is not the assistant's). */
  readonly prompt: string | readonly Message[];
  readonly promptKind: "text" | "chat";
  /** The answer to compare with; null where the row has none. */
  readonly gold: string | null;
  /** The whole worked answer, for supervised fine-tuning; null where the row has none. */
  readonly answerText: string | null;
  /** The row itself, for reward functions. */
  readonly columns: Readonly<Record<string, unknown>>;
}

export interface ColumnSettings {
  /** Default: the first of prompt, question, problem, messages that there is. */
  readonly promptColumn?: string | null;
  /** Default: the first of answer, solution, gold, ground_truth, completion that there is. */
  readonly answerColumn?: string | null;
}

/** Which columns are used, for all rows. */
export interface ExampleColumns {
  readonly prompt: string;
  /** Where the gold answer is taken from; null: from the last message of `messages`, or there is none. */
  readonly gold: string | null;
  /** Where the worked answer is taken from. */
  readonly worked: string | null;
}

const promptNames = ["prompt", "question", "problem", "messages"];
const goldNames = ["answer", "solution", "gold", "ground_truth", "completion"];
/** A column called so holds the way to the answer; one called `answer` beside it then holds the result alone. */
const workedNames = ["solution", "completion"];
/** Text in this column is continued plainly, as TRL does; in any other it is a user's message. */
const PLAIN_PROMPT = "prompt";

/** @throws InputError when a named column is missing, or no prompt can be found, with the columns that there are. */
export function findColumns(
  { path, columns }: Pick<Dataset, "path" | "columns">,
  { promptColumn, answerColumn }: ColumnSettings = {},
): ExampleColumns {
  const has = (name: string) => columns.some((column) => column.name === name);
  const named = (setting: string, name: string) => {
    if (!has(name)) throw new InputError(`${path}: no column "${name}" (${setting}); ${listed(columns)}`);
    return name;
  };
  const prompt = promptColumn ? named("prompt_column", promptColumn) : promptNames.find(has);
  if (prompt === undefined)
    throw new InputError(
      `${path}: no column for the prompt (${promptNames.join(", ")}); ${listed(columns)}; name it with --prompt_column`,
    );
  if (answerColumn) {
    const answer = named("answer_column", answerColumn);
    return { prompt, gold: answer, worked: answer };
  }
  const other = (name: string) => name !== prompt && has(name);
  const gold = goldNames.find(other) ?? null;
  return { prompt, gold, worked: workedNames.find(other) ?? gold };
}

function listed(columns: readonly Column[]): string {
  return columns.length === 0 ? "it has no columns" : `it has ${columns.map(({ name }) => name).join(", ")}`;
}

/**
 * The example of one row.
 * @throws InputError naming the row when its prompt is empty or of the wrong type
 */
export function exampleAt(dataset: Dataset, columns: ExampleColumns, index: number): Example {
  const row = dataset.row(index);
  const where = `${dataset.path}: row ${index}, column "${columns.prompt}"`;
  const { prompt, reply } = promptOf(row[columns.prompt], columns.prompt, where);
  const worked = (columns.worked === null ? null : replyText(row[columns.worked])) ?? reply;
  const gold = columns.gold === null ? reply : replyText(row[columns.gold]);
  return {
    prompt,
    promptKind: typeof prompt === "string" ? "text" : "chat",
    gold: gold === null ? null : goldOf(gold),
    answerText: worked,
    columns: row,
  };
}

interface Prompt {
  readonly prompt: string | readonly Message[];
  /** What the assistant says last in a whole conversation: the answer, not part of the prompt. */
  readonly reply: string | null;
}

function promptOf(value: unknown, column: string, where: string): Prompt {
  if (typeof value === "string") {
    if (value.trim() === "") throw new InputError(`${where}: the prompt is empty; remove the row`);
    return { prompt: column === PLAIN_PROMPT ? value : [{ role: "user", content: value }], reply: null };
  }
  if (!Array.isArray(value) || value.length === 0)
    throw new InputError(`${where}: text or a list of messages is needed, not ${kindOf(value)}; name another column`);
  const messages = value.map((message, i) => messageOf(message, `${where}, message ${i}`));
  const last = messages.at(-1)!;
  if (last.role !== "assistant") return { prompt: messages, reply: null };
  if (messages.length === 1)
    throw new InputError(`${where}: nothing stands before the assistant's message; remove the row`);
  return { prompt: messages.slice(0, -1), reply: last.content ?? null };
}

function messageOf(value: unknown, where: string): Message {
  const { role, content, ...others } = (typeof value === "object" && value !== null ? value : {}) as Record<
    string,
    unknown
  >;
  const text = contentText(content);
  const callsTools = (content ?? null) === null && Array.isArray(others.tool_calls) && others.tool_calls.length > 0;
  if (typeof role !== "string" || (text === null && !callsTools))
    throw new InputError(`${where}: {role, content} with text is needed, not ${kindOf(value)}`);
  // In a column of structs a key that a message lacks is null.
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

/** An answer as text, or what the messages of an answer say (TRL's conversational `completion`). */
function replyText(value: unknown): string | null {
  const message = Array.isArray(value) ? (value.at(-1) as { content?: unknown } | null) : null;
  return contentText(message?.content) ?? answerText(value);
}

function kindOf(value: unknown): string {
  if (value === null || value === undefined) return "null";
  if (Array.isArray(value)) return "an empty list";
  if (typeof value !== "object") return `a ${typeof value}`;
  return `an object with ${Object.keys(value).join(", ") || "nothing in it"}`;
}
