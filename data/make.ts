/**
 * Regenerates everything in data/model and data/problems: `bun data/make.ts [STEP …]`, by default all steps.
 * Nothing is downloaded, every number comes from a seed. Intermediate files are in outputs/bundled.
 */
import { copyFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { assetPath } from "../src/assets.ts";
import { writeWeights } from "../src/checkpoint/safetensors-write.ts";
import { main } from "../src/cli/main.ts";
import { fieldOf } from "../src/data/arrow/types.ts";
import { createArrowWriter } from "../src/data/arrow/write.ts";
import { errorText } from "../src/errors.ts";
import { writeFileAtomic } from "../src/files/atomic.ts";
import { generationConfig, initialTensors, modelConfig, modelShape } from "./init-model.ts";
import { generateMixed } from "./mixed-answers.ts";
import { generateProblems, type Problem } from "./problems.ts";
import { buildVocabulary, tokenizerFiles } from "./tokenizer.ts";

/** Every constant of the recipe; data/README.md says how they were found. */
export const recipe = {
  evalProblems: { count: 300, seed: 1 },
  trainProblems: { count: 5000, seed: 2 },
  workedProblems: { count: 100_000, seed: 3 },
  mixedProblems: { count: 10_000, seed: 4 },
  vocabularySize: 432,
  weightsSeed: 5,
  /** First the procedure, then both ways of answering; a step is 64 problems. */
  sft: {
    both: {
      per_device_train_batch_size: 64,
      lr_scheduler_type: "linear",
      save_steps: 0,
      logging_steps: 20,
      dtype: "float32",
      device: "cpu",
    },
    worked: { max_steps: 1600, learning_rate: 0.005, warmup_steps: 50, seed: 6 },
    mixed: { max_steps: 120, learning_rate: 0.001, warmup_steps: 10, seed: 7 },
  },
} as const;

const modelFolder = assetPath("data/model");
const problemsFolder = assetPath("data/problems");
const workFolder = assetPath("outputs/bundled");
const initialFolder = join(workFolder, "initial");
const workedFolder = join(workFolder, "worked");
const mixedFolder = join(workFolder, "mixed");

const modelFiles = [
  "config.json",
  "generation_config.json",
  "model.safetensors",
  "special_tokens_map.json",
  "tokenizer.json",
  "tokenizer_config.json",
];

const steps: Readonly<Record<string, { readonly makes: string; readonly run: () => void | Promise<void> }>> = {
  problems: { makes: "data/problems: train.arrow and eval.arrow", run: makeProblems },
  initial: { makes: "outputs/bundled/initial: the tokenizer and the untrained model", run: makeInitialModel },
  "warm-start": { makes: "outputs/bundled: worked.arrow and mixed.arrow, what grpo sft trains on", run: makeWarmStart },
  worked: { makes: "outputs/bundled/worked: a model that works problems out (a few minutes)", run: trainWorked },
  mixed: { makes: "outputs/bundled/mixed: the same after seeing both ways of answering", run: trainMixed },
  model: { makes: "data/model: a copy of that model", run: installModel },
};

/** Held-out problems and those to train on; no question is in both. */
export function bundledProblems(): { readonly train: Problem[]; readonly held: Problem[] } {
  const held = generateProblems(recipe.evalProblems);
  return { train: generateProblems({ ...recipe.trainProblems, exclude: questionsOf(held) }), held };
}

/** Training data of the two warm starts, without held-out problems. */
export function warmStartProblems(): { readonly worked: Problem[]; readonly mixed: Problem[] } {
  const exclude = questionsOf(generateProblems(recipe.evalProblems));
  return {
    worked: generateProblems({ ...recipe.workedProblems, exclude }),
    mixed: generateMixed({ ...recipe.mixedProblems, exclude }),
  };
}

/** The tokenizer's files by name, and how many tokens it has. */
export function bundledTokenizer(): { readonly files: Record<string, unknown>; readonly size: number } {
  const texts = bundledProblems().train.flatMap(({ question, answer }) => [question, answer]);
  const vocabulary = buildVocabulary(texts, recipe.vocabularySize);
  return { files: tokenizerFiles(vocabulary, modelShape.maxPositions), size: vocabulary.length };
}

/** Writes the untrained model as a Hugging Face folder. */
export async function writeInitialModel(folder: string): Promise<void> {
  const { files, size } = bundledTokenizer();
  mkdirSync(folder, { recursive: true });
  const documents = { ...files, "config.json": modelConfig(size), "generation_config.json": generationConfig() };
  for (const [name, content] of Object.entries(documents)) {
    writeFileAtomic(join(folder, name), `${JSON.stringify(content, null, 2)}\n`);
  }
  const entries = initialTensors(size, recipe.weightsSeed).map(({ name, shape, values }) => ({
    name,
    shape,
    dtype: "F32" as const,
    chunks: () => [new Uint8Array(values.buffer)],
  }));
  await writeWeights(folder, entries);
}

/** Writes problems as `datasets` does: an Arrow stream with the columns `question` and `answer`. */
export function writeProblems(path: string, problems: readonly Problem[]): void {
  const text = { kind: "string" } as const;
  const writer = createArrowWriter(path, [fieldOf("question", text), fieldOf("answer", text)]);
  for (const { question, answer } of problems) writer.write({ question, answer });
  writer.finish();
}

function makeProblems(): void {
  const { train, held } = bundledProblems();
  mkdirSync(problemsFolder, { recursive: true });
  writeProblems(join(problemsFolder, "train.arrow"), train);
  writeProblems(join(problemsFolder, "eval.arrow"), held);
}

async function makeInitialModel(): Promise<void> {
  await writeInitialModel(initialFolder);
}

function makeWarmStart(): void {
  const { worked, mixed } = warmStartProblems();
  mkdirSync(workFolder, { recursive: true });
  writeProblems(`${workedFolder}.arrow`, worked);
  writeProblems(`${mixedFolder}.arrow`, mixed);
}

function trainWorked(): Promise<void> {
  return fineTune(initialFolder, workedFolder, recipe.sft.worked);
}

function trainMixed(): Promise<void> {
  return fineTune(workedFolder, mixedFolder, recipe.sft.mixed);
}

/** Trains the model in `from` on `to`.arrow and leaves it in `to`. */
async function fineTune(from: string, to: string, own: Readonly<Record<string, number>>): Promise<void> {
  const settings = { model: from, dataset: `${to}.arrow`, output_dir: to, ...recipe.sft.both, ...own };
  const flags = Object.entries(settings).flatMap(([key, value]) => [`--${key}`, String(value)]);
  const status = await main(["sft", "--overwrite", ...flags]);
  if (status !== 0) throw new Error(`grpo sft ended with status ${status}`);
}

function installModel(): void {
  mkdirSync(modelFolder, { recursive: true });
  for (const name of modelFiles) {
    const from = name.endsWith(".safetensors") ? mixedFolder : initialFolder;
    copyFileSync(join(from, name), join(modelFolder, name));
  }
}

function questionsOf(problems: readonly Problem[]): Set<string> {
  return new Set(problems.map(({ question }) => question));
}

function usage(): string {
  const lines = Object.entries(steps).map(([name, { makes }]) => `  ${name.padEnd(12)}${makes}`);
  return `bun data/make.ts [STEP …]\n\nSteps, in this order; all of them by default:\n${lines.join("\n")}\n`;
}

async function run(asked: readonly string[]): Promise<number> {
  const unknown = asked.find((name) => steps[name] === undefined);
  if (unknown !== undefined) {
    process.stderr.write(unknown === "--help" ? usage() : `unknown step "${unknown}"\n${usage()}`);
    return unknown === "--help" ? 0 : 2;
  }
  for (const [name, step] of Object.entries(steps)) {
    if (asked.length > 0 && !asked.includes(name)) continue;
    process.stderr.write(`${name}: ${step.makes}\n`);
    try {
      await step.run();
    } catch (error) {
      process.stderr.write(`${name}: ${errorText(error)}\n`);
      return 1;
    }
  }
  return 0;
}

if (import.meta.main) process.exit(await run(process.argv.slice(2)));
