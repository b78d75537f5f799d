/** `grpo train`: the main job, wired together from its settings. The loop itself is src/grpo/trainer.ts. */
import { mkdirSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { assetName } from "../assets.ts";
import { latestCheckpoint, listCheckpoints } from "../checkpoint/state.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import type { TrainConfig } from "../config/schema.ts";
import { readCheckpointState } from "../engine/checkpointing.ts";
import { describeMemory } from "../engine/memory.ts";
import type { Session } from "../engine/session.ts";
import { InputError } from "../errors.ts";
import { type Evaluation, evaluateProblems, evaluationProblems } from "../eval/accuracy.ts";
import { evaluationMetrics, trainingEvaluation } from "../eval/report.ts";
import { rewardSources, scoreGroups } from "../grpo/model-rewards.ts";
import { resumeRemarks, trainerState } from "../grpo/run-state.ts";
import type { RewardSources } from "../grpo/sampling.ts";
import { setUpTraining, type TrainingSetup } from "../grpo/setup.ts";
import { train as runTraining, type TrainerHooks, type TrainOutcome } from "../grpo/trainer.ts";
import { createConsole, type RunConsole } from "../metrics/console.ts";
import { writing } from "../metrics/write-error.ts";
import { callOf } from "../program.ts";
import { createRewardPool, type RewardTrainerState } from "../rewards/pool.ts";
import { needsGold, parseRewardSpec, type RewardSpec } from "../rewards/specs.ts";
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
export function trainingPaths(config: TrainConfig) {
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

export const rewardSpecs = (names: readonly string[] | null): RewardSpec[] => (names ?? ["auto"]).map(parseRewardSpec);

/**
 * Checks that a run from the start, or one that goes on from another folder's checkpoint, replaces no earlier run.
 *
 * @param checkpoint where the run goes on from
 * @throws InputError where `outputDir` holds checkpoints that nothing was said about
 */
export function requireFreshOutput(outputDir: string, overwrite: boolean, checkpoint: string | null = null): void {
  const goesOn = checkpoint !== null && resolve(dirname(checkpoint)) === resolve(outputDir);
  if (overwrite || goesOn || listCheckpoints(outputDir).length === 0) return;
  throw new InputError(
    `output_dir ${outputDir} holds an earlier run with checkpoints; go on with --resume_from_checkpoint true, start anew with --overwrite, or name another --output_dir`,
  );
}

/** Whether every checkpoint there is one of the bundled model: nothing is lost with it that a minute would not remake. */
function onlyBundledCheckpoints(outputDir: string): boolean {
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
  return async (session: Session, state: RewardTrainerState) => {
    const result = await evaluateProblems(
      session.rollout!,
      tokenizer,
      sources.pool,
      problems,
      trainingEvaluation(config),
      {
        score: scoreGroups(sources, state, tokenizer),
        onProgress: (done, total) => console.progress({ step: 0, steps: 0, phase: "evaluation", done, total }),
        shouldStop: stop,
      },
    );
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
  readonly reviseRewards?: TrainerHooks["reviseRewards"];
}

/** Everything `grpo train` does; returns the exit status. */
export async function runTrain({ argv, console, stopRequested, reviseRewards }: TrainRun): Promise<number> {
  const { config, warnings, bundled } = orBundled((options) => configFor("train", argv, options));
  for (const warning of warnings) console.note(`note: ${warning}`);
  const { outputDir } = config;
  const checkpoint = resumeFolder(config.resumeFromCheckpoint, outputDir);
  requireFreshOutput(outputDir, config.overwrite || (bundled && onlyBundledCheckpoints(outputDir)), checkpoint);
  const resume =
    checkpoint === null ? null : { folder: checkpoint, state: readCheckpointState(checkpoint, trainerState) };
  const pool = createRewardPool({
    functions: rewardSpecs(config.rewardFuncs),
    ...(config.rewardWeights ? { weights: config.rewardWeights } : {}),
    parameters: config,
    timeoutMs: config.rewardTimeout * 1000,
  });
  try {
    requireRewardNamed(config, pool.names);
    const paths = trainingPaths(config);
    const setup = await setUpTraining(config, paths, console.note, checkpoint);
    try {
      for (const remark of await goldRemarks(rewardSpecs(config.rewardFuncs), setup.problems, pool))
        console.note(`note: ${remark}`);
      writing(outputDir, () => mkdirSync(outputDir, { recursive: true }));
      console.note(
        `${shown(paths.model)} on ${shown(paths.dataset)} · ${setup.planned.dtype} · ${setup.device.description}`,
      );
      for (const line of describeMemory(setup.planned.memory)) console.note(line);
      if (resume) {
        console.note(`going on after step ${resume.state.step} from ${resume.folder}`);
        for (const remark of resumeRemarks(resume.state, config, setup.device.numericsKey))
          console.note(`note: ${remark}`);
      }
      await pool.ready();
      const session = await setup.planned.open();
      let outcome: TrainOutcome;
      try {
        const rewards = rewardSources(session, pool, config.systemPrompt);
        const hooks: TrainerHooks = {
          console,
          rewards,
          evaluate: evaluation(setup, rewards, console, stopRequested),
          stopRequested,
          ...(reviseRewards ? { reviseRewards } : {}),
        };
        outcome = await runTraining(setup, session, hooks, resume);
      } finally {
        session.close();
      }
      for (const line of setup.device.traceLines()) console.note(line);
      if (outcome.stopped)
        console.note(`stopped after step ${outcome.steps}; go on with --resume_from_checkpoint true`);
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
  name: "train",
  summary: "train a model with GRPO; with nothing else, the bundled one",
  usage: `Usage: grpo train [CONFIG] [--key value …]

Samples a group of completions per prompt, scores them and updates the policy. With no model and no dataset: the
bundled tiny model on the bundled problems. CONFIG is a TOML, YAML or JSON file; names of TRL, verl and OpenRLHF are
taken, left out with a remark, or refused with ours. Ctrl-C saves a checkpoint; --resume_from_checkpoint true goes on from it.

${describeSettings("train")}`,
  async run(argv) {
    const console = standardConsole();
    const interrupt = onInterrupt(console.note);
    try {
      return await runTrain({ argv, console, stopRequested: interrupt.requested });
    } finally {
      interrupt.release();
      console.close();
    }
  },
};
