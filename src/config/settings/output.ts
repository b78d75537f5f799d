/** What a run writes, where, and how often. */
import { z } from "zod";
import { gpuNames } from "../gpus.ts";
import { anyText, described, often, requiredText, text, toggle, whole } from "./kinds.ts";

/** For the commands that write a single file. */
export const fileOverwriteSettings = {
  overwrite: toggle(false)`Replace an existing output; otherwise it is refused.`,
} as const;

/** @param name the default folder's name under `outputs/` */
export function outputFolderSettings(name: string) {
  return {
    output_dir: text(`outputs/${name}`, "FOLDER")`Folder for everything that is written.`,
    overwrite: toggle(false)`Replace the run, evaluation or model in output_dir; otherwise it is refused.`,
  } as const;
}

export const resumeSettings = {
  resume_from_checkpoint: described(
    z
      .union([z.literal(true), z.string().min(1)])
      .nullable()
      .default(null),
    {
      placeholder: "true|FOLDER",
    },
  )`Resume from this checkpoint folder. true: from the newest in output_dir, or start anew if there is none.`,
} as const;

export const checkpointSettings = {
  save_steps: often(0, 100)`
    Write a checkpoint every this many steps (below 1: this share of all steps), and on Ctrl-C or another signal. 0: only
    then.`,
  save_total_limit: whole(1, null)`Keep only the newest N checkpoints. null: all.`,
} as const;

export const planSettings = {
  compare: toggle(false)`Print the memory of GRPO and of PPO with these settings side by side, model by model.`,
  fit: toggle(
    false,
  )`Search for the settings that fill the memory best, and print them as flags. What is given explicitly stays.`,
  memory: text(null, "SIZE|GPU")`
    Plan for this much memory, such as 24GiB, or for a GPU by its name (${gpuNames.join(", ")}). null: what is free here.`,
} as const;

export const loggingSettings = {
  logging_steps: often(1, 1)`
    Print to the console every this many steps (below 1: this share of all steps); metrics.jsonl has every step.`,
} as const;

export const trackers = ["jsonl", "tensorboard", "wandb"] as const;

export const trackerSettings = {
  report_to: described(z._default(z.array(z.enum(trackers)), ["jsonl"]), { placeholder: `${trackers.join("|")},...` })`
    Where metrics go, besides the console: tensorboard's event files, wandb's offline runs, both in output_dir. jsonl, which is
    metrics.jsonl, is always written.`,
  run_name: text(null)`The run's name in wandb. null: W&B gives it one.`,
} as const;

export const quietSettings = {
  quiet: toggle(false)`Print warnings and errors only; what is written to files stays the same.`,
} as const;

export const completionLogSettings = {
  log_completions: toggle(true)`Show a sample of completions on the console, and all of them in report_to's trackers.`,
  log_completions_steps: whole(1, 10)`How often, in steps; the first step always shows them.`,
  num_completions_to_print: whole(1, 1)`How many of them.`,
  save_completions: toggle(true)`Record every rollout in output_dir/completions/.`,
  save_token_details: toggle(null)`
    Record with each rollout what the page shows of it: where its tokens are in the text, their entropy and reference
    logprob, the advantage, the verifier's word. null: with dashboard.`,
} as const;

/** The page of a run while it trains; `grpo show` has it afterwards. */
export const dashboardSettings = {
  dashboard: described(z.union([z.boolean(), z.int().min(0).max(65_535)]).default(false), {
    placeholder: "PORT",
    allowed: "true, false or a port",
  })`
    Serve a page with live charts and completions, on this port or, without one, on 7007 or the next that is free.`,
  dashboard_host: text("localhost", "HOST")`
    Where the page is served. Any name or address but this machine's loopback needs the token in the printed address.`,
} as const;

/** Files that a command reads or writes besides a dataset. */
export const fileSettings = {
  generate: {
    prompt: anyText(null)`The prompt; the text is streamed to stdout.`,
    input: text(null, "FILE")`JSONL instead, one {"prompt": text or messages} per line.`,
    output: text(null, "FILE")`Where the JSONL goes. null: stdout.`,
    ...fileOverwriteSettings,
  },
  score: {
    input: requiredText("FILE")`JSONL with prompt_ids and completion_ids on each line.`,
    output: requiredText("FILE")`JSONL with logprobs and entropies on each line.`,
    ...fileOverwriteSettings,
  },
  update: {
    rollouts: requiredText("FILE")`Recorded rollouts, JSONL, one completion per line.`,
  },
} as const;
