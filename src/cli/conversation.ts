/** The state of a chat, and what a line typed into it does. Reads no terminal and samples nothing. */
import { writeFileSync } from "node:fs";
import type { Prompt } from "../api/generate.ts";
import type { CallSettings, LoadModelSettings } from "../api/loaded-model.ts";
import { kindOf } from "../config/allowed.ts";
import { toCamel } from "../config/names.ts";
import { nearest } from "../config/nearest.ts";
import { greedyTemperatureSettings, lengthSettings, samplingSettings } from "../config/settings/rollout.ts";
import { complete, readValue } from "../config/shape.ts";
import { errorText, InputError } from "../errors.ts";
import type { Message } from "../message.ts";

/** What a line asks for: an answer, the end, or nothing more than what is said to it. */
interface Taken {
  readonly next: "answer" | "leave" | "nothing";
  readonly say?: string;
}

/** Settings that a command of their name shows and changes. */
const changeable = { ...greedyTemperatureSettings, ...samplingSettings, ...lengthSettings };
type Changeable = keyof typeof changeable;

const commands: Readonly<Record<string, string>> = {
  help: "this list",
  reset: "forget the conversation, keep the system message",
  system: "TEXT: set the system message; alone, take it away",
  retry: "answer the last message again",
  save: 'FILE: write the conversation as a line of JSON, {"messages": […]}, as train and sft read it',
  exit: "leave, as Ctrl-D does",
};

export class Conversation {
  private messages: Message[] = [];
  private system: string | null;
  private readonly changed = new Map<Changeable, unknown>();
  private readonly settings: LoadModelSettings;
  private readonly remembers: boolean;
  private answers = 0;

  /** @param remembers the model has a chat template; without one each text stands by itself */
  constructor(settings: LoadModelSettings, remembers: boolean) {
    this.settings = settings;
    this.system = settings.systemPrompt ?? null;
    this.remembers = remembers;
  }

  /** Takes a line: a command with a slash, or the user's next message. */
  take(line: string): Taken {
    const [, name, rest = ""] = /^\/(\w+)\s*([\s\S]*)$/.exec(line.trim()) ?? [];
    if (name !== undefined) return this.command(name, rest.trim());
    if (line.trim() === "") return { next: "nothing" };
    this.messages.push({ role: "user", content: line });
    return { next: "answer" };
  }

  /** What the model is to answer. */
  prompt(): Prompt {
    if (!this.remembers) return String(this.messages.at(-1)?.content ?? "");
    return this.system === null ? this.messages : [{ role: "system", content: this.system }, ...this.messages];
  }

  /** The sampling of the next answer. Each has its own seed: an answer that is asked for again is another one. */
  sampling(): CallSettings {
    const changed = Object.fromEntries([...this.changed].map(([key, value]) => [toCamel(key), value]));
    return { ...changed, seed: ((this.settings.seed ?? 42) + this.answers) % 2 ** 32 };
  }

  /** Keeps an answer, also one that was stopped. */
  answered(text: string): void {
    this.answers++;
    if (text === "") this.takeBack();
    else this.messages.push({ role: "assistant", content: text });
  }

  /** Forgets a message that could not be answered. */
  takeBack(): void {
    this.messages.pop();
  }

  private command(name: string, rest: string): Taken {
    const says = (say: string): Taken => ({ next: "nothing", say });
    if (Object.hasOwn(changeable, name)) return says(this.change(name as Changeable, rest));
    switch (name) {
      case "help":
        return says(help());
      case "exit":
        return { next: "leave" };
      case "reset":
        this.messages = [];
        return says("the conversation is forgotten");
      case "system":
        this.system = rest === "" ? null : rest;
        return says(rest === "" ? "there is no system message now" : "the system message is set");
      case "retry":
        if (this.messages.at(-1)?.role === "assistant") this.messages.pop();
        return this.messages.length === 0 ? says("there is nothing to answer") : { next: "answer" };
      case "save":
        return says(this.save(rest));
      default: {
        const guess = nearest(name, [...Object.keys(commands), ...Object.keys(changeable)]);
        return says(`/${name} is no command; ${guess === undefined ? "/help lists them" : `did you mean /${guess}?`}`);
      }
    }
  }

  /** Shows a setting, or changes it. */
  private change(key: Changeable, text: string): string {
    const inForce = () => this.changed.get(key) ?? this.settings[toCamel(key) as keyof LoadModelSettings];
    if (text === "") return `${key} ${inForce() ?? complete({ [key]: changeable[key] }, new Map())[toCamel(key)]}`;
    try {
      const one = { [key]: changeable[key] };
      const value = readValue(one, key, text, "flag", key);
      this.changed.set(key, complete(one, new Map([[key, value]]))[toCamel(key)]);
      return `${key} ${inForce()}`;
    } catch (error) {
      if (error instanceof InputError) return error.message;
      throw error;
    }
  }

  private save(path: string): string {
    if (path === "") return "/save needs the name of a file";
    if (this.messages.length === 0) return "there is nothing to save yet";
    const system = this.system === null ? [] : [{ role: "system", content: this.system }];
    try {
      // Never over a file that is there.
      writeFileSync(path, `${JSON.stringify({ messages: [...system, ...this.messages] })}\n`, { flag: "wx" });
      return `saved ${path}`;
    } catch (error) {
      const exists = (error as NodeJS.ErrnoException).code === "EEXIST";
      return exists ? `${path} exists; name another file` : `${path} cannot be written (${errorText(error)})`;
    }
  }
}

function help(): string {
  const own = Object.entries(commands).map(([name, text]) => [`/${name}`, text] as const);
  const settings = Object.entries(changeable).map(([key, setting]) => {
    const what = kindOf(setting) === "number" ? "X: " : "";
    return [`/${key}`, `${what}${setting.description}`] as const;
  });
  const width = Math.max(...[...own, ...settings].map(([name]) => name.length));
  return [...own, ...settings]
    .map(([name, text]) => `${name.padEnd(width)}  ${text}`)
    .concat("A line that ends in \\ goes on in the next. Ctrl-C stops an answer.")
    .join("\n");
}
