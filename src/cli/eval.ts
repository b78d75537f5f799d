/** `grpo eval`: accuracy, pass@k and maj@k of a model on a dataset. What it does is src/api/evaluate.ts. */
import { join } from "node:path";
import { type EvaluationResult, evaluateWith } from "../api/evaluate.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import { evaluationLines } from "../eval/report.ts";
import { speaks } from "../ranks/environment.ts";
import type { Command } from "./command.ts";
import { inRanks } from "./launch.ts";
import { onTerminal } from "./terminal.ts";

export const evaluate: Command = {
  usage: `Usage: grpo eval --model M (--dataset D | --benchmark gsm8k|math500) [--key value …]

Answers every problem (greedily, unless temperature or num_generations say otherwise), judges the answers leniently and
strictly, and prints accuracy, pass@k and maj@k (both unbiased, over all choices of k answers) and mean length, with
confidence intervals over the problems. --reward_funcs scores the answers as train does, with or without gold answers, and
prints the mean weighted reward and each function's own mean. output_dir receives answers.jsonl, every answer with its
verdict and rewards, and results.json. A benchmark is downloaded from the hub; --benchmark gsm8k --dataset FILE reads it
from a file.

${describeSettings("eval")}`,
  async run(argv) {
    const loaded = configFor("eval", argv);
    const { outputDir, numGenerations, ranks } = loaded.config;
    return inRanks(ranks, async () => {
      const result = await onTerminal("stopping, nothing is written", (control) => evaluateWith(loaded, control, true));
      if (result === null) return 130;
      if (speaks()) process.stdout.write(printed(result, numGenerations, join(outputDir, "answers.jsonl")));
      return 0;
    });
  },
};

function printed(result: EvaluationResult, samples: number, answers: string): string {
  const { model, dataset, problems, ks } = result;
  const head = `${model} on ${dataset}: ${problems.length} problems, ${samples} answer${samples === 1 ? "" : "s"} each`;
  return [head, ...evaluationLines(result, ks), `every answer      ${answers}`].map((line) => `${line}\n`).join("");
}
