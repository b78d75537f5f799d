/** `grpo sft`: supervised fine-tuning, wired together from its settings. The loop is src/sft/trainer.ts. */
import { readModelConfig } from "../checkpoint/huggingface.ts";
import { type OutputFolder, openOutputFolder } from "../checkpoint/output-folder.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import { toJson } from "../config/record.ts";
import type { SftConfig } from "../config/schema.ts";
import { InputError } from "../errors.ts";
import { type Evaluation, evaluateProblems, evaluationProblems } from "../eval/accuracy.ts";
import { requireEvaluationName } from "../eval/metric-names.ts";
import { evaluationMetrics, trainingEvaluation } from "../eval/report.ts";
import type { RunConsole } from "../metrics/console.ts";
import { createRewardPool } from "../rewards/pool/pool.ts";
import { modelFolder, openRunDevice, packedSizes, rolloutLimits } from "../run/inputs.ts";
import { openProblems } from "../run/prompts.ts";
import { readCheckpointState } from "../session/checkpointing.ts";
import { describeMemory } from "../session/memory.ts";
import { planSession, type Session } from "../session/session.ts";
import { runSft, sftState } from "../sft/trainer.ts";
import { loadTokenizer, readChatTemplate } from "../tokenizer/tokenizer.ts";
import { bundledModel, bundledProblems } from "./bundled.ts";
import type { Command } from "./command.ts";
import { type Interrupt, onInterrupt } from "./interrupt.ts";
import { isOfBundledRun, resumeFolder, standardConsole } from "./train.ts";

export const sft: Command = {
  usage: `Usage: grpo sft [CONFIG] --model M --dataset D [--key value …]

Trains on the answers of a dataset, token by token. Ctrl-C saves a checkpoint; --resume_from_checkpoint true resumes from
it.

${describeSettings("sft")}`,
  async run(argv) {
    const { config, warnings, given, file = null } = configFor("sft", argv);
    const console = standardConsole();
    for (const warning of warnings) console.note(`note: ${warning}`);
    const interrupt = onInterrupt({ stopping: "stopping after this step and saving a checkpoint" });
    try {
      const output = openOutputFolder({ folder: config.outputDir, command: "sft", note: console.note });
      try {
        return await sftInto(output, interrupt, console, config, { file, named: given.has("output_dir") });
      } finally {
        output.release();
      }
    } finally {
      interrupt.release();
    }
  },
};

/**
 * @param given.file that the settings come from; null: from flags alone
 * @param given.named whether the user chose the output folder
 */
async function sftInto(
  output: OutputFolder,
  interrupt: Interrupt,
  console: RunConsole,
  config: SftConfig,
  { file, named }: { readonly file: string | null; readonly named: boolean },
): Promise<number> {
  const checkpoint = resumeFolder(config.resumeFromCheckpoint, config.outputDir);
  const resume = checkpoint === null ? null : { folder: checkpoint, state: readCheckpointState(checkpoint, sftState) };
  const bundled = config.model === null && config.dataset === null;
  const [model, dataset] = [config.model ?? bundledModel(), config.dataset ?? bundledProblems()];
  output.permit({
    overwrite: config.overwrite,
    resumes: true,
    resume: resume && { folder: resume.folder, step: resume.state.step },
    newest: config.resumeFromCheckpoint === true,
    inputs: {
      ...{ model, dataset, eval_dataset: config.evalDataset },
      ...{ chat_template: config.chatTemplate, "the configuration": file },
    },
    mayReplace: bundled && !named ? isOfBundledRun : undefined,
  });
  const names = { rewards: [], logsMore: false, samples: config.evalNumGenerations };
  requireEvaluationName(config.metricForBestModel, names);
  const startFolder = await modelFolder(model);
  const modelConfig = readModelConfig(startFolder);
  const chatTemplate = readChatTemplate(config.chatTemplate);
  const tokenizer = loadTokenizer(startFolder, chatTemplate);
  const { promptColumn, answerColumn, chatTemplateKwargs, maxCompletionLength } = config;
  const columns = { promptColumn, answerColumn, chatTemplateKwargs, systemPrompt: config.systemPrompt ?? undefined };
  const problems = await openProblems(tokenizer, {
    ...columns,
    path: dataset,
    config: config.datasetConfig,
    split: config.datasetSplit,
  });
  for (const remark of problems.remarks) console.note(`note: ${remark}`);
  const evalSource =
    config.evalDataset === null
      ? null
      : await openProblems(tokenizer, {
          ...columns,
          path: config.evalDataset,
          config: config.evalDataset === config.dataset ? config.datasetConfig : null,
          split: config.evalSplit,
        });
  const context = modelConfig.maxPositionEmbeddings;
  const maxLength = Math.min(config.maxLength, context);
  const longestEval = evalSource ? Math.min(evalSource.longestPrompt(), context - maxCompletionLength) : 0;
  if (evalSource && longestEval < 1)
    throw new InputError(
      `max_completion_length ${maxCompletionLength}: the model's context is ${context} tokens; lower it`,
    );
  const evalProblems = evalSource && evaluationProblems(evalSource, config.evalSamples, longestEval);
  const pool = createRewardPool({ functions: [], timeoutMs: config.rewardTimeout * 1000 });
  try {
    const device = await openRunDevice(config, console.note);
    const planned = planSession({
      device,
      folder: checkpoint ?? startFolder,
      assets: startFolder,
      chatTemplate,
      dtype: config.dtype,
      packed: packedSizes(device, modelConfig, Math.max(maxLength, config.microBatchTokens), maxLength),
      training: true,
      reference: null,
      rollout:
        evalProblems &&
        rolloutLimits({
          maxConcurrentSequences: config.maxConcurrentSequences,
          completions: evalProblems.problems.length * config.evalNumGenerations,
          samples: config.evalNumGenerations,
          evaluates: true,
          longestPrompt: longestEval,
          maxCompletion: maxCompletionLength,
          repetitionPenalty: 1,
        }),
      positions: Math.max(maxLength, longestEval + (evalSource ? maxCompletionLength : 0)),
    });
    console.note(`${startFolder} on ${problems.dataset.path} · ${planned.dtype} · ${device.description}`);
    for (const line of describeMemory(planned.memory)) console.note(line);
    const session = await planned.open();
    let first: Evaluation | null = null;
    const evaluate = async (current: Session) => {
      const result = await evaluateProblems(
        current.rollout!,
        tokenizer,
        pool,
        evalProblems!,
        trainingEvaluation(config),
        { shouldStop: interrupt.requested },
      );
      if (!result) return { values: {}, note: "stopped" };
      const metrics = evaluationMetrics(result, first);
      first ??= result;
      return metrics;
    };
    try {
      output.begin({ command: "sft", bundled, settings: toJson(config) });
      interrupt.begin();
      const stopped = await runSft({
        config: { ...config, maxLength },
        session,
        tokenizer,
        problems,
        console,
        evaluate: evalProblems ? evaluate : null,
        stopRequested: interrupt.requested,
        resume,
      });
      return stopped ? 130 : 0;
    } finally {
      session.close();
      device.close();
    }
  } finally {
    problems.close();
    evalSource?.close();
    await pool.close();
  }
}
