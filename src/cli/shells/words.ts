/** What a shell can complete on a command line of grpo: from the table of commands and the settings' types. */
import { z } from "zod";
import { kindOf, placeholder, unwrap } from "../../config/allowed.ts";
import { builtInRewards } from "../../config/reward-names.ts";
import { type SettingTypes, settingsOf } from "../../config/schema.ts";
import { debugSettings } from "../../config/settings/engine.ts";
import type { CommandEntry } from "../command.ts";

/** What may follow a flag: one of these words, a file, a folder, or text that nobody can guess. */
export type Value =
  | { readonly kind: "words"; readonly words: readonly string[]; readonly files: boolean }
  | { readonly kind: "file" }
  | { readonly kind: "folder" }
  | { readonly kind: "text" };

export interface FlagWords {
  /** With its dashes. */
  readonly name: string;
  /** null: nothing needs to follow it. */
  readonly value: Value | null;
  /** One line, short. */
  readonly summary: string;
}

export interface CommandWords {
  readonly name: string;
  readonly summary: string;
  readonly flags: readonly FlagWords[];
  /** Words after its name; empty: a configuration file, or nothing. */
  readonly words: readonly string[];
  /** It takes a configuration file. */
  readonly takesConfig: boolean;
}

/** The first sentence, for a shell's second column. */
function summaryOf(setting: z.ZodType): string {
  const text = (setting.description ?? "").split(/(?<=[^.][.:])\s/)[0]!.replace(/[.:]$/, "");
  return text.length > 70 ? `${text.slice(0, 69)}…` : text;
}

function followedBy(key: string, setting: z.ZodType): Value | null {
  const { type } = unwrap(setting);
  const shown = placeholder(setting);
  const kind = kindOf(setting);
  if (kind === "boolean") return null;
  if (key === "reward_funcs") return { kind: "words", words: builtInRewards, files: true };
  if (type instanceof z.ZodEnum) return { kind: "words", words: type.options.map(String), files: false };
  if (type instanceof z.ZodArray && type.element instanceof z.ZodEnum)
    return { kind: "words", words: type.element.options.map(String), files: false };
  const choices = shown.split("|");
  // `auto|cpu|cuda|cuda:N`, `true|FOLDER`: words in small letters can be typed as they stand.
  const words = choices.filter((choice) => /^[a-z]+$/.test(choice));
  if (words.length > 0) return { kind: "words", words, files: /FILE|FOLDER/.test(shown) };
  if (/FILE/.test(shown)) return { kind: "file" };
  return /FOLDER/.test(shown) ? { kind: "folder" } : { kind: "text" };
}

function flagsOf(settings: SettingTypes): FlagWords[] {
  return Object.entries(settings).flatMap(([key, setting]) => {
    const flag = { name: `--${key}`, value: followedBy(key, setting), summary: summaryOf(setting) };
    const isOn = unwrap(setting).fallback === true;
    return isOn ? [flag, { name: `--no_${key}`, value: null, summary: `Not: ${flag.summary}` }] : [flag];
  });
}

/** Every command's words; loads the files of those whose settings are not in the schema. */
export async function commandWords(table: readonly CommandEntry[]): Promise<CommandWords[]> {
  const all: CommandWords[] = [];
  for (const { name, summary, settings, load } of table) {
    const command = settings === undefined ? await load() : null;
    const known = settings === undefined ? { ...command!.flags, ...debugSettings } : settingsOf(settings);
    const help: FlagWords = { name: "--help", value: null, summary: "Show the settings, or those of a topic" };
    all.push({
      ...{ name, summary },
      flags: [...flagsOf(known), help],
      words: command?.words ?? [],
      takesConfig: settings !== undefined,
    });
  }
  return all;
}
