/** `grpo eval`: accuracy, pass@k and maj@k of a model on a dataset, with every answer written down. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { evaluationFiles, type Held } from "../checkpoint/held.ts";
import { resolveModel } from "../checkpoint/hub.ts";
import { readModelConfig } from "../checkpoint/huggingface.ts";
import { type OutputFolder, openOutputFolder } from "../checkpoint/output-folder.ts";
import { writeTogether } from "../checkpoint/together.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import type { EvalConfig } from "../config/schema.ts";
import { InputError } from "../errors.ts";
import { type Evaluation, evaluateProblems, evaluationProblems } from "../eval/accuracy.ts";
import { chosenKs, evaluationLines, evaluationResults } from "../eval/report.ts";
import { rewardSources, scoreAnswers } from "../grpo/model-rewards.ts";
import { rewardModels } from "../grpo/setup.ts";
import type { RunConsole } from "../metrics/console.ts";
import { createRewardPool, noTraining } from "../rewards/pool/pool.ts";
import { needsGold, parseRewardSpec } from "../rewards/specs.ts";
import { withDevice } from "../run/device.ts";
import { openProblems } from "../run/prompts.ts";
import { rolloutLimits } from "../run/rollout-limits.ts";
import { planPolicy, planSampling } from "../session/policy.ts";
import { planRewardModels } from "../session/reward-model.ts";
import { planSession, withSession } from "../session/session.ts";
import { loadTokenizer, readChatTemplate } from "../tokenizer/tokenizer.ts";
import { bundledEvalProblems, bundledModel } from "./bundled.ts";
import type { Command } from "./command.ts";
import { type Interrupt, onInterrupt } from "./interrupt.ts";
import { standardConsole } from "./train.ts";

/** `answers.jsonl`: a line an answer. */
function answerLines({ problems }: Evaluation): string {
  return problems
    .flatMap(({ problem, gold, answers }) =>
      answers.map(({ text, completion, correct, strict, reason, answer, strictAnswer, ...scored }, sample) =>
        JSON.stringify({
          row: problem.row,
          sample,
          prompt: problem.example.prompt,
          completion: text,
          ...(gold === null ? {} : { gold, answer, strict_answer: strictAnswer, reason, correct, strict }),
          ...scored,
          tokens: completion.completionIds.length,
          finished: completion.finished,
          ...(completion.stop === undefined ? {} : { stop: completion.stop }),
        }),
      ),
    )
    .map((line) => `${line}\n`)
    .join("");
}

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
    const { config, warnings, given } = configFor("eval", argv);
    const console = standardConsole();
    for (const warning of warnings) console.note(`note: ${warning}`);
    const interrupt = onInterrupt({ stopping: "stopping, nothing is written" });
    try {
      const output = openOutputFolder({ folder: config.outputDir, command: "eval", note: console.note });
      try {
        return await evaluateInto(output, interrupt, console, config, given.has("output_dir"));
      } finally {
        output.release();
      }
    } finally {
      interrupt.release();
      console.close();
    }
  },
};

/** @param named whether the user chose the output folder */
async function evaluateInto(
  output: OutputFolder,
  interrupt: Interrupt,
  console: RunConsole,
  config: EvalConfig,
  named: boolean,
): Promise<number> {
  if (config.numGenerations > 1 && config.temperature === 0)
    throw new InputError("num_generations above 1 needs a temperature above 0: greedy answers are all the same");
  const ks = chosenKs(config.passAtK, config.numGenerations);
  const [model, path] = [config.model ?? bundledModel(), config.dataset ?? bundledEvalProblems()];
  const bundled = config.model === null && config.dataset === null;
  output.permit({
    overwrite: config.overwrite,
    resumes: false,
    inputs: { model, dataset: path },
    addsOnly: true,
    mayReplace: bundled && !named ? isBundledEvaluation : undefined,
  });
  const folder = await resolveModel(model);
  const modelConfig = readModelConfig(folder);
  const chatTemplate = readChatTemplate(config.chatTemplate);
  const tokenizer = loadTokenizer(folder, chatTemplate);
  const { promptColumn, answerColumn, chatTemplateKwargs } = config;
  const columns = { promptColumn, answerColumn, chatTemplateKwargs, systemPrompt: config.systemPrompt ?? undefined };
  const source = await openProblems(tokenizer, {
    ...columns,
    path,
    config: config.datasetConfig,
    split: config.datasetSplit,
  });
  for (const remark of source.remarks) console.note(`note: ${remark}`);
  const functions = (config.rewardFuncs ?? []).map(parseRewardSpec);
  const pool = createRewardPool({
    functions,
    ...(config.rewardWeights ? { weights: config.rewardWeights } : {}),
    parameters: config,
    timeoutMs: config.rewardTimeout * 1000,
  });
  try {
    await pool.ready();
    // The context is the limit where it is shorter: a longest prompt and the tokens that it leaves.
    const context = modelConfig.maxPositionEmbeddings;
    const longest = source.longestPrompt();
    const room = Math.max(1, context - Math.min(longest, context - 1));
    const maxCompletionLength = Math.min(config.maxCompletionLength, Math.max(room, Math.floor(context / 2)));
    if (maxCompletionLength < config.maxCompletionLength)
      console.note(`note: answers have at most ${maxCompletionLength} tokens: the model's context is ${context}`);
    const longestPrompt = Math.min(longest, context - maxCompletionLength);
    const problems = evaluationProblems(
      source,
      config.evalSamples,
      longestPrompt,
      functions.every(needsGold)
        ? "name the column with --answer_column, or judge otherwise with --reward_funcs"
        : null,
    );
    const completions = problems.problems.length * config.numGenerations;
    const positions = longestPrompt + maxCompletionLength;
    const limits = rolloutLimits({
      maxConcurrentSequences: config.maxConcurrentSequences,
      completions,
      samples: config.numGenerations,
      evaluates: true,
      longestPrompt,
      maxCompletion: maxCompletionLength,
      repetitionPenalty: config.repetitionPenalty,
    });
    const evaluation = await withDevice(config, console.note, async (device) => {
      const { dtype } = config;
      const scorers = await rewardModels(config, positions, completions);
      const planned = planSession(device, (plan) => {
        const policy = planPolicy(plan, plan.folder(folder), { dtype, positions });
        return {
          rollout: planSampling(plan, policy, limits),
          rewardModels: planRewardModels(plan, scorers, { dtype, duringRollout: false }),
        };
      });
      return withSession(planned, (session) => {
        const scoring =
          functions.length > 0 &&
          scoreAnswers(rewardSources(session.rewardModels, pool, config.systemPrompt), noTraining, tokenizer);
        interrupt.begin();
        return evaluateProblems(
          session.rollout,
          tokenizer,
          pool,
          problems,
          { ...config, samples: config.numGenerations, maxCompletionLength },
          {
            onProgress: (done, total) => console.progress({ step: 0, steps: 0, phase: "evaluation", done, total }),
            shouldStop: interrupt.requested,
            ...(scoring ? { score: scoring } : {}),
          },
        );
      });
    });
    console.close();
    if (!evaluation) return 130;
    for (const warning of evaluation.warnings) console.note(warning);
    const results = {
      model: folder,
      dataset: path,
      ...(config.benchmark === null ? {} : { benchmark: config.benchmark }),
      ...(config.rewardFuncs && {
        reward_funcs: config.rewardFuncs,
        reward_weights: config.rewardWeights ?? config.rewardFuncs.map(() => 1),
      }),
      ...evaluationResults(evaluation, ks),
    };
    await writeTogether(config.outputDir, (temporary) => {
      writeFileSync(join(temporary, "answers.jsonl"), answerLines(evaluation));
      writeFileSync(join(temporary, "results.json"), `${JSON.stringify(results, null, 2)}\n`);
    });
    const lines = [
      `${folder} on ${path}: ${evaluation.problems.length} problems, ${config.numGenerations} answer${config.numGenerations === 1 ? "" : "s"} each`,
      ...evaluationLines(evaluation, ks),
      `every answer      ${join(config.outputDir, "answers.jsonl")}`,
    ];
    process.stdout.write(`${lines.join("\n")}\n`);
    return 0;
  } finally {
    source.close();
    await pool.close();
  }
}

/** Whether an evaluation of the bundled model is all there is: it is made again in a moment. */
function isBundledEvaluation(folder: string, held: Held): boolean {
  const onlyEvaluation = held.names.every((name) => evaluationFiles.includes(name));
  try {
    const results = JSON.parse(readFileSync(join(folder, "results.json"), "utf8")) as Record<string, unknown>;
    return onlyEvaluation && results.model === bundledModel() && results.dataset === bundledEvalProblems();
  } catch {
    return false;
  }
}
