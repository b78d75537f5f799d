/** `grpo train`: the main job, wired together from its settings. The loop itself is src/grpo/trainer.ts. */
import { join, relative, resolve } from "node:path";
import { assetName } from "../assets.ts";
import { isEarlierWaiting } from "../checkpoint/earlier.ts";
import { runRecord } from "../checkpoint/held.ts";
import { type OutputFolder, openOutputFolder } from "../checkpoint/output-folder.ts";
import { isFolder, latestCheckpoint, listCheckpoints } from "../checkpoint/state.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import { toJson } from "../config/record.ts";
import type { TrainConfig } from "../config/schema.ts";
import { InputError } from "../errors.ts";
import { type Evaluation, evaluateProblems, evaluationProblems } from "../eval/accuracy.ts";
import { requireEvaluationName } from "../eval/metric-names.ts";
import { evaluationMetrics, trainingEvaluation } from "../eval/report.ts";
import { type RewardSources, rewardSources, scoreAnswers } from "../grpo/model-rewards.ts";
import { resumeRemarks, trainerState } from "../grpo/run-state.ts";
import { setUpTraining, type TrainingPaths, type TrainingSetup, totalSteps } from "../grpo/setup.ts";
import { train as runTraining, type TrainerHooks } from "../grpo/trainer.ts";
import { createConsole, type RunConsole } from "../metrics/console.ts";
import { callOf } from "../program.ts";
import { createRewardPool, type RewardTrainerState } from "../rewards/pool/pool.ts";
import { isModule, needsGold, parseRewardSpec, type RewardSpec } from "../rewards/specs.ts";
import type { RolloutEngine } from "../rollout/engine.ts";
import { readCheckpointState } from "../session/checkpointing.ts";
import { describeMemory } from "../session/memory.ts";
import { withSession } from "../session/session.ts";
import { bundledEvalProblems, bundledModel, bundledProblems, bundledTraining } from "./bundled.ts";
import type { Command } from "./command.ts";
import { goldRemarks } from "./golds.ts";
import { onInterrupt } from "./interrupt.ts";

/** The settings of `train` or `plan`; without a model and a dataset those of the bundled run stand in. */
export function orBundled<L extends { readonly config: { readonly model: unknown; readonly dataset: unknown } }>(
  load: (options: { readonly defaults?: typeof bundledTraining }) => L,
): L & { readonly bundled: boolean } {
  const first = load({});
  const bundled = first.config.model === null && first.config.dataset === null;
  return { ...(bundled ? load({ defaults: bundledTraining }) : first), bundled };
}

/** Where model and data come from. */
export function trainingPaths(config: TrainConfig): TrainingPaths {
  const dataset = config.dataset ?? bundledProblems();
  return {
    model: config.model ?? bundledModel(),
    dataset,
    evalDataset: config.evalDataset ?? (config.dataset === null ? bundledEvalProblems() : null),
  };
}

export function standardConsole(): RunConsole {
  return createConsole({
    isTTY: process.stdout.isTTY === true,
    columns: () => process.stdout.columns,
    write: (text) => process.stdout.write(text),
  });
}

const rewardSpecs = (names: readonly string[] | null): RewardSpec[] => (names ?? ["auto"]).map(parseRewardSpec);

/**
 * Whether a bundled run left what is there, and every checkpoint is one of the bundled model: nothing is lost with it that
 * a minute would not remake.
 */
export function isOfBundledRun(outputDir: string): boolean {
  if (runRecord(outputDir)?.bundled !== true) return false;
  return listCheckpoints(outputDir).every(({ folder }) => {
    try {
      const { config } = readCheckpointState(folder, trainerState);
      return config.model === null && config.dataset === null;
    } catch {
      return false;
    }
  });
}

/** @throws InputError where dynamic sampling is to look at a reward function that there is not */
function requireRewardNamed({ dynamicSamplingReward: name }: TrainConfig, names: readonly string[]): void {
  if (name === null || names.includes(name)) return;
  throw new InputError(
    `dynamic_sampling_reward ${name}: no reward function has this name; there ${names.length === 1 ? "is" : "are"} ${names.join(", ")}`,
  );
}

/** The checkpoint to go on from, or null for a run from the start. */
export function resumeFolder(setting: string | true | null, outputDir: string): string | null {
  if (setting === null) return null;
  return setting === true ? latestCheckpoint(outputDir) : setting;
}

/** Evaluation as the trainer calls it; null where there is nothing to evaluate on. */
function evaluation(
  setup: TrainingSetup,
  engine: RolloutEngine,
  sources: RewardSources,
  console: RunConsole,
  stop: () => boolean,
): TrainerHooks["evaluate"] {
  const { config, evalProblems, tokenizer } = setup;
  if (!evalProblems) return null;
  const problems = evaluationProblems(
    evalProblems,
    config.evalSamples,
    setup.longestPrompt,
    rewardSpecs(config.rewardFuncs).every(needsGold)
      ? "name the column with --answer_column, or reward otherwise with --reward_funcs"
      : null,
  );
  let first: Evaluation | null = null;
  return async (state: RewardTrainerState) => {
    const result = await evaluateProblems(engine, tokenizer, sources.pool, problems, trainingEvaluation(config), {
      score: scoreAnswers(sources, state, tokenizer),
      onProgress: (done, total) => console.progress({ step: 0, steps: 0, phase: "evaluation", done, total }),
      shouldStop: stop,
    });
    if (!result) return { values: {}, note: "stopped" };
    for (const warning of result.warnings) console.note(`evaluation: ${warning}`);
    const metrics = evaluationMetrics(result, first);
    first ??= result;
    return metrics;
  };
}

export interface TrainRun {
  readonly argv: readonly string[];
  readonly console: RunConsole;
  readonly stopRequested: () => boolean;
  /** Called when the run begins to write: from here on it ends by `stopRequested`. */
  readonly onBegin?: () => void;
  readonly reviseRewards?: TrainerHooks["reviseRewards"];
}

/** What a training run reads, by the names of the settings: it must not lie where the run writes. */
function inputsOf(config: TrainConfig, file: string | undefined): Readonly<Record<string, string | null>> {
  const { model, dataset, evalDataset } = trainingPaths(config);
  const models = (config.rewardFuncs ?? []).filter(isFolder);
  return {
    ...{ model, dataset, eval_dataset: evalDataset, ref_model: config.refModel, critic_model: config.criticModel },
    ...{ chat_template: config.chatTemplate, "the configuration": file ?? null },
    ...Object.fromEntries(models.map((path, i) => [`reward_funcs[${i}]`, path])),
  };
}

/** Everything `grpo train` does; returns the exit status. */
export async function runTrain(run: TrainRun): Promise<number> {
  const { config, warnings, bundled, given, file } = orBundled((options) => configFor("train", run.argv, options));
  const { console } = run;
  for (const warning of warnings) console.note(`note: ${warning}`);
  const output = openOutputFolder({ folder: config.outputDir, command: "train", note: console.note });
  try {
    return await trainInto(output, run, { config, file, bundled, named: given.has("output_dir") });
  } finally {
    output.release();
  }
}

interface TrainCommand {
  readonly config: TrainConfig;
  /** That the settings come from; undefined: from flags alone. */
  readonly file: string | undefined;
  readonly bundled: boolean;
  /** Whether the user chose the output folder. */
  readonly named: boolean;
}

async function trainInto(
  output: OutputFolder,
  { console, stopRequested, onBegin, reviseRewards }: TrainRun,
  { config, file, bundled, named }: TrainCommand,
): Promise<number> {
  const { outputDir } = config;
  const checkpoint = resumeFolder(config.resumeFromCheckpoint, outputDir);
  const resume =
    checkpoint === null ? null : { folder: checkpoint, state: readCheckpointState(checkpoint, trainerState) };
  output.permit({
    overwrite: config.overwrite,
    resumes: true,
    resume: resume && { folder: resume.folder, step: resume.state.step },
    newest: config.resumeFromCheckpoint === true,
    inputs: inputsOf(config, file),
    mayReplace: bundled && !named ? isOfBundledRun : undefined,
  });
  const specs = rewardSpecs(config.rewardFuncs);
  const pool = createRewardPool({
    functions: specs,
    ...(config.rewardWeights ? { weights: config.rewardWeights } : {}),
    parameters: config,
    timeoutMs: config.rewardTimeout * 1000,
  });
  try {
    requireRewardNamed(config, pool.names);
    requireEvaluationName(config.metricForBestModel, {
      rewards: pool.names,
      logsMore: specs.some(isModule),
      samples: config.evalNumGenerations,
    });
    const paths = trainingPaths(config);
    const setup = await setUpTraining(config, paths, console.note, checkpoint);
    try {
      for (const remark of await goldRemarks(specs, setup.problems, pool)) console.note(`note: ${remark}`);
      console.note(
        `${shown(paths.model)} on ${shown(paths.dataset)} · ${setup.planned.tenants.policy.model.dtype} · ${setup.device.description}`,
      );
      for (const line of describeMemory(setup.planned.memory)) console.note(line);
      if (resume) {
        console.note(`going on after step ${resume.state.step} from ${resume.folder}`);
        for (const remark of resumeRemarks(resume.state, config, setup.device.numericsKey))
          console.note(`note: ${remark}`);
      }
      await pool.ready();
      const outcome = await withSession(setup.planned, async (session) => {
        const rewards = rewardSources(session.rewardModels, pool, config.systemPrompt);
        const hooks: TrainerHooks = {
          console,
          rewards,
          evaluate: evaluation(setup, session.rollout, rewards, console, stopRequested),
          stopRequested,
          ...(reviseRewards ? { reviseRewards } : {}),
        };
        output.begin({ command: "train", bundled, totalSteps: totalSteps(setup), settings: toJson(config) });
        onBegin?.();
        return runTraining(setup, session, hooks, resume);
      });
      for (const line of setup.device.traceLines()) console.note(line);
      if (outcome.stopped)
        console.note(
          isEarlierWaiting(outputDir)
            ? "stopped before it had learned anything"
            : `stopped after step ${outcome.steps}; go on with --resume_from_checkpoint true`,
        );
      else if (bundled) for (const line of whatNext(outputDir)) console.note(line);
      return outcome.stopped ? 130 : 0;
    } finally {
      setup.close();
    }
  } finally {
    await pool.close();
  }
}

/** A path as it is shortest to read: from here, where it lies below; of what the executable carries, its name. */
function shown(path: string): string {
  const name = assetName(path);
  if (name !== null) return name;
  const below = relative(process.cwd(), resolve(path));
  return below !== "" && !below.startsWith("..") ? below : path;
}

/** What to type after the bundled run. */
function whatNext(outputDir: string): string[] {
  return [
    "",
    "That was the bundled tiny model. For a model and problems of your own:",
    `  ${callOf("data")} convert gsm8k.jsonl gsm8k.arrow`,
    `  ${callOf("train")} --model ./Qwen3-0.6B --dataset gsm8k.arrow --num_generations 8 --per_device_train_batch_size 32`,
    `Its answers: ${join(outputDir, "completions")}; its numbers: ${join(outputDir, "metrics.jsonl")}; all settings: ${callOf("train")} --help`,
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
  async run(argv) {
    const console = standardConsole();
    const interrupt = onInterrupt({ stopping: "stopping after this step and saving a checkpoint" });
    try {
      return await runTrain({ argv, console, stopRequested: interrupt.requested, onBegin: interrupt.begin });
    } finally {
      interrupt.release();
      console.close();
    }
  },
};
