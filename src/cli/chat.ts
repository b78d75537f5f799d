/**
 * A chat in the terminal: lines are read with readline, answers stream as they are sampled. What the lines mean is
 * conversation.ts's business, the sampling is the API's.
 */
import { createInterface } from "node:readline";
import type { CallSettings, LoadedModel, LoadModelSettings } from "../api/loaded-model.ts";
import { loadModelWith } from "../api/loaded-model.ts";
import { InputError } from "../errors.ts";
import { Conversation } from "./conversation.ts";
import { noteOnStderr } from "./terminal.ts";

const out = (text: string): void => void process.stdout.write(text);
const dim = (text: string): string => (process.env.NO_COLOR ? text : `\x1b[2m${text}\x1b[0m`);

/** Reads a line with editing and the history; null: Ctrl-D. */
function readLine(prompt: string, history: string[]): Promise<string | null> {
  const lines = createInterface({
    input: process.stdin,
    output: process.stdout,
    terminal: true,
    history: [...history],
    historySize: 1000,
  });
  return new Promise((resolve) => {
    let line: string | null = null;
    lines.on("SIGINT", () => {
      // As in a shell: what is typed so far is given up.
      out(`${dim("  (Ctrl-D leaves)")}\n`);
      lines.write(null, { ctrl: true, name: "u" });
      lines.prompt();
    });
    lines.on("line", (text) => {
      line = text;
      if (text.trim() !== "") history.unshift(text);
      lines.close();
    });
    lines.on("close", () => resolve(line));
    lines.setPrompt(prompt);
    lines.prompt();
  });
}

/** A turn's text: a line that ends in a backslash goes on in the next. */
async function readTurn(history: string[]): Promise<string | null> {
  const lines: string[] = [];
  for (;;) {
    const line = await readLine(lines.length === 0 ? "> " : ". ", history);
    if (line === null) return null;
    const goesOn = line.endsWith("\\");
    lines.push(goesOn ? line.slice(0, -1) : line);
    if (!goesOn) return lines.join("\n");
  }
}

/** Streams one answer; Ctrl-C ends it, and what there is of it stays. */
async function answer(model: LoadedModel, conversation: Conversation): Promise<void> {
  const stop = new AbortController();
  const interrupt = (): void => stop.abort();
  process.on("SIGINT", interrupt);
  let text = "";
  try {
    const settings: CallSettings = { ...conversation.sampling(), prompts: [conversation.prompt()] };
    for await (const token of model.generate(settings, { signal: stop.signal })) {
      out(token.text);
      text += token.text;
    }
    out("\n");
    conversation.answered(text);
  } catch (error) {
    if (stop.signal.aborted) {
      out(`${dim(" (stopped)")}\n`);
      conversation.answered(text);
    } else if (error instanceof InputError) {
      conversation.takeBack();
      for (const line of error.lines) out(`${dim(line.replace(/^prompts\[0\]: /, ""))}\n`);
    } else throw error;
  } finally {
    process.off("SIGINT", interrupt);
  }
}

/** Chats until Ctrl-D or /exit. */
export async function chat(settings: LoadModelSettings): Promise<void> {
  const model = await loadModelWith(settings, noteOnStderr);
  try {
    const conversation = new Conversation(settings, model.tokenizer.hasChatTemplate);
    out(`${model.folder}, with room for ${model.maxModelLength} tokens. /help lists the commands, Ctrl-D leaves.\n`);
    if (!model.tokenizer.hasChatTemplate)
      out(
        "The model has no chat template: your text is continued as it stands, and nothing before it is remembered.\n",
      );
    const history: string[] = [];
    for (;;) {
      const line = await readTurn(history);
      if (line === null) {
        out("\n");
        return;
      }
      const { say, next } = conversation.take(line);
      if (say !== undefined) out(`${dim(say)}\n`);
      if (next === "leave") return;
      if (next === "answer") await answer(model, conversation);
    }
  } finally {
    await model.close();
  }
}
