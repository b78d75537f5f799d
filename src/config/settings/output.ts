/** What a run writes, where, and how often. */
import { z } from "zod";
import { about, howOften, oftenAllowed } from "./about.ts";

/** For the commands that write a single file. */
export const fileOverwriteSettings = {
  overwrite: z.boolean().default(false).meta(about("Replace an output that exists; it is refused otherwise.")),
} as const;

/** @param name the default folder's name under `outputs/` */
export function outputFolderSettings(name: string) {
  return {
    output_dir: z
      .string()
      .min(1)
      .default(`outputs/${name}`)
      .meta(about("Folder for everything that is written.", "FOLDER")),
    overwrite: z
      .boolean()
      .default(false)
      .meta(about("Replace the run, evaluation or model that output_dir holds; it is refused otherwise.")),
  } as const;
}

export const resumeSettings = {
  resume_from_checkpoint: z
    .union([z.literal(true), z.string().min(1)])
    .nullable()
    .default(null)
    .meta(
      about(
        "Go on from this checkpoint folder. true: the newest in output_dir, or anew where there is none.",
        "true|FOLDER",
      ),
    ),
} as const;

export const checkpointSettings = {
  save_steps: howOften(0)
    .default(100)
    .meta({
      ...about(
        "Write a checkpoint every so many steps (below 1: this share of all), and at Ctrl-C or another signal. 0: only then.",
        "N|SHARE",
      ),
      ...oftenAllowed(0),
    }),
  save_total_limit: z
    .int()
    .min(1)
    .nullable()
    .default(null)
    .meta(about("Keep only the newest so many checkpoints. null: all.")),
} as const;

export const planSettings = {
  compare: z
    .boolean()
    .default(false)
    .meta(about("Print the memory of GRPO and of PPO with these settings side by side, model by model.")),
} as const;

export const loggingSettings = {
  logging_steps: howOften(1)
    .default(1)
    .meta({
      ...about(
        "The console shows every so many steps (below 1: this share of all); metrics.jsonl has them all.",
        "N|SHARE",
      ),
      ...oftenAllowed(1),
    }),
} as const;

export const completionLogSettings = {
  log_completions: z.boolean().default(true).meta(about("Show a sample of completions on the console.")),
  log_completions_steps: z.int().min(1).default(10).meta(about("Every how many steps, and at the first.")),
  num_completions_to_print: z.int().min(1).default(1).meta(about("How many of them.")),
  save_completions: z.boolean().default(true).meta(about("Record every rollout in output_dir/completions/.")),
} as const;

/** Files that a command reads or writes besides a dataset. */
export const fileSettings = {
  generate: {
    prompt: z.string().nullable().default(null).meta(about("The prompt; the text is streamed to stdout.")),
    input: z
      .string()
      .min(1)
      .nullable()
      .default(null)
      .meta(about('JSONL instead, one {"prompt": text or messages} a line.', "FILE")),
    output: z.string().min(1).nullable().default(null).meta(about("Where the JSONL goes. null: stdout.", "FILE")),
    ...fileOverwriteSettings,
  },
  score: {
    input: z.string().min(1).meta(about("JSONL with prompt_ids and completion_ids on each line.", "FILE")),
    output: z.string().min(1).meta(about("JSONL with logprobs and entropies on each line.", "FILE")),
    ...fileOverwriteSettings,
  },
  update: {
    rollouts: z.string().min(1).meta(about("Recorded rollouts, JSONL, a completion a line.", "FILE")),
  },
} as const;
