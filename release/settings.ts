/**
 * `docs/settings.md`: the reference of settings, made from the schema, as `--help` is. `bun release/settings.ts` writes it;
 * test/unit/docs-settings.test.ts holds it equal to the schema.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { z } from "zod";
import { placeholder } from "../src/config/allowed.ts";
import { defaultText } from "../src/config/help.ts";
import { type CommandName, commandSections, type SettingTypes, settingsOf } from "../src/config/schema.ts";

/** Each with one line on what its settings are beside `train`'s. */
const commands: Readonly<Record<CommandName, string>> = {
  train: "GRPO and its relatives, or PPO.",
  plan: "Takes every setting of `train`, and these.",
  sft: "Supervised fine-tuning.",
  eval: "Accuracy, pass@k, maj@k and rewards.",
  generate: "Completions, or a chat.",
  score: "Logprobs of given completions.",
  update: "The policy update alone, on recorded rollouts.",
};

const head = `# Settings

Every setting of every command that takes a configuration. This page is made from the schema by \`bun release/settings.ts\`, and a test holds
it equal to it; \`grpo COMMAND --help\` prints the same texts, \`grpo COMMAND --help TOPIC\` some of them.

A setting is a flag (\`--learning_rate 1e-5\`, \`--learning-rate=1e-5\`), a line of a TOML, YAML or JSON file (\`learning_rate = 1e-5\`), or a
property in TypeScript (\`learningRate: 1e-5\`). Flags override the file, the file overrides the preset, the preset the defaults. A switch
is set by its name and unset by \`--no_NAME\` or \`--NAME false\`; \`null\` is written as it is. The commands without a configuration
(\`push\`, \`export\`, \`verify\`, \`data\`, \`init\`, \`bench\`, \`doctor\`, \`check:gpu\`, \`completions\`) list their few flags under \`--help\`.`;

/** A row: name, what is written for the value, default, text. */
function row(key: string, setting: z.ZodType): string {
  const cells = [
    `\`${key}\``,
    placeholder(setting) === "" ? "switch" : `\`${placeholder(setting)}\``,
    `\`${defaultText(setting).slice(1, -1)}\``,
    setting.description ?? "",
  ];
  return `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
}

const table = (settings: SettingTypes): string =>
  ["| setting | value | default | |", "| --- | --- | --- | --- |"]
    .concat(Object.entries(settings).map(([key, setting]) => row(key, setting)))
    .join("\n");

/** A command's sections; beside `train`, only what differs from it in its row, and the names of the rest. */
function describe(command: CommandName): string {
  const base = command === "train" ? {} : settingsOf("train");
  const same: string[] = [];
  const parts = Object.entries(commandSections[command] as Record<string, SettingTypes>).flatMap(
    ([title, settings]) => {
      const isSame = (key: string) => key in base && row(key, base[key]!) === row(key, settings[key]!);
      same.push(...Object.keys(settings).filter(isSame));
      const own = Object.fromEntries(Object.entries(settings).filter(([key]) => !isSame(key)));
      return Object.keys(own).length === 0
        ? []
        : [`### ${title}${command === "train" ? "" : ` (${command})`}\n\n${table(own)}`];
    },
  );
  const rest =
    command === "train" || command === "plan"
      ? []
      : [`As in \`train\`: ${same.map((key) => `\`${key}\``).join(", ")}.`];
  return [`## ${command}`, commands[command], ...rest, ...parts].join("\n\n");
}

/** The text of docs/settings.md. */
export const settingsPage = (): string =>
  `${[head, ...(Object.keys(commands) as CommandName[]).map(describe)].join("\n\n")}\n`;

if (import.meta.main) writeFileSync(join(import.meta.dir, "../docs/settings.md"), settingsPage());
