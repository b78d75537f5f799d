/** Supervised fine-tuning wired together from its settings: folder, data, session. The loop itself is src/sft/trainer.ts. */
import { baseNameOf } from "../checkpoint/adapter.ts";
import { resolveModel } from "../checkpoint/hub.ts";
import { placesOf, readModelConfig } from "../checkpoint/huggingface.ts";
import { type OutputFolder, openOutputFolder } from "../checkpoint/output-folder.ts";
import type { Loaded } from "../config/load.ts";
import { toJson } from "../config/record.ts";
import type { SftConfig } from "../config/schema.ts";
import { type Dashboard, openDashboard } from "../dashboard/open.ts";
import { InputError } from "../errors.ts";
import { evaluateProblems, evaluationProblems } from "../eval/accuracy.ts";
import { requireEvaluationName } from "../eval/metric-names.ts";
import { againstFirst, trainingEvaluation } from "../eval/report.ts";
import { auxLossCoef } from "../model/expert-load.ts";
import { maxMicroBatchTokens } from "../model/micro-batches.ts";
import { createRewardPool } from "../rewards/pool/pool.ts";
import { type OnDevice, onDevice, withTeamDevice } from "../run/device.ts";
import { openTrainingProblems, type ProblemSource } from "../run/prompts.ts";
import { rolloutLimits } from "../run/rollout-limits.ts";
import type { RunOutcome } from "../run/run.ts";
import { trainedAdapters } from "../session/adapters.ts";
import { readCheckpointState } from "../session/checkpointing.ts";
import { describeMemory, memoryRecord } from "../session/memory.ts";
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
import {
  comparable,
  noOutput,
  onRank,
  type Placed,
  poolSize,
  requireRoom,
  requireSame,
  weightsOf,
  withRanks,
} from "./ranks.ts";
import type { RunResult } from "./train.ts";

/** Everything that `grpo sft` does. @throws InputError, RunError */
export async function sftWith(loaded: Loaded<"sft">, control: Control): Promise<RunResult> {
  return withRanks(loaded.config, control, loaded.given.has("per_device_train_batch_size"), (team, own) =>
    sftAmong(team, { ...loaded, config: onRank(loaded.config, team) }, own),
  );
}

async function sftAmong(team: Placed, loaded: Loaded<"sft">, control: Control): Promise<RunResult> {
  const { config, warnings } = loaded;
  const { console } = control;
  for (const warning of warnings) console.note(`note: ${warning}`);
  const output =
    team.ranks.rank === 0
      ? openOutputFolder({ folder: config.outputDir, command: "sft", note: console.note })
      : noOutput;
  let page: Dashboard | null = null;
  const openPage = async () => {
    page = await openDashboard(config, console.note);
    return [page.sink];
  };
  try {
    const publisher = await openPublisher(config, console.note);
    const outcome = await sftInto(output, loaded, control, team, publisher, openPage);
    const hub = outcome.stopped ? null : await publisher.finished();
    return { ...outcome, outputDir: config.outputDir, ...(hub && { hub }) };
  } finally {
    await (page as Dashboard | null)?.close();
    output.release();
  }
}

async function sftInto(
  output: OutputFolder,
  { config, file, given }: Loaded<"sft">,
  control: Control,
  team: Placed,
  publisher: Publisher,
  openPage: () => Promise<SftRun["sinks"]>,
): Promise<RunOutcome> {
  const { ranks } = team;
  const checkpoint = await ranks.first("the checkpoint", () =>
    resumeFolder(config.resumeFromCheckpoint, config.outputDir),
  );
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
  const sinks = await openPage();
  const startFolder = await resolveModel(model, { revision: config.modelRevision, note: control.console.note });
  const modelConfig = readModelConfig(startFolder);
  auxLossCoef(modelConfig, config.routerAuxLossCoef, model);
  const context = modelConfig.maxPositionEmbeddings;
  const chatTemplate = readChatTemplate(config.chatTemplate);
  const tokenizer = loadModelTokenizer(startFolder, chatTemplate);
  const paths = { dataset, evalDataset: config.evalDataset };
  const { problems, evalProblems } = await openTrainingProblems(tokenizer, paths, config, control.console.note);
  for (const remark of problems.remarks) control.console.note(`note: ${remark}`);
  const maxLength = Math.min(config.maxLength, context);
  const evaluated = evalProblems && evaluatedProblems(config, evalProblems, context);
  const pool = createRewardPool({ functions: [], timeoutMs: config.rewardTimeout * 1000, size: poolSize(team) });
  try {
    return await withTeamDevice(config, team, control.console.note, async (device) => {
      const settled = { ...onDevice(config, device), maxLength };
      const tenants = (plan: SessionPlan) => planTenants(plan, settled, { checkpoint, startFolder }, evaluated, team);
      const planned = planSession(device, tenants, control.console.note);
      const { dtype } = planned.tenants.policy.model;
      control.console.note(`${startFolder} on ${problems.dataset.path} · ${dtype} · ${device.description}`);
      for (const line of describeMemory(planned.memory)) control.console.note(line);
      await requireSame(ranks, () => ({
        ...comparable(settled),
        "number of rows": problems.dataset.numRows,
        processor: device.numericsKey,
      }));
      await requireRoom(ranks, planned.memory, device);
      return withSession(planned, async ({ policy, rollout }) => {
        await requireSame(ranks, () => weightsOf({ policy }));
        output.begin({
          ...{ command: "sft", bundled, settings: toJson(config) },
          memory: memoryRecord(planned.memory),
        });
        control.onBegin?.();
        const evaluate: SftRun["evaluate"] =
          rollout &&
          evaluated &&
          againstFirst(() =>
            evaluateProblems(rollout, tokenizer, pool, evaluated, trainingEvaluation(config), {
              ranks,
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
          team,
          ...{ onSaved: publisher.saved, sinks },
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
  team: Placed,
) {
  const { maxLength, maxCompletionLength, maxConcurrentSequences, evalNumGenerations, dtype } = config;
  const positions = Math.max(maxLength, evaluated ? evaluated.longestPrompt + maxCompletionLength : 0);
  const from = plan.folder(checkpoint ?? startFolder, "lm", placesOf(startFolder).config);
  const adapters = trainedAdapters(from, config, checkpoint !== null);
  const model = planPolicy(plan, from, { dtype, positions, adapters, fourBit: config.loadIn4bit });
  const tokens = maxMicroBatchTokens({
    ...{ budget: config.microBatchTokens, longestPrompt: maxLength, longestCompletion: 0 },
    groups: Math.ceil(rowsPerStep(config, team) / team.ranks.size),
    completions: 0,
  });
  const sizes = { tokens, longestPrompt: maxLength };
  const policy = planTraining(plan, model, sizes, config.gradientCheckpointing, team.division, config);
  if (!evaluated) return { policy, rollout: null };
  const limits = rolloutLimits({
    maxConcurrentSequences,
    completions: Math.ceil(evaluated.problems.length / team.ranks.size) * evalNumGenerations,
    samples: evalNumGenerations,
    evaluates: true,
    longestPrompt: evaluated.longestPrompt,
    maxCompletion: maxCompletionLength,
    repetitionPenalty: 1,
  });
  return { policy, rollout: planSampling(plan, model, limits) };
}
