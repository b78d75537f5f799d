/**
 * The kinds of input: which files a case damages and how, the command lines that read them, and the known properties of the
 * result when the program gives one. A kind's folder of valid files is made in inputs.ts.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { readAdapterConfig } from "../../src/checkpoint/adapter.ts";
import { openSafetensors } from "../../src/checkpoint/safetensors.ts";
import { openDataset } from "../../src/data/dataset.ts";
import { parseModelConfig } from "../../src/families/families.ts";
import type { MetricsRecord } from "../../src/metrics/metrics-file.ts";
import { fingerprint, untimed } from "../e2e/runs.ts";
import type { Ended } from "./here.ts";
import { onCpu, trainingFlags } from "./inputs.ts";
import { byteDamage } from "./mutate/bytes.ts";
import { arrowDamage, parquetDamage, safetensorsDamage, safetensorsNeutral, streamNeutral } from "./mutate/formats.ts";
import { jsonDamage, jsonLinesDamage, jsonLinesNeutral, jsonNeutral, unknownKey } from "./mutate/json.ts";
import { type Mutation, places } from "./mutate/mutation.ts";
import { settingsDamage, settingsNeutral, yamlDamage, yamlNeutral } from "./mutate/settings.ts";
import { templateDamage, templateNeutral, templateWithin } from "./mutate/text.ts";

/** The folders of a case. */
export interface Folders {
  /** All valid inputs; never changed. */
  readonly sound: string;
  /** The kind's files, some of them damaged. */
  readonly input: string;
  /** Empty at first; all output goes here. */
  readonly output: string;
}

export interface Kind {
  readonly name: string;
  /** Number of its cases relative to other kinds. */
  readonly weight?: number;
  /** The files that may be damaged, within the kind's folder; one per case. */
  readonly damages: readonly { readonly file: string; readonly mutations: readonly Mutation[] }[];
  /** Command lines, run until one fails. `file` is the damaged one. */
  commands(folders: Folders, file: string): readonly (readonly string[])[];
  /** The commands' results, without values that vary between runs. */
  result(folders: Folders, ended: readonly Ended[], file: string): unknown;
  /** Checks a result whatever the damage; returns a sentence if it is wrong. `sound`: the result for valid files. */
  wrong?(result: unknown, folders: Folders, sound: unknown, file: string): string | null;
  /** The part of the files that the commands read: if it is equal, so must the result be. Throws if it cannot be determined. */
  essence?(folders: Folders, file: string): unknown;
  /** Names other than the damaged file's that a refusal may give: those of files that do not match it. */
  readonly names?: RegExp;
  /** A refusal reports all errors at once, one line for each. */
  readonly manyLines?: boolean;
  /** Correct messages with exit status 1: the file is valid in form, but gives no numbers. */
  readonly fails?: RegExp;
  /** Files of the input folder that the commands are meant to change. */
  readonly changes?: RegExp;
}

const jsonLines = (path: string): unknown[] =>
  readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => JSON.parse(line));

const score = ({ sound, output }: Folders, model: string, rollouts = join(sound, "rollouts.jsonl")) => [
  ...["score", "--model", model, "--input", rollouts, "--output", join(output, "scores.jsonl"), ...onCpu],
];
const generate = ({ sound, output }: Folders, model: string, prompts = join(sound, "prompts.jsonl")) => [
  ...["generate", "--model", model, "--input", prompts, "--output", join(output, "texts.jsonl")],
  ...["--max_completion_length", "3", "--temperature", "0", ...onCpu],
];

interface Scores {
  readonly logprobs: (number | null)[];
  readonly entropies: (number | null)[];
}

const scores = ({ output }: Folders) => jsonLines(join(output, "scores.jsonl")) as Scores[];

/** Log-probabilities, one per token. */
function wrongScores(result: unknown, lengths: readonly number[]): string | null {
  const all = result as Scores[];
  if (all.length !== lengths.length) return `${all.length} scores for ${lengths.length} completions`;
  for (const [i, { logprobs, entropies }] of all.entries()) {
    if (logprobs.length !== lengths[i] || entropies.length !== lengths[i])
      return `score ${i} has ${logprobs.length} numbers for ${lengths[i]} tokens`;
    const odd = [...logprobs.map((x) => x !== null && x <= 1e-4), ...entropies.map((x) => x !== null && x >= -1e-4)];
    if (odd.includes(false)) return `score ${i} is not a log-probability: ${JSON.stringify(all[i])}`;
  }
  return null;
}

interface Row {
  readonly prompt_ids: number[];
  readonly completion_ids: number[];
}
const lengthsOf = (path: string) => (jsonLines(path) as Row[]).map((row) => row.completion_ids.length);
const soundLengths = ({ sound }: Folders) => lengthsOf(join(sound, "rollouts.jsonl"));

/** Every tensor of a file by name, type, shape and bytes. */
function tensorsOf(path: string): unknown {
  const file = openSafetensors(path);
  try {
    return [...file.tensors.values()]
      .map((t) => [t.name, t.dtype, t.shape, Bun.hash(bytesAt(t.address, t.byteLength)).toString(16)])
      .sort(([a], [b]) => (String(a) < String(b) ? -1 : 1));
  } finally {
    file.close();
  }
}

interface Texts {
  readonly completions: { text: string; tokens: number }[];
}
const texts = ({ output }: Folders) => jsonLines(join(output, "texts.jsonl")) as Texts[];

function wrongTexts(result: unknown, prompts: number): string | null {
  const all = result as Texts[];
  if (all.length !== prompts) return `${all.length} lines for ${prompts} prompts`;
  const odd = all.find(({ completions: [one] }) => typeof one?.text !== "string" || one.tokens < 1 || one.tokens > 3);
  return odd === undefined ? null : `a completion that cannot be: ${JSON.stringify(odd)}`;
}

/** Rows and columns of a converted file; bigints as text. */
function table({ output }: Folders): { columns: unknown; rows: unknown[] } {
  const dataset = openDataset(join(output, "rows.arrow"));
  try {
    const rows = Array.from({ length: dataset.numRows }, (_, i) => dataset.row(i));
    const plain = JSON.stringify(rows, (_, value) => (typeof value === "bigint" ? `${value}n` : value));
    return { columns: dataset.columns, rows: JSON.parse(plain) as unknown[] };
  } finally {
    dataset.close();
  }
}

const convert = ({ input, output }: Folders, file: string, ...more: string[]) => [
  ...["data", "convert", join(input, file), join(output, "rows.arrow"), ...more],
];
const parquetColumns = "question,answer,level,big,score,easy,tags,messages,day,counts";

/** JSON rows against the converted table: every value of the text is in the table. */
function wrongRows(result: unknown, text: string): string | null {
  const { rows } = result as { rows: Record<string, unknown>[] };
  let expected: Record<string, unknown>[];
  try {
    const lines = text.trimStart().startsWith("[") ? null : text.split("\n").filter((line) => line.trim() !== "");
    expected = lines === null ? JSON.parse(text) : lines.map((line) => JSON.parse(line));
  } catch (error) {
    return `converted invalid JSON (${error})`;
  }
  if (rows.length !== expected.length) return `${rows.length} rows of ${expected.length}`;
  for (const [i, row] of expected.entries())
    for (const [key, value] of Object.entries(row))
      if (!agrees(value, rows[i]![key])) return `row ${i}, ${key}: ${short(rows[i]![key])} for ${short(value)}`;
  return null;
}

const short = (value: unknown) => (JSON.stringify(value) ?? "nothing").slice(0, 80);

/** Objects of a column get each other's fields, and a number past 2^53 is not exact as a double. */
function agrees(given: unknown, found: unknown): boolean {
  if (given === null || given === undefined) return found === null || found === undefined;
  if (typeof given === "number")
    return Math.abs(given) >= 2 ** 53 || !Number.isFinite(given) || Number(found) === given;
  if (typeof given === "string") return found === given.toWellFormed();
  if (typeof given !== "object") return found === given;
  if (typeof found !== "object" || found === null) return false;
  if (Array.isArray(given))
    return Array.isArray(found) && found.length === given.length && given.every((item, i) => agrees(item, found[i]));
  return Object.entries(given).every(([key, value]) => agrees(value, (found as Record<string, unknown>)[key]));
}

/** Metrics without those that depend on the machine's speed, and a hash of the weights. */
const trained = (folder: string): unknown => ({
  metrics: untimed(jsonLines(join(folder, "metrics.jsonl")) as MetricsRecord[]),
  weights: fingerprint(folder, "model.safetensors"),
});

/** Every value of the last line is a number or null. */
function wrongTraining(result: unknown): string | null {
  const { metrics } = result as { metrics: Record<string, unknown>[] };
  const last = metrics.at(-1);
  if (last === undefined) return "no metrics";
  return Number.isFinite(last.grad_norm) && Number.isFinite(last.loss) ? null : `loss ${last.loss}, ${last.grad_norm}`;
}

/** The plan without the machine's free memory. */
function planned(ended: readonly Ended[]): unknown {
  const lines = ended.at(-1)!.out.split("\n").slice(1);
  return lines.filter((line) => !/^(free|program|peak)/.test(line));
}

/** Weights that overflow, or are NaN, end a run with exit status 1. */
const brokenNumbers = /the (model's output|output of .*) is broken|has numbers that are not finite|gradient norm is/;

const json = [...jsonDamage, ...byteDamage, ...places];
const harmlessJson = [...jsonNeutral, unknownKey];

export const kinds: readonly Kind[] = [
  {
    name: "weights",
    fails: brokenNumbers,
    weight: 2,
    damages: [{ file: "model/model.safetensors", mutations: [...safetensorsDamage, ...safetensorsNeutral, ...places] }],
    commands: (folders) => [score(folders, join(folders.input, "model"))],
    result: scores,
    wrong: (result, folders) => wrongScores(result, soundLengths(folders)),
    essence: ({ input }) => tensorsOf(join(input, "model/model.safetensors")),
  },
  {
    name: "shards",
    fails: brokenNumbers,
    damages: [
      { file: "model/model.safetensors.index.json", mutations: [...json, ...harmlessJson] },
      { file: "model/model-00001-of-00002.safetensors", mutations: [...safetensorsDamage, ...places] },
    ],
    commands: (folders) => [score(folders, join(folders.input, "model"))],
    result: scores,
    wrong: (result, folders) => wrongScores(result, soundLengths(folders)),
    essence: ({ input }) => [1, 2].map((i) => tensorsOf(join(input, `model/model-0000${i}-of-00002.safetensors`))),
  },
  {
    name: "config",
    names: /(rollouts|prompts)\.jsonl:/,
    fails: brokenNumbers,
    weight: 3,
    damages: [{ file: "model/config.json", mutations: [...json, ...harmlessJson] }],
    commands: (folders) => [score, generate].map((command) => command(folders, join(folders.input, "model"))),
    result: (folders) => ({ scores: scores(folders), texts: texts(folders) }),
    wrong(result, folders) {
      const { scores, texts } = result as { scores: unknown; texts: unknown };
      return wrongScores(scores, soundLengths(folders)) ?? wrongTexts(texts, 2);
    },
    essence({ input }) {
      const path = join(input, "model/config.json");
      const config = parseModelConfig(JSON.parse(readFileSync(path, "utf8")), path);
      return { ...config, layer: config.layer(0), raw: null };
    },
  },
  {
    name: "adapter",
    fails: brokenNumbers,
    damages: [
      { file: "model/adapter_config.json", mutations: [...json, ...harmlessJson] },
      {
        file: "model/adapter_model.safetensors",
        mutations: [...safetensorsDamage, ...safetensorsNeutral, ...places],
      },
    ],
    commands: (folders) => [score(folders, join(folders.input, "model"))],
    result: scores,
    wrong: (result, folders) => wrongScores(result, soundLengths(folders)),
    essence: ({ input }) => [
      { ...readAdapterConfig(join(input, "model")), path: null },
      tensorsOf(join(input, "model/adapter_model.safetensors")),
    ],
  },
  {
    name: "models",
    damages: ["reference", "reward", "critic"].flatMap((model) => [
      { file: `${model}/config.json`, mutations: [...json, ...harmlessJson] },
      { file: `${model}/model.safetensors`, mutations: [...safetensorsDamage, ...places] },
    ]),
    commands: ({ sound, input }) => [
      [
        ...["plan", "--model", join(sound, "model"), "--dataset", join(sound, "problems.arrow")],
        ...["--ref_model", join(input, "reference"), "--beta", "0.1", "--reward_funcs", join(input, "reward")],
        ...["--critic_model", join(input, "critic"), "--advantage_estimator", "gae"],
        ...["--max_completion_length", "8", ...onCpu],
      ],
    ],
    result: (_, ended) => planned(ended),
  },
  {
    name: "tokenizer",
    names: /prompts\.jsonl: line \d/,
    weight: 3,
    damages: [
      { file: "model/tokenizer.json", mutations: [...json, ...harmlessJson] },
      {
        file: "model/tokenizer_config.json",
        mutations: [...json, ...harmlessJson, ...templateWithin([...templateDamage, ...templateNeutral])],
      },
      { file: "model/special_tokens_map.json", mutations: json },
      { file: "model/generation_config.json", mutations: [...json, ...harmlessJson] },
    ],
    commands: (folders) => [generate(folders, join(folders.input, "model"))],
    result: texts,
    wrong: (result) => wrongTexts(result, 2),
  },
  {
    name: "template",
    names: /prompts\.jsonl: line \d/,
    weight: 2,
    damages: [
      {
        file: "model/chat_template.jinja",
        mutations: [...templateDamage, ...templateDamage, ...templateNeutral, ...byteDamage, ...places],
      },
    ],
    commands: (folders) => [generate(folders, join(folders.input, "model"))],
    result: texts,
    wrong: (result) => wrongTexts(result, 2),
  },
  {
    name: "prompts",
    damages: [
      { file: "prompts.jsonl", mutations: [...jsonLinesDamage, ...jsonLinesNeutral, ...byteDamage, ...places] },
    ],
    commands: (folders) => [generate(folders, join(folders.sound, "model"), join(folders.input, "prompts.jsonl"))],
    result: texts,
    wrong: (result, { input }) => wrongTexts(result, jsonLines(join(input, "prompts.jsonl")).length),
  },
  {
    name: "rollouts",
    weight: 2,
    damages: [
      { file: "rollouts.jsonl", mutations: [...jsonLinesDamage, ...jsonLinesNeutral, ...byteDamage, ...places] },
      { file: "packed.jsonl.gz", mutations: [...byteDamage, ...places] },
    ],
    commands: (folders, file) => [score(folders, join(folders.sound, "model"), join(folders.input, file))],
    result: scores,
    wrong(result, { input, sound }, whole, file) {
      const path = join(input, file);
      if (file.endsWith(".gz")) return null;
      const wrong = wrongScores(result, lengthsOf(path));
      if (wrong !== null) return wrong;
      // A row's numbers have the same bits whatever else is in the batch.
      const known = new Map(
        (jsonLines(join(sound, "rollouts.jsonl")) as Row[]).map((row, i) => [
          JSON.stringify([row.prompt_ids, row.completion_ids]),
          JSON.stringify((whole as Scores[])[i]),
        ]),
      );
      for (const [i, row] of (jsonLines(path) as Row[]).entries()) {
        const before = known.get(JSON.stringify([row.prompt_ids, row.completion_ids]));
        const now = JSON.stringify((result as Scores[])[i]);
        if (before !== undefined && before !== now) return `line ${i + 1}: ${now} where it was ${before}`;
      }
      return null;
    },
  },
  {
    name: "update",
    damages: [{ file: "rollouts.jsonl", mutations: [...jsonLinesDamage, ...jsonLinesNeutral] }],
    commands: ({ sound, input, output }) => [
      [
        ...["update", "--model", join(sound, "model"), "--rollouts", join(input, "rollouts.jsonl")],
        ...["--output_dir", join(output, "run"), "--beta", "0", ...onCpu],
      ],
    ],
    result: ({ output }) => trained(join(output, "run")),
    wrong: wrongTraining,
  },
  ...(["stream", "file", "packed"] as const).map(
    (form): Kind => ({
      name: `arrow-${form}`,
      weight: 2,
      damages: [
        {
          file: `${form}.arrow`,
          mutations: [...arrowDamage, ...arrowDamage, ...(form === "file" ? [] : streamNeutral), ...places],
        },
      ],
      commands: (folders, file) => [["data", "info", join(folders.input, file)], convert(folders, file)],
      result: table,
      wrong(result, { input }, _, file) {
        // Another way to the same rows: reading and converting give the same.
        const dataset = openDataset(join(input, file));
        const { numRows } = dataset;
        dataset.close();
        const { rows } = result as { rows: unknown[] };
        return rows.length === numRows ? null : `${rows.length} rows of ${numRows}`;
      },
    }),
  ),
  {
    name: "parquet",
    weight: 3,
    damages: [{ file: "rows.parquet", mutations: [...parquetDamage, ...places] }],
    commands: (folders, file) => [convert(folders, file, "--columns", parquetColumns)],
    result: table,
  },
  {
    name: "json",
    weight: 2,
    damages: [
      { file: "rows.jsonl", mutations: [...jsonLinesDamage, ...jsonLinesNeutral, ...byteDamage, ...places] },
      { file: "rows.json", mutations: [...json, ...jsonNeutral] },
      { file: "rows.jsonl.zst", mutations: [...byteDamage, ...places] },
    ],
    commands: (folders, file) => [convert(folders, file)],
    result: table,
    wrong(result, { input }, _, file) {
      if (file.endsWith(".zst")) return null;
      const bytes = readFileSync(join(input, file));
      return wrongRows(result, new TextDecoder().decode(bytes));
    },
  },
  {
    name: "state",
    fails: brokenNumbers,
    weight: 2,
    damages: [
      { file: "checkpoint-1/trainer_state.json", mutations: [...json, ...jsonNeutral, ...json, ...jsonNeutral] },
      {
        file: "checkpoint-1/optimizer.safetensors",
        mutations: [...safetensorsDamage, ...safetensorsNeutral, ...places],
      },
      { file: "checkpoint-1/model.safetensors", mutations: safetensorsDamage },
    ],
    commands: ({ sound, input, output }) => [
      [
        ...["update", "--model", join(sound, "model"), "--rollouts", join(sound, "rollouts.jsonl"), "--beta", "0"],
        ...["--resume_from_checkpoint", join(input, "checkpoint-1"), "--output_dir", join(output, "run"), ...onCpu],
      ],
    ],
    result: ({ output }) => trained(join(output, "run")),
    wrong: wrongTraining,
  },
  {
    name: "resume",
    damages: [
      { file: "run/metrics.jsonl", mutations: [...jsonLinesDamage, ...byteDamage, ...places] },
      { file: "run/checkpoint-2/trainer_state.json", mutations: [...json, ...jsonNeutral] },
      { file: "run/checkpoint-2/config.json", mutations: json },
    ],
    commands: ({ sound, input }) => [
      [
        "train",
        ...trainingFlags(sound),
        "--output_dir",
        join(input, "run"),
        "--resume_from_checkpoint",
        "true",
        ...onCpu,
      ],
    ],
    result: ({ input }) => (existsSync(join(input, "run/metrics.jsonl")) ? trained(join(input, "run")) : null),
    changes: /^run\//,
  },
  {
    name: "settings",
    // A setting and its value, whatever its source.
    names: /\w+_\w+ \d+|^grpo plan: [a-z_]+: |no such (?:file or )?folder|holds no config\.json|cannot be read/,
    manyLines: true,
    weight: 2,
    damages: [
      { file: "settings.toml", mutations: [...settingsDamage, ...settingsNeutral, ...byteDamage, ...places] },
      { file: "settings.yaml", mutations: [...yamlDamage, ...yamlNeutral, ...byteDamage, ...places] },
      { file: "settings.json", mutations: [...json, ...jsonNeutral] },
    ],
    commands: ({ input }, file) => [["plan", join(input, file), ...onCpu]],
    result: (_, ended) => planned(ended),
  },
];
