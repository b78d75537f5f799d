/** The settings of a command as `--help` shows them: all of them, or those of a topic. */
import type { z } from "zod";
import { placeholder, unwrap } from "./allowed.ts";
import { nearest } from "./nearest.ts";
import { type CommandName, commandSections, type SettingTypes } from "./schema.ts";

const width = 110;
const column = 40;

/** Titled sections, a setting a line with its default in brackets; wrapped to 110 columns. */
export function describeSettings(command: CommandName): string {
  const sections = Object.entries(commandSections[command]) as [string, SettingTypes][];
  return [...sections.map(titled), topicLines(command)].join("\n\n");
}

/** Words that people look for, and the sections that answer them. */
const topicWords: Readonly<Record<string, readonly string[]>> = {
  losses: ["Advantages", "Loss", "Critic"],
  advantage: ["Advantages"],
  estimators: ["Advantages"],
  ppo: ["Critic"],
  kl: [],
  sampling: ["Rollout", "Dynamic sampling"],
  generation: ["Rollout"],
  dataset: ["Data"],
  prompts: ["Data", "Prompt"],
  checkpoints: ["Output"],
  logging: ["Output"],
  trackers: ["Output"],
  learning: ["Optimizer"],
  page: ["Dashboard"],
};

const titled = ([title, settings]: readonly [string, SettingTypes]): string => `${title}:\n${describeShape(settings)}`;

/** The topics that a command's help can be asked for: its sections, in one word each. */
export function topicsOf(command: CommandName): string[] {
  const sections = Object.keys(commandSections[command]);
  const words = Object.keys(topicWords).filter((word) => topicWords[word]!.some((title) => sections.includes(title)));
  return [...new Set([...sections.map(topicOf), ...words])].sort();
}

const topicOf = (title: string): string => title.toLowerCase().replaceAll(" ", "-");

/**
 * Help on a topic: the sections of that name, or the settings that have the word in their names, or else in their texts.
 *
 * @returns null if nothing has it
 */
export function describeTopic(command: CommandName, topic: string): string | null {
  const word = topic.toLowerCase().replace(/^--/, "").replaceAll("-", "_");
  const sections = Object.entries(commandSections[command]) as [string, SettingTypes][];
  const named = topicWords[word];
  const whole = sections.filter(
    ([title]) => named?.includes(title) || [word, `${word}s`].includes(topicOf(title).replaceAll("-", "_")),
  );
  if (whole.length > 0) return whole.map(titled).join("\n\n");
  const having = (test: (key: string, setting: z.ZodType) => boolean) =>
    sections.flatMap(([title, settings]): [string, SettingTypes][] => {
      const found = Object.entries(settings).filter(([key, setting]) => test(key, setting));
      return found.length === 0 ? [] : [[title, Object.fromEntries(found)]];
    });
  const text = new RegExp(`\\b${RegExp.escape(word.replaceAll("_", " "))}`, "i");
  const byName = having((key) => `_${key}`.includes(`_${word}`));
  const found = byName.length > 0 ? byName : having((_, { description = "" }) => text.test(description));
  return found.length === 0 ? null : found.map(titled).join("\n\n");
}

/** The lines at the end of a command's help. */
export function topicLines(command: CommandName): string {
  const topics = topicsOf(command).join(", ");
  const text = `Help on a topic: grpo ${command} --help TOPIC, which is ${topics}, or any word of a setting.`;
  return wrap(text, width).join("\n");
}

/** The refusal of a topic that is none. */
export function unknownTopic(topic: string, topics: readonly string[]): string {
  const guess = nearest(topic, topics);
  return `${JSON.stringify(topic)} is no topic of help; ${guess === undefined ? `there are ${topics.join(", ")}` : `did you mean ${guess}?`}`;
}

/** The lines of one set of settings, without a title. */
export function describeShape(settings: SettingTypes): string {
  return Object.entries(settings)
    .map(([key, setting]) => describeSetting(key, setting))
    .join("\n");
}

function describeSetting(key: string, setting: z.ZodType): string {
  const value = placeholder(setting);
  const switched = unwrap(setting).fallback === true ? "[no-]" : "";
  const head = `  --${switched}${key}${value === "" ? "" : ` ${value}`}`;
  const text = `${setting.description ?? ""} ${defaultText(setting)}`;
  const lines = wrap(text, width - column);
  const fits = head.length < column - 1;
  const rest = (fits ? lines.slice(1) : lines).map((line) => " ".repeat(column) + line);
  return [fits ? head.padEnd(column) + (lines[0] ?? "") : head, ...rest].join("\n");
}

/** The default as help shows it, in brackets. */
export function defaultText(setting: z.ZodType): string {
  const { required, fallback } = unwrap(setting);
  if (required) return "[required]";
  if (typeof fallback === "string") return `[${fallback}]`;
  if (typeof fallback === "number") return `[${fallback > 0 && fallback < 1e-3 ? fallback.toExponential() : fallback}]`;
  return `[${JSON.stringify(fallback)}]`;
}

function wrap(text: string, columns: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  lines.push(line);
  return lines;
}
