/**
 * `grpo data convert | info | download`: makes Arrow files, looks into datasets as `train` would, and fetches one from the
 * hub. Reading rows for training is no part of it (src/data).
 */
import { existsSync, mkdirSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { z } from "zod";
import { requireFreeFile } from "../checkpoint/output-folder.ts";
import { nearest } from "../config/nearest.ts";
import { datasetSettings } from "../config/settings/data.ts";
import { list, text } from "../config/settings/kinds.ts";
import { fileOverwriteSettings } from "../config/settings/output.ts";
import { type Example, exampleAt, findColumns } from "../data/columns.ts";
import { convertToArrow } from "../data/convert.ts";
import type { Dataset } from "../data/dataset.ts";
import { downloadDataset } from "../data/download.ts";
import { knownDatasets } from "../data/known.ts";
import { loadDataset } from "../data/load.ts";
import { errorText, InputError } from "../errors.ts";
import type { Message } from "../message.ts";
import type { Command } from "./command.ts";
import { describeFlags, readFlags } from "./flags.ts";

const convertSettings = {
  columns: list(z.string().min(1))`The columns to keep. null: all.`,
  dataset_split: datasetSettings.dataset_split,
  ...fileOverwriteSettings,
};

const infoSettings = {
  dataset_config: datasetSettings.dataset_config,
  dataset_split: datasetSettings.dataset_split,
  prompt_column: datasetSettings.prompt_column,
  answer_column: datasetSettings.answer_column,
};

const downloadSettings = {
  config: text(null, "NAME")`The configuration, if the dataset has several. null: main, default, or the only one.`,
  revision: text(null, "NAME")`Branch, tag or commit; the same as NAME in org/data@NAME. null: the default branch.`,
  output_dir: text(null, "FOLDER")`Folder for the dataset. null: its name, with -- for the slash.`,
};

type Subcommand = (argv: readonly string[]) => Promise<void>;
const subcommands: Readonly<Record<string, Subcommand>> = { convert, info, download };

export const data: Command = {
  flags: { ...convertSettings, ...infoSettings, ...downloadSettings },
  words: ["convert", "info", "download"],
  usage: `Usage: grpo data convert IN OUT.arrow [--columns a,b]
       grpo data info DATASET
       grpo data download NAME [--output_dir FOLDER]

convert reads JSON Lines or a JSON array (.gz and .zst too), Parquet, or Arrow (a file, or a folder saved by datasets)
and writes an Arrow stream, as datasets does. Types and values are preserved; a column for which that is impossible is
refused by name. info shows the number of rows, the columns with their types, and what train would take as prompt and
answer. download fetches a dataset from the Hugging Face hub, by its id (owner/name, owner/name@revision) or a short name
(${Object.keys(knownDatasets).join(", ")}), and saves it as datasets' save_to_disk does; it prints where it is from and its licence.
HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are respected.

convert
${describeFlags(convertSettings)}
info
${describeFlags(infoSettings)}
download
${describeFlags(downloadSettings)}
Example: grpo data convert gsm8k.jsonl.gz gsm8k.arrow && grpo data info gsm8k.arrow
         grpo data download gsm8k`,
  async run([word, ...rest]) {
    const names = Object.keys(subcommands);
    if (word === undefined) throw new InputError(`say what to do: ${names.join(", ")}; see grpo data --help`);
    if (!Object.hasOwn(subcommands, word)) {
      const guess = nearest(word, names);
      const cure = guess === undefined ? `there are ${names.join(", ")}` : `did you mean ${guess}?`;
      throw new InputError(`${JSON.stringify(word)} is not a subcommand of data; ${cure}`);
    }
    await subcommands[word]!(rest);
  },
};

const out = (text: string) => process.stdout.write(`${text}\n`);
const note = (text: string) => process.stderr.write(`${text}\n`);

async function convert(argv: readonly string[]): Promise<void> {
  const { flags, positionals } = readFlags("data convert", convertSettings, argv, ["IN", "OUT.arrow"]);
  const [input, output] = positionals as [string, string];
  if (existsSync(output) && statSync(output).isDirectory())
    throw new InputError(
      `${output}: a folder; name the file to write, such as ${output.replace(/\/$/, "")}/data.arrow`,
    );
  requireFreeFile(output, flags.overwrite, { IN: input }, "OUT");
  const start = performance.now();
  mkdirSync(dirname(output), { recursive: true });
  const result = await convertToArrow(input, output, {
    columns: flags.columns ?? undefined,
    split: flags.datasetSplit,
    onRows: progress(),
  });
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  const { format, rows, batches, byteLength } = result;
  out(
    `${output}: ${counted(rows, "row")} from ${format}, ${counted(batches, "batch")}, ${size(byteLength)}, ${seconds} s`,
  );
}

/** A line that counts rows, where someone watches. */
function progress(): ((rows: number) => void) | undefined {
  if (!process.stderr.isTTY) return undefined;
  let shown = 0;
  return (rows) => {
    if (performance.now() - shown < 200) return;
    shown = performance.now();
    process.stderr.write(`\r${rows} rows\r`);
  };
}

async function info(argv: readonly string[]): Promise<void> {
  const { flags, positionals } = readFlags("data info", infoSettings, argv, ["DATASET"]);
  const dataset = await loadDataset(positionals[0]!, {
    config: flags.datasetConfig,
    split: flags.datasetSplit,
    onProgress: note,
  });
  try {
    for (const line of description(dataset, flags.promptColumn, flags.answerColumn)) out(line);
  } finally {
    dataset.close();
  }
}

function description(dataset: Dataset, promptColumn: string | null, answerColumn: string | null): string[] {
  const { shards, columns, numRows } = dataset;
  const bytes = shards.reduce((sum, shard) => sum + shard.byteLength, 0);
  const batches = shards.reduce((sum, shard) => sum + shard.numBatches, 0);
  const formats = [...new Set(shards.map((shard) => `Arrow ${shard.format}`))].join(", ");
  const width = Math.max(0, ...columns.map(({ name }) => name.length));
  return [
    dataset.path,
    `  ${counted(numRows, "row")} in ${counted(batches, "batch")}, ${counted(shards.length, "file")}, ${size(bytes)}, ${formats}`,
    ...columns.map(({ name, type, unread }) => `  ${name.padEnd(width)}  ${type}${unread ? ` (${unread})` : ""}`),
    ...usage(dataset, promptColumn, answerColumn),
  ];
}

/** What train would do with it; a dataset that is no use for training can be looked into all the same. */
function usage(dataset: Dataset, promptColumn: string | null, answerColumn: string | null): string[] {
  try {
    const found = findColumns(dataset, { promptColumn, answerColumn });
    const lines = [
      `prompt from ${found.prompt.name}, gold answer from ${found.gold?.name ?? "(no column)"}`,
      ...found.remarks.map((remark) => `note: ${remark}`),
    ];
    return dataset.numRows === 0 ? lines : [...lines, ...shown(exampleAt(dataset, found, 0))];
  } catch (error) {
    if (!(error instanceof InputError) || promptColumn !== null || answerColumn !== null) throw error;
    return [`not ready for training: ${errorText(error)}`];
  }
}

function shown({ prompt, promptKind, gold }: Example): string[] {
  const messages = typeof prompt === "string" ? [prompt] : prompt.map(messageText);
  const kind = promptKind === "chat" ? "through the chat template" : "as plain text";
  return [
    `first example (${kind}):`,
    ...messages.flatMap((text) => clean(text).map((line) => `  ${line}`)),
    `  gold: ${gold === null ? "(none)" : clean(gold).join(" ")}`,
  ];
}

/** A message that calls tools need not say anything. */
function messageText({ role, content, tool_calls: calls }: Message): string {
  return `${role}: ${content ?? `(calls ${JSON.stringify(calls, (_, value) => (typeof value === "bigint" ? Number(value) : value))})`}`;
}

/** Long texts cut, and nothing in them that a terminal would obey. */
function clean(text: string): string[] {
  const cut = text.length > 600 ? `${text.slice(0, 600)}…` : text;
  return cut.split(/\r?\n/).map((line) => line.replace(/\p{Cc}/gu, (c) => (c === "\t" ? "  " : "\uFFFD")));
}

async function download(argv: readonly string[]): Promise<void> {
  const { flags, positionals } = readFlags("data download", downloadSettings, argv, ["NAME"]);
  const asked = positionals[0]!;
  const known = Object.hasOwn(knownDatasets, asked.toLowerCase()) ? knownDatasets[asked.toLowerCase()]! : null;
  const name = known?.id ?? asked;
  const folder = flags.outputDir ?? asked.replaceAll("/", "--");
  const config = flags.config ?? known?.config ?? null;
  const { revision } = flags;
  const { splits, source, licence } = await downloadDataset(name, folder, { config, revision, onProgress: note });
  if (known !== null) out(known.title);
  out(`${source}; licence: ${licence ?? known?.licence ?? "its card names none"}`);
  for (const split of splits)
    out(`${folder}: ${split.name}, ${counted(split.rows, "row")} in ${counted(split.files, "file")}`);
  out(`use it with: --dataset ${folder}`);
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : what.endsWith("ch") ? "es" : "s"}`;
}

function size(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}
