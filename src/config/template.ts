/** A configuration file to start from: the chosen settings, and as comments those that are changed most, each explained. */
import { kindOf, unwrap } from "./allowed.ts";
import { type CommandName, commandSections, type SettingTypes } from "./schema.ts";

/** What a newcomer looks for first, in the order of the sections. */
const shown = new Set([
  ..."model device dtype dataset prompt_column answer_column system_prompt reward_funcs num_generations".split(" "),
  ..."max_completion_length temperature max_concurrent_sequences per_device_train_batch_size".split(" "),
  ..."gradient_accumulation_steps max_steps num_train_epochs micro_batch_tokens gradient_checkpointing".split(" "),
  ..."preset loss_type beta learning_rate lr_scheduler_type eval_dataset eval_steps eval_samples".split(" "),
  ..."output_dir save_steps save_total_limit".split(" "),
]);

const width = 100;

/** A value as TOML; what has no form there (null, a default that is absent) is left to the comment. */
function tomlValue(value: unknown): string | null {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "boolean" || typeof value === "number") return tomlNumber(value);
  if (Array.isArray(value)) return `[${value.map(tomlValue).join(", ")}]`;
  return null;
}

const tomlNumber = (value: number | boolean): string =>
  typeof value === "number" && value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential() : String(value);

function comment(text: string): string[] {
  const lines: string[] = [];
  let line = "#";
  for (const word of text.split(" ")) {
    if (line.length + 1 + word.length > width) {
      lines.push(line);
      line = "#";
    }
    line += ` ${word}`;
  }
  return [...lines, line];
}

/** An example of a value, for a setting that has none by default. */
function example(setting: SettingTypes[string]): string {
  const kind = kindOf(setting);
  if (kind === "number") return String([1, 10, 100, 1000].find((value) => setting.safeParse(value).success) ?? 1);
  return kind === "list" ? '["…"]' : '"…"';
}

/**
 * @param chosen values by their snake_case names
 * @param head lines of the comment at the top
 */
export function configTemplate(
  command: CommandName,
  chosen: Readonly<Record<string, unknown>>,
  head: readonly string[],
): string {
  const lines = head.map((line) => (line === "" ? "#" : `# ${line}`));
  for (const [title, settings] of Object.entries(commandSections[command]) as [string, SettingTypes][]) {
    const entries = Object.entries(settings).filter(([key]) => shown.has(key) || Object.hasOwn(chosen, key));
    if (entries.length === 0) continue;
    lines.push("", `# ${title} ${"─".repeat(Math.max(4, 60 - title.length))}`);
    for (const [key, setting] of entries) {
      const value = Object.hasOwn(chosen, key) ? tomlValue(chosen[key]) : null;
      const fallback = tomlValue(unwrap(setting).fallback) ?? example(setting);
      lines.push(
        "",
        ...comment(setting.description ?? ""),
        value === null ? `# ${key} = ${fallback}` : `${key} = ${value}`,
      );
    }
  }
  return `${lines.join("\n")}\n`;
}
