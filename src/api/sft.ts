/** Supervised fine-tuning wired together from its settings: folder, data, session. The loop itself is src/sft/trainer.ts. */
import { baseNameOf } from "../checkpoint/adapter.ts";
import { resolveModel } from "../checkpoint/hub.ts";
import { placesOf, readModelConfig } from "../checkpoint/huggingface.ts";
import { type OutputFolder, openOutputFolder } from "../checkpoint/output-folder.ts";
import type { Loaded } from "../config/load.ts";
import { toJson } from "../config/record.ts";
import type { SftConfig } from "../config/schema.ts";
import { InputError } from "../errors.ts";
import { evaluateProblems, evaluationProblems } from "../eval/accuracy.ts";
import { requireEvaluationName } from "../eval/metric-names.ts";
import { againstFirst, trainingEvaluation } from "../eval/report.ts";
import { maxMicroBatchTokens } from "../model/micro-batches.ts";
import { createRewardPool } from "../rewards/pool/pool.ts";
import { type OnDevice, onDevice, withDevice } from "../run/device.ts";
import { openTrainingProblems, type ProblemSource } from "../run/prompts.ts";
import { rolloutLimits } from "../run/rollout-limits.ts";
import type { RunOutcome } from "../run/run.ts";
import { trainedAdapters } from "../session/adapters.ts";
import { readCheckpointState } from "../session/checkpointing.ts";
import { describeMemory } from "../session/memory.ts";
import { loadModelTokenizer } from "../session/model-tokenizer.ts";
import { planPolicy, planSampling, planTraining } from "../session/policy.ts";
import { planSession, withSession } from "../session/session.ts";
import type { SessionPlan } from "../session/tenant.ts";
import { rowsPerStep, runSft, type SftRun, sftState } from "../sft/trainer.ts";
import { readChatTemplate } from "../tokenizer/tokenizer.ts";
import { bundledModel, bundledProblems } from "./bundled.ts";
import type { Control } from "./control.ts";
import { isOfBundledRun, resumeFolder } from "./earlier-run.ts";
import { openPublisher, type Publisher } from "./publish.ts";
import type { RunResult } from "./train.ts";

/** Everything that `grpo sft` does. @throws InputError, RunError */
export async function sftWith(loaded: Loaded<"sft">, control: Control): Promise<RunResult> {
  const { config, warnings } = loaded;
  const { console } = control;
  for (const warning of warnings) console.note(`note: ${warning}`);
  const output = openOutputFolder({ folder: config.outputDir, command: "sft", note: console.note });
  try {
    const publisher = await openPublisher(config, console.note);
    const outcome = await sftInto(output, loaded, control, publisher);
    const hub = outcome.stopped ? null : await publisher.finished();
    return { ...outcome, outputDir: config.outputDir, ...(hub && { hub }) };
  } finally {
    output.release();
  }
}

async function sftInto(
  output: OutputFolder,
  { config, file, given }: Loaded<"sft">,
  control: Control,
  publisher: Publisher,
): Promise<RunOutcome> {
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
      model,
      dataset,
      eval_dataset: config.evalDataset,
      chat_template: config.chatTemplate,
      "the configuration": file ?? null,
    },
    mayReplace: bundled && !given.has("output_dir") ? isOfBundledRun : undefined,
  });
  const names = { rewards: [], logsMore: false, samples: config.evalNumGenerations };
  requireEvaluationName(config.metricForBestModel, names);
  const startFolder = await resolveModel(model, { revision: config.modelRevision, note: control.console.note });
  const context = readModelConfig(startFolder).maxPositionEmbeddings;
  const chatTemplate = readChatTemplate(config.chatTemplate);
  const tokenizer = loadModelTokenizer(startFolder, chatTemplate);
  const paths = { dataset, evalDataset: config.evalDataset };
  const { problems, evalProblems } = await openTrainingProblems(tokenizer, paths, config, control.console.note);
  for (const remark of problems.remarks) control.console.note(`note: ${remark}`);
  const maxLength = Math.min(config.maxLength, context);
  const evaluated = evalProblems && evaluatedProblems(config, evalProblems, context);
  const pool = createRewardPool({ functions: [], timeoutMs: config.rewardTimeout * 1000 });
  try {
    return await withDevice(config, control.console.note, async (device) => {
      const settled = { ...onDevice(config, device), maxLength };
      const tenants = (plan: SessionPlan) => planTenants(plan, settled, { checkpoint, startFolder }, evaluated);
      const planned = planSession(device, tenants, control.console.note);
      const { dtype } = planned.tenants.policy.model;
      control.console.note(`${startFolder} on ${problems.dataset.path} · ${dtype} · ${device.description}`);
      for (const line of describeMemory(planned.memory)) control.console.note(line);
      return withSession(planned, async ({ policy, rollout }) => {
        output.begin({ command: "sft", bundled, settings: toJson(config) });
        control.onBegin?.();
        const evaluate: SftRun["evaluate"] =
          rollout &&
          evaluated &&
          againstFirst(() =>
            evaluateProblems(rollout, tokenizer, pool, evaluated, trainingEvaluation(config), {
              shouldStop: control.stopRequested,
            }),
          );
        return runSft({
          config: settled,
          models: {
            policy,
            critic: null,
            movingReference: null,
            assets: {
              folder: startFolder,
              chatTemplate,
              base: baseNameOf(startFolder, { name: model, revision: config.modelRevision }),
            },
          },
          tokenizer,
          problems,
          console: control.console,
          evaluate,
          stopRequested: control.stopRequested,
          onSaved: publisher.saved,
          resume,
        });
      });
    });
  } finally {
    problems.close();
    evalProblems?.close();
    await pool.close();
  }
}

/** The problems of an evaluation, and the longest prompt that it plans for. */
function evaluatedProblems({ maxCompletionLength, evalSamples }: SftConfig, source: ProblemSource, context: number) {
  const longestPrompt = Math.min(source.longestPrompt(), context - maxCompletionLength);
  if (longestPrompt < 1)
    throw new InputError(
      `max_completion_length ${maxCompletionLength}: the model's context is ${context} tokens; lower it`,
    );
  return { ...evaluationProblems(source, evalSamples, longestPrompt), longestPrompt };
}

/** What the run computes with. */
function planTenants(
  plan: SessionPlan,
  config: OnDevice<SftConfig>,
  { checkpoint, startFolder }: { readonly checkpoint: string | null; readonly startFolder: string },
  evaluated: ReturnType<typeof evaluatedProblems> | null,
) {
  const { maxLength, maxCompletionLength, maxConcurrentSequences, evalNumGenerations, dtype } = config;
  const positions = Math.max(maxLength, evaluated ? evaluated.longestPrompt + maxCompletionLength : 0);
  const from = plan.folder(checkpoint ?? startFolder, "lm", placesOf(startFolder).config);
  const adapters = trainedAdapters(from, config, checkpoint !== null);
  const model = planPolicy(plan, from, { dtype, positions, adapters });
  const tokens = maxMicroBatchTokens({
    ...{ budget: config.microBatchTokens, longestPrompt: maxLength, longestCompletion: 0 },
    groups: rowsPerStep(config),
    completions: 0,
  });
  const sizes = { tokens, longestPrompt: maxLength };
  const policy = planTraining(plan, model, sizes, config.gradientCheckpointing);
  if (!evaluated) return { policy, rollout: null };
  const limits = rolloutLimits({
    maxConcurrentSequences,
    completions: evaluated.problems.length * evalNumGenerations,
    samples: evalNumGenerations,
    evaluates: true,
    longestPrompt: evaluated.longestPrompt,
    maxCompletion: maxCompletionLength,
    repetitionPenalty: 1,
  });
  return { policy, rollout: planSampling(plan, model, limits) };
}
