/** `grpo train`: the main job. What it does is src/api/train.ts. */
import { join } from "node:path";
import type { Control } from "../api/control.ts";
import { type TrainControl, trainWith } from "../api/train.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import { callOf } from "../program.ts";
import type { Command } from "./command.ts";
import { inRanks } from "./launch.ts";
import { onTerminal } from "./terminal.ts";

export interface TrainRun extends TrainControl {
  readonly argv: readonly string[];
}

/** Everything `grpo train` does; returns the exit status. */
export async function runTrain({ argv, ...control }: TrainRun): Promise<number> {
  const { stopped, bundled, outputDir, hub } = await trainWith((options) => configFor("train", argv, options), control);
  if (stopped) return 130;
  if (bundled) for (const line of whatNext(outputDir)) control.console.note(line);
  return hub !== undefined && "failure" in hub ? 1 : 0;
}

/** What to type after the bundled run. */
function whatNext(outputDir: string): string[] {
  const [data, train] = [callOf("data"), callOf("train")];
  const sizes = "--num_generations 8 --per_device_train_batch_size 32";
  const [completions, metrics] = [join(outputDir, "completions"), join(outputDir, "metrics.jsonl")];
  return [
    "",
    "That was the bundled tiny model. For a model and problems of your own:",
    `  ${data} convert gsm8k.jsonl gsm8k.arrow`,
    `  ${train} --model ./Qwen3-0.6B --dataset gsm8k.arrow ${sizes}`,
    `Its curves: ${callOf("show")} ${outputDir}; its answers: ${completions}; its numbers: ${metrics}; all settings: ${train} --help`,
  ];
}

export const train: Command = {
  usage: `Usage: grpo train [CONFIG] [--key value …]

Samples a group of completions per prompt, scores them and updates the policy. By default it trains the bundled tiny
model on the bundled problems. CONFIG is a TOML, YAML or JSON file. Names from TRL, verl and OpenRLHF are accepted,
ignored with a remark, or refused with the name to use instead. Ctrl-C saves a checkpoint, as do SIGTERM, SIGHUP, SIGUSR1
and similar signals; --resume_from_checkpoint true resumes from it. A folder that is not empty is refused without
--overwrite.

${describeSettings("train")}`,
  run(argv) {
    const { ranks, quiet } = configFor("train", argv).config;
    const work = (control: Control) => runTrain({ argv, ...control });
    return inRanks(ranks, () => onTerminal("stopping after this step and saving a checkpoint", work, quiet));
  },
};
