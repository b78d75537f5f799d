/** `grpo sft`: supervised fine-tuning, wired together from its settings. The loop is src/sft/trainer.ts. */
import { resolveModel } from "../checkpoint/hub.ts";
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
import { createRewardPool, type RewardPool } from "../rewards/pool/pool.ts";
import type { RolloutEngine } from "../rollout/engine.ts";
import { withDevice } from "../run/device.ts";
import { openProblems } from "../run/prompts.ts";
import { rolloutLimits } from "../run/rollout-limits.ts";
import { readCheckpointState } from "../session/checkpointing.ts";
import { describeMemory } from "../session/memory.ts";
import { planPolicy, planSampling, planTraining } from "../session/policy.ts";
import { planSession, withSession } from "../session/session.ts";
import { runSft, type SftRun, sftState } from "../sft/trainer.ts";
import { loadTokenizer, readChatTemplate, type Tokenizer } from "../tokenizer/tokenizer.ts";
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
  const startFolder = await resolveModel(model);
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
    return await withDevice(config, console.note, async (device) => {
      const planned = planSession(device, (plan) => {
        const positions = Math.max(maxLength, longestEval + (evalSource ? maxCompletionLength : 0));
        const model = planPolicy(plan, plan.folder(checkpoint ?? startFolder), { dtype: config.dtype, positions });
        const tokens = Math.max(maxLength, config.microBatchTokens);
        const policy = planTraining(plan, model, { tokens, longestPrompt: maxLength });
        const rollout =
          evalProblems &&
          planSampling(
            plan,
            model,
            rolloutLimits({
              maxConcurrentSequences: config.maxConcurrentSequences,
              completions: evalProblems.problems.length * config.evalNumGenerations,
              samples: config.evalNumGenerations,
              evaluates: true,
              longestPrompt: longestEval,
              maxCompletion: maxCompletionLength,
              repetitionPenalty: 1,
            }),
          );
        return { policy, rollout };
      });
      const { dtype } = planned.tenants.policy.model;
      console.note(`${startFolder} on ${problems.dataset.path} · ${dtype} · ${device.description}`);
      for (const line of describeMemory(planned.memory)) console.note(line);
      return withSession(planned, async ({ policy, rollout }) => {
        output.begin({ command: "sft", bundled, settings: toJson(config) });
        interrupt.begin();
        const assets = { folder: startFolder, chatTemplate };
        const stopped = await runSft({
          config: { ...config, maxLength },
          models: { policy, critic: null, movingReference: null, assets },
          tokenizer,
          problems,
          console,
          evaluate: rollout && evalProblems && evaluation(config, rollout, tokenizer, pool, evalProblems, interrupt),
          stopRequested: interrupt.requested,
          resume,
        });
        return stopped ? 130 : 0;
      });
    });
  } finally {
    problems.close();
    evalSource?.close();
    await pool.close();
  }
}

/** Evaluation as the trainer calls it. */
function evaluation(
  config: SftConfig,
  engine: RolloutEngine,
  tokenizer: Tokenizer,
  pool: RewardPool,
  problems: ReturnType<typeof evaluationProblems>,
  { requested }: Pick<Interrupt, "requested">,
): NonNullable<SftRun["evaluate"]> {
  let first: Evaluation | null = null;
  return async () => {
    const settings = trainingEvaluation(config);
    const result = await evaluateProblems(engine, tokenizer, pool, problems, settings, { shouldStop: requested });
    if (!result) return { values: {}, note: "stopped" };
    const metrics = evaluationMetrics(result, first);
    first ??= result;
    return metrics;
  };
}
