/** GRPO training wired together from its settings: folder, rewards, setup, session. The loop itself is src/grpo/trainer.ts. */
import { shownPath } from "../assets.ts";
import { isEarlierWaiting } from "../checkpoint/earlier.ts";
import { type OutputFolder, openOutputFolder } from "../checkpoint/output-folder.ts";
import { isFolder } from "../checkpoint/state.ts";
import type { Load, Loaded } from "../config/load.ts";
import type { TrainConfig } from "../config/schema.ts";
import { openDashboard } from "../dashboard/open.ts";
import { InputError } from "../errors.ts";
import { evaluateProblems, evaluationProblems } from "../eval/accuracy.ts";
import { requireEvaluationName } from "../eval/metric-names.ts";
import { againstFirst, trainingEvaluation } from "../eval/report.ts";
import { noFunctions, type OwnFunctions, recordOf } from "../grpo/own-functions.ts";
import { type RewardSources, rewardSources, scoreAnswers } from "../grpo/reward-sources.ts";
import { resumeRemarks, type TrainerState, trainerState } from "../grpo/run-state.ts";
import { setUpTraining, type TrainingSetup, totalSteps } from "../grpo/setup.ts";
import { type TrainerHooks, train } from "../grpo/trainer.ts";
import { createRewardPool, type RewardPool, type RewardTrainerState } from "../rewards/pool/pool.ts";
import { isOwn, needsGold, parseRewardSpec, type RewardSpec } from "../rewards/specs.ts";
import type { RolloutEngine } from "../rollout/engine.ts";
import type { RunOutcome } from "../run/run.ts";
import { readCheckpointState } from "../session/checkpointing.ts";
import { describeMemory, memoryRecord } from "../session/memory.ts";
import { withSession } from "../session/session.ts";
import { orBundled, trainingPaths } from "./bundled.ts";
import type { Control } from "./control.ts";
import { isOfBundledRun, resumeFolder } from "./earlier-run.ts";
import { goldRemarks } from "./golds.ts";
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

/** What came of `train` or `sft`. */
export interface RunResult extends RunOutcome {
  /** Where the model, the checkpoints and metrics.jsonl are. */
  readonly outputDir: string;
  /** With `pushToHub`: the model's page, or why it was not pushed. A run that was stopped pushes nothing. */
  readonly hub?: { readonly url: string } | { readonly failure: string };
}

export interface TrainControl extends Control {
  readonly reviseRewards?: TrainerHooks["reviseRewards"];
  readonly functions?: OwnFunctions | undefined;
}

interface TrainingRun extends Loaded<"train">, TrainControl {
  readonly bundled: boolean;
  readonly sinks?: TrainerHooks["sinks"];
}

interface ResumePoint {
  readonly folder: string;
  readonly state: TrainerState;
}

/** Everything that `grpo train` does. @throws InputError, RunError */
export async function trainWith(
  load: Load<"train">,
  control: TrainControl,
): Promise<RunResult & { readonly bundled: boolean }> {
  const loaded = orBundled(load);
  return withRanks(loaded.config, control, loaded.given.has("per_device_train_batch_size"), (team, own) =>
    trainAmong(team, { ...loaded, ...own, config: onRank(loaded.config, team) }),
  );
}

async function trainAmong(team: Placed, run: TrainingRun): Promise<RunResult & { readonly bundled: boolean }> {
  const { config, console, bundled } = run;
  const { ranks } = team;
  for (const warning of run.warnings) console.note(`note: ${warning}`);
  const output =
    ranks.rank === 0 ? openOutputFolder({ folder: config.outputDir, command: "train", note: console.note }) : noOutput;
  try {
    const folder = await ranks.first("the checkpoint", () =>
      resumeFolder(config.resumeFromCheckpoint, config.outputDir),
    );
    const resume = folder === null ? null : { folder, state: readCheckpointState(folder, trainerState) };
    permit(output, run, resume);
    const specs = (config.rewardFuncs ?? ["auto"]).map(parseRewardSpec);
    const pool = createRewardPool({
      functions: specs,
      inline: run.functions?.rewards,
      weights: config.rewardWeights ?? undefined,
      parameters: config,
      timeoutMs: config.rewardTimeout * 1000,
      size: poolSize(team),
    });
    const page = await openDashboard(config, console.note);
    try {
      const publisher = await openPublisher(config, console.note);
      const outcome = await trainInto(output, { ...run, sinks: [page.sink] }, team, resume, specs, pool, publisher);
      const hub = outcome.stopped ? null : await publisher.finished();
      return { ...outcome, outputDir: config.outputDir, bundled, ...(hub && { hub }) };
    } finally {
      await page.close();
      await pool.close();
    }
  } finally {
    output.release();
  }
}

/** Takes the folder. */
function permit(output: OutputFolder, { config, file, bundled, given }: TrainingRun, resume: ResumePoint | null): void {
  output.permit({
    overwrite: config.overwrite,
    resumes: true,
    resume: resume && { folder: resume.folder, step: resume.state.step },
    newest: config.resumeFromCheckpoint === true,
    inputs: inputsOf(config, file),
    mayReplace: bundled && !given.has("output_dir") ? isOfBundledRun : undefined,
  });
}

/** What a training run reads, by the names of the settings: it must not lie where the run writes. */
function inputsOf(config: TrainConfig, file: string | undefined): Readonly<Record<string, string | null>> {
  const { model, dataset, evalDataset } = trainingPaths(config);
  const models = (config.rewardFuncs ?? []).filter(isFolder);
  return {
    model,
    dataset,
    eval_dataset: evalDataset,
    ref_model: config.refModel,
    critic_model: config.criticModel,
    chat_template: config.chatTemplate,
    "the configuration": file ?? null,
    ...Object.fromEntries(models.map((path, i) => [`reward_funcs[${i}]`, path])),
  };
}

async function trainInto(
  output: OutputFolder,
  { config, bundled, console, onBegin, reviseRewards, functions = noFunctions, sinks }: TrainingRun,
  team: Placed,
  resume: ResumePoint | null,
  specs: readonly RewardSpec[],
  pool: RewardPool,
  publisher: Publisher,
): Promise<RunOutcome> {
  requireRewardNamed(config, pool.names);
  requireEvaluationName(config.metricForBestModel, {
    rewards: pool.names,
    logsMore: specs.some(isOwn),
    samples: config.evalNumGenerations,
  });
  const paths = trainingPaths(config);
  const setup = await setUpTraining(config, paths, console.note, resume?.folder ?? null, team);
  try {
    // The reward processes start while the models are loaded.
    const remarks = goldRemarks(specs, setup.problems, pool);
    const ready = Promise.all([remarks, pool.ready()]);
    ready.catch(() => {}); // reported below, unless the models fail first
    const { dtype } = setup.planned.tenants.policy.model;
    console.note(`${shownPath(paths.model)} on ${shownPath(paths.dataset)} · ${dtype} · ${setup.device.description}`);
    for (const line of describeMemory(setup.planned.memory)) console.note(line);
    if (resume) {
      console.note(`going on after step ${resume.state.step} from ${resume.folder}`);
      for (const remark of resumeRemarks(resume.state, recordOf(setup.config, functions), setup.device.numericsKey))
        console.note(`note: ${remark}`);
    }
    if (team.ranks.size > 1) console.note(teamLine(setup));
    await requireSame(team.ranks, () => factsOf(setup, functions));
    await requireRoom(team.ranks, setup.planned.memory, setup.device);
    const outcome = await withSession(setup.planned, async (session) => {
      await requireSame(team.ranks, () => weightsOf(session));
      for (const remark of (await ready)[0]) console.note(`note: ${remark}`);
      const rewards = rewardSources(session.rewardModels, pool, config.systemPrompt);
      const evaluate = evaluation(setup, session.rollout, rewards, specs, console);
      const onSaved = publisher.saved;
      const hooks = { console, rewards, evaluate, reviseRewards, functions, onSaved, sinks };
      output.begin({
        ...{ command: "train", bundled, totalSteps: totalSteps(setup), settings: recordOf(config, functions) },
        memory: memoryRecord(setup.planned.memory),
      });
      onBegin?.();
      return train(setup, session, hooks, resume);
    });
    for (const line of setup.device.traceLines()) console.note(line);
    if (outcome.stopped)
      console.note(
        isEarlierWaiting(config.outputDir)
          ? "stopped before it had learned anything"
          : `stopped after step ${outcome.steps}; go on with --resume_from_checkpoint true`,
      );
    return outcome;
  } finally {
    setup.close();
  }
}

/** "4 ranks divide steps of 256 completions: 64 each" */
function teamLine({ team: { ranks, division }, batch: { stepCompletions } }: TrainingSetup): string {
  const each = stepCompletions / ranks.size;
  const share = Number.isInteger(each) ? `${each} each` : `about ${each.toFixed(1)} each`;
  const optimizer = division?.zero ? "; each keeps its share of masters and moments" : "";
  return `${ranks.size} ranks divide steps of ${stepCompletions} completions, ${share}, in ${division?.shards} gradient shards${optimizer}`;
}

/** What must be the same on all ranks, besides the weights. */
function factsOf({ config, device, problems, evalProblems }: TrainingSetup, functions: OwnFunctions) {
  const { dataset } = problems;
  return {
    ...comparable(recordOf(config, functions)),
    "number of rows": [dataset.numRows, evalProblems?.dataset.numRows ?? 0],
    "longest prompt": problems.longestPrompt(),
    processor: device.numericsKey,
  };
}

/** @throws InputError where dynamic sampling is to look at a reward function that does not exist */
function requireRewardNamed({ dynamicSamplingReward: name }: TrainConfig, names: readonly string[]): void {
  if (name === null || names.includes(name)) return;
  const known = `there ${names.length === 1 ? "is" : "are"} ${names.join(", ")}`;
  throw new InputError(`dynamic_sampling_reward ${name}: no reward function has this name; ${known}`);
}

/** Evaluation as the trainer calls it; null where there is nothing to evaluate on. */
function evaluation(
  { config, evalProblems, tokenizer, longestPrompt, team: { ranks } }: TrainingSetup,
  engine: RolloutEngine,
  sources: RewardSources,
  specs: readonly RewardSpec[],
  console: Control["console"],
): TrainerHooks["evaluate"] {
  if (!evalProblems) return null;
  const cure = specs.every(needsGold)
    ? "name the column with --answer_column, or reward otherwise with --reward_funcs"
    : null;
  const problems = evaluationProblems(evalProblems, config.evalSamples, longestPrompt, cure);
  return againstFirst(async (state: RewardTrainerState) => {
    const result = await evaluateProblems(engine, tokenizer, sources.pool, problems, trainingEvaluation(config), {
      score: scoreAnswers(sources, state, tokenizer),
      onProgress: (done, total) => console.progress({ step: 0, steps: 0, phase: "evaluation", done, total }),
      ranks,
    });
    for (const warning of result?.warnings ?? []) console.note(`evaluation: ${warning}`);
    return result;
  });
}
