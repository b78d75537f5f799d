/** Where problems come from and how a row becomes a prompt and a gold answer. */
import { z } from "zod";
import { benchmarkNames } from "../benchmarks.ts";
import { about, howOften, oftenAllowed } from "./about.ts";

export const datasetSettings = {
  dataset: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .meta(
      about(
        "Arrow, Parquet or JSONL file, a folder as `datasets` saves it, or a hub id. null: the bundled problems.",
        "FILE|FOLDER|ID",
      ),
    ),
  dataset_config: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .meta(
      about(
        "Which configuration, where the dataset has several; eval_dataset's too, if it is the same. null: main, default, or the only one.",
        "NAME",
      ),
    ),
  dataset_split: z.string().min(1).default("train").meta(about("Which split, where the dataset has several.", "NAME")),
  prompt_column: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .meta(
      about(
        "Column with the prompt (text or messages), or a field in one (a.b). null: found by name (prompt, question, problem, messages).",
        "NAME",
      ),
    ),
  answer_column: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .meta(
      about(
        "Column with the gold answer, or a field in one (reward_model.ground_truth). null: found by name (answer, solution).",
        "NAME",
      ),
    ),
} as const;

export const promptSettings = {
  system_prompt: z.string().nullable().default(null).meta(about("System message put before each prompt.")),
  chat_template: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .meta(
      about(
        "Chat template in place of the model's: a .jinja file, a model's folder, or the template itself. Saved with the model.",
        "FILE",
      ),
    ),
  chat_template_kwargs: z
    .record(z.string(), z.unknown())
    .default({})
    .meta(about("Passed on to the chat template, e.g. '{\"enable_thinking\":false}'.")),
} as const;

export const orderSettings = {
  shuffle_dataset: z.boolean().default(true).meta(about("Draw the rows in a seeded order, a new one each epoch.")),
} as const;

export const supervisedSettings = {
  max_length: z
    .int()
    .min(2)
    .default(1024)
    .meta(about("Prompt and answer together, in tokens; a longer row is skipped and counted.")),
  completion_only_loss: z
    .boolean()
    .default(true)
    .meta(about("Learn the answer alone. false: the prompt's tokens too.")),
} as const;

const verifier = z
  .enum(["auto", "gsm8k", "math", "none"])
  .default("auto")
  .meta(
    about(
      "How an evaluation's answer is judged where the row has a gold. auto: gsm8k where that is a number, else math. none: no accuracy, rewards alone.",
    ),
  );

const evalSamples = z
  .int()
  .min(1)
  .nullable()
  .default(null)
  .meta(about("How many problems are evaluated, from the first on. null: all."));

/** Evaluation inside `train` and `sft`. */
export const evaluationSettings = {
  eval_dataset: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .meta(
      about(
        "Held-out problems; accuracy and rewards on them are logged. null: none (bundled model: the bundled ones).",
        "FILE|FOLDER|ID",
      ),
    ),
  eval_split: z.string().min(1).default("test").meta(about("Which split of eval_dataset.", "NAME")),
  eval_steps: howOften(1)
    .nullable()
    .default(null)
    .meta({
      ...about(
        "Evaluate every so many steps (below 1: this share of all), besides before the first and after the last. null: only those two.",
        "N|SHARE",
      ),
      ...oftenAllowed(1),
    }),
  eval_samples: evalSamples,
  eval_num_generations: z
    .int()
    .min(1)
    .default(1)
    .meta(about("Answers to each evaluated problem; from 2 on pass@k and maj@k are logged too.")),
  eval_temperature: z
    .number()
    .min(0)
    .max(100)
    .nullable()
    .default(null)
    .meta(about("Temperature of these answers. null: 0, the likeliest tokens, for one answer; 1 for several.")),
  verifier,
} as const;

/** The `eval` command itself. */
export const evalCommandSettings = {
  benchmark: z
    .enum(benchmarkNames)
    .nullable()
    .default(null)
    .meta(
      about(
        "Sets dataset, dataset_split, verifier, system_prompt and max_completion_length as this benchmark has them; those that are given go before.",
      ),
    ),
  eval_samples: evalSamples,
  verifier,
  pass_at_k: z
    .array(z.int().min(1))
    .min(1)
    .nullable()
    .default(null)
    .meta(about("Values k of pass@k and maj@k. null: the powers of two up to num_generations.")),
} as const;
