/** Where problems come from and how a row becomes a prompt and a gold answer. */
import { z } from "zod";
import { benchmarkNames } from "../benchmarks.ts";
import { anyText, choice, list, number, object, often, text, toggle, whole } from "./kinds.ts";

export const datasetSettings = {
  dataset: text(null, "FILE|FOLDER|ID")`
    Arrow, Parquet or JSONL file, a folder saved by \`datasets\`, or a hub id. null: the bundled problems.`,
  dataset_config: text(null, "NAME")`
    The configuration, if the dataset has several; eval_dataset's too, if it is the same dataset. null: main, default, or the
    only one.`,
  dataset_split: text("train", "NAME")`The split, if the dataset has several.`,
  prompt_column: text(null, "NAME")`
    Column with the prompt (text or messages), or a field inside one (a.b). null: found by name (prompt, question, problem,
    messages).`,
  answer_column: text(null, "NAME")`
    Column with the gold answer, or a field inside one (reward_model.ground_truth). null: found by name (answer, solution).`,
} as const;

export const promptSettings = {
  system_prompt: anyText(null)`System message put before each prompt.`,
  chat_template: text(null, "FILE")`
    Chat template that replaces the model's: a .jinja file, a model folder, or the template itself. Saved with the model.`,
  chat_template_kwargs: object({})`Passed on to the chat template, e.g. '{"enable_thinking":false}'.`,
} as const;

export const orderSettings = {
  shuffle_dataset: toggle(true)`Take the rows in a seeded random order, a new one each epoch.`,
} as const;

export const supervisedSettings = {
  max_length: whole(2, 1024)`Longest prompt and answer together, in tokens; longer rows are skipped and counted.`,
  completion_only_loss: toggle(true)`Train on the answer's tokens only. false: on the prompt's too.`,
} as const;

const verifier = choice(["auto", "gsm8k", "math", "none"], "auto")`
  How an evaluation judges an answer if the row has a gold answer. auto: gsm8k if the gold is a number, otherwise math. none:
  no accuracy, only rewards.`;

const evalSamples = whole(1, null)`Number of problems to evaluate, counted from the first. null: all.`;

/** Evaluation inside `train` and `sft`. */
export const evaluationSettings = {
  eval_dataset: text(null, "FILE|FOLDER|ID")`
    Held-out problems; accuracy and rewards on them are logged. null: none (bundled model: the bundled ones).`,
  eval_split: text("test", "NAME")`The split of eval_dataset.`,
  eval_steps: often(1, null)`
    Evaluate every this many steps (below 1: this share of all steps), besides before the first and after the last. null: only
    those two.`,
  eval_samples: evalSamples,
  eval_num_generations: whole(1, 1)`
    Answers per evaluated problem; with 2 or more, pass@k and maj@k are logged too.`,
  eval_temperature: number({ min: 0, max: 100 }, null)`
    Temperature of these answers. null: 0 (the most likely tokens) for one answer, 1 for several.`,
  verifier,
} as const;

/** `sft` has no bundled problems to evaluate on. */
export const supervisedEvaluationSettings = {
  ...evaluationSettings,
  eval_dataset: text(null, "FILE|FOLDER|ID")`Held-out problems; accuracy on them is logged. null: none.`,
} as const;

/** The `eval` command itself. */
export const evalCommandSettings = {
  benchmark: choice(benchmarkNames, null)`
    Sets dataset, dataset_split, verifier, system_prompt and max_completion_length as this benchmark defines them; settings
    given explicitly override them.`,
  eval_samples: evalSamples,
  verifier,
  pass_at_k: list(z.int().min(1))`Values of k for pass@k and maj@k. null: the powers of two up to num_generations.`,
} as const;
