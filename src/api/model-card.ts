/**
 * The model card of a run: README.md with the metadata that the hub reads, made of what the run has written (run.json,
 * metrics.jsonl). Names no path of this machine and no secret. A card that its user has changed stays.
 */
import { existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };
import { metricsFile, type RunRecord, runRecord } from "../checkpoint/held.ts";
import { type CommandName, commandSections, settingsOf } from "../config/schema.ts";
import { withoutTokens } from "../errors.ts";
import { datasetName, hubName } from "../hub/names.ts";
import type { MetricsRecord } from "../metrics/metrics-file.ts";
import { commit } from "../program.ts";

/** Who keeps the text and takes this line out keeps the card. */
const marker = "<!-- Written by grpo, and again by each push. Remove this line to keep changes. -->";

/** Shown steps of the curve's table. */
const TABLE_ROWS = 10;
/** Columns of the curve. */
const CURVE_WIDTH = 60;

/** Settings that say where and how it ran, not what was made. */
const ofTheMachine =
  /^(output_dir|overwrite|resume_from_checkpoint|debug|dashboard.*|device|threads|preset|push_to_hub|hub_.*|log_.*|logging_steps|num_completions_to_print|save_.*)$/;

/**
 * @param folder with the run's records: the output folder
 * @param name of the repository
 * @param before the card that is there; null: none
 * @returns the card, or null: the user has written one of their own
 */
export function modelCard(folder: string, name: string, before: string | null): string | null {
  if (before !== null && !before.includes(marker)) return null;
  const run = runRecord(folder);
  const records = recordsOf(folder);
  const body = [
    frontMatter(run),
    marker,
    `# ${basename(name)}`,
    summary(run, records),
    use(name),
    ...curve(run, records),
    ...evaluation(records),
    ...settings(run),
    versions(run),
  ];
  return withoutTokens(`${body.join("\n\n")}\n`);
}

function recordsOf(folder: string): MetricsRecord[] {
  const path = join(folder, metricsFile);
  if (!existsSync(path)) return [];
  return readFileSync(path, "utf8")
    .split("\n")
    .flatMap((line) => {
      try {
        return [JSON.parse(line) as MetricsRecord];
      } catch {
        return []; // Empty, or cut off by a crash.
      }
    });
}

/** A name on the hub, without its revision; null: a path, or none. */
function hubId(value: unknown, parse: typeof hubName): string | null {
  return typeof value === "string" && !existsSync(value) ? (parse(value)?.id ?? null) : null;
}

const baseOf = (run: RunRecord | null): string | null => hubId(run?.settings.model, hubName);
const datasetOf = (run: RunRecord | null): string | null => hubId(run?.settings.dataset, datasetName);

function methodOf(run: RunRecord | null): string {
  if (run?.command === "sft") return "sft";
  const estimator = run?.settings.advantage_estimator;
  return estimator === "gae" ? "ppo" : typeof estimator === "string" ? estimator : "grpo";
}

const yaml = (value: string): string => (/^[\w./-]+$/.test(value) ? value : JSON.stringify(value));

function frontMatter(run: RunRecord | null): string {
  const [base, dataset, method] = [baseOf(run), datasetOf(run), methodOf(run)];
  return [
    "---",
    ...(base === null ? [] : [`base_model: ${yaml(base)}`]),
    ...(dataset === null ? [] : ["datasets:", `- ${yaml(dataset)}`]),
    `library_name: ${run?.settings.use_peft === true ? "peft" : "transformers"}`,
    "pipeline_tag: text-generation",
    "tags:",
    ...[...new Set([method, ...(method === "sft" ? [] : ["grpo", "reinforcement-learning"]), "bun-grpo"])].map(
      (tag) => `- ${tag}`,
    ),
    "---",
  ].join("\n");
}

const linked = (id: string, prefix = ""): string => `[${id}](https://huggingface.co/${prefix}${id})`;

function summary(run: RunRecord | null, records: readonly MetricsRecord[]): string {
  const [base, dataset, method] = [baseOf(run), datasetOf(run), methodOf(run).toUpperCase()];
  const steps = Math.max(0, ...records.map(({ step }) => step));
  const from = base === null ? "" : ` from ${linked(base)}`;
  const on = dataset === null ? "" : ` on ${linked(dataset, "datasets/")}`;
  const how = steps === 0 ? "" : `, ${steps} optimizer steps`;
  return `Trained with ${method}${from}${on}${how}, by [bun-grpo](https://www.npmjs.com/package/bun-grpo).`;
}

function use(name: string): string {
  return [
    "```python",
    "from transformers import pipeline",
    "",
    `generator = pipeline("text-generation", model=${JSON.stringify(name)})`,
    'print(generator([{"role": "user", "content": "What is 12 + 30?"}], max_new_tokens=256)[0]["generated_text"])',
    "```",
  ].join("\n");
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}

const shown = (value: unknown): string =>
  typeof value !== "number" ? "" : Number.isInteger(value) ? String(value) : value.toPrecision(4);

/** A table of some columns; those that no row has are left out. */
function columnsOf(records: readonly MetricsRecord[], columns: readonly (readonly [key: string, head: string])[]) {
  const present = columns.filter(([key]) => records.some((record) => typeof record[key] === "number"));
  return table(
    ["step", ...present.map(([, head]) => head)],
    records.map((record) => [String(record.step), ...present.map(([key]) => shown(record[key]))]),
  );
}

/** The reward (of sft, the loss) over the steps: a line of bars, and a table. */
function curve(run: RunRecord | null, records: readonly MetricsRecord[]): string[] {
  const key = run?.command === "sft" ? "loss" : "reward";
  const steps = records.filter((record) => typeof record[key] === "number");
  if (steps.length === 0) return [];
  const picked = Array.from(
    { length: Math.min(TABLE_ROWS, steps.length) },
    (_, i, last = Math.min(TABLE_ROWS, steps.length) - 1) =>
      steps[last === 0 ? 0 : Math.round((i * (steps.length - 1)) / last)]!,
  );
  const values = steps.map((record) => record[key] as number);
  return [
    `## ${key === "loss" ? "Loss" : "Reward"}`,
    `\`\`\`text\n${bars(values)}\n${shown(Math.min(...values))} to ${shown(Math.max(...values))}, ${steps.length} steps from left to right\n\`\`\``,
    columnsOf(picked, [
      ["reward", "reward"],
      ["reward_std", "spread"],
      ["loss", "loss"],
      ["kl", "KL"],
      ["entropy", "entropy"],
      ["completions/mean_length", "mean length"],
    ]),
  ];
}

/** Means of equally many steps as bars of eight heights. */
function bars(values: readonly number[]): string {
  const width = Math.min(CURVE_WIDTH, values.length);
  const means = Array.from({ length: width }, (_, i) => {
    const part = values.slice(Math.floor((i * values.length) / width), Math.floor(((i + 1) * values.length) / width));
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  });
  const [low, high] = [Math.min(...means), Math.max(...means)];
  const height = (mean: number) => (high === low ? 3 : Math.round((7 * (mean - low)) / (high - low)));
  return means.map((mean) => "▁▂▃▄▅▆▇█"[height(mean)]).join("");
}

function evaluation(records: readonly MetricsRecord[]): string[] {
  const evaluated = records.filter((record) => Object.keys(record).some((key) => key.startsWith("eval_")));
  if (evaluated.length === 0) return [];
  const numbers = new Set(evaluated.flatMap((record) => Object.keys(record)).filter((key) => key.startsWith("eval_")));
  const heads = [...numbers].filter((key) => !/(std|_time|min_|max_)/.test(key)).slice(0, 6);
  const rows = evaluated.length <= TABLE_ROWS ? evaluated : [evaluated[0]!, ...evaluated.slice(1 - TABLE_ROWS)];
  return [
    "## Evaluation",
    columnsOf(
      rows,
      heads.map((key) => [key, key.slice("eval_".length)] as const),
    ),
  ];
}

/** Those that differ from the defaults, and all of them to unfold. */
function settings(run: RunRecord | null): string[] {
  if (run === null || !Object.hasOwn(commandSections, run.command)) return [];
  const types = settingsOf(run.command as CommandName);
  const kept = Object.entries(run.settings).filter(([key]) => Object.hasOwn(types, key) && !ofTheMachine.test(key));
  const rows = kept.map(([key, value]) => ({ key, text: settingText(value), own: !isDefault(types[key]!, value) }));
  const own = rows.filter((row) => row.own);
  const cells = (list: typeof rows) =>
    table(
      ["setting", "value"],
      list.map(({ key, text }) => [key, `\`${text}\``]),
    );
  return [
    "## Settings",
    own.length === 0 ? "All settings have their defaults." : cells(own),
    `<details><summary>All settings of grpo ${run.command}</summary>\n\n${cells(rows)}\n\n</details>`,
  ];
}

function isDefault(type: ReturnType<typeof settingsOf>[string], value: unknown): boolean {
  const parsed = type.safeParse(undefined);
  return parsed.success && JSON.stringify(parsed.data) === JSON.stringify(value);
}

/** Of a path, its last part: the rest says more about a machine than about a model. */
function settingText(value: unknown): string {
  const plain = (text: string) => (/^(\/|~|\.{1,2}\/)/.test(text) ? basename(text) : text);
  const parts = Array.isArray(value) ? value : [value];
  const texts = parts.map((part) => (typeof part === "string" ? plain(part) : JSON.stringify(part)));
  return texts
    .join(", ")
    .replace(/\s*\n\s*/g, " ")
    .replaceAll("`", "'")
    .replaceAll("|", "\\|");
}

function versions(run: RunRecord | null): string {
  const made = commit();
  const lines = [
    "## Versions",
    `bun-grpo ${packageJson.version}${made === null ? "" : ` (commit ${made})`}, Bun ${Bun.version}`,
  ];
  if (methodOf(run) === "grpo")
    lines.push("GRPO: Shao et al. 2024, [arXiv 2402.03300](https://arxiv.org/abs/2402.03300)");
  return lines.join("\n\n");
}
