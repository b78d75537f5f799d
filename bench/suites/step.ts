/**
 * `bench step`: whole GRPO steps through the program's own trainer: prompts, sampling, rewards, the reference, the update. The
 * bundled model and problems by default, a model's folder, or a shape with random weights, written to a temporary folder with
 * the bundled tokenizer. Takes every setting of train; evaluation and checkpoints are left out, and the first step is a warm-up.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bundledModel, bundledProblems, bundledTraining } from "../../src/api/bundled.ts";
import { trainWith } from "../../src/api/train.ts";
import { resolveModel } from "../../src/checkpoint/hub.ts";
import { readModelConfig } from "../../src/checkpoint/huggingface.ts";
import { configFor } from "../../src/config/load.ts";
import type { Device } from "../../src/device/device.ts";
import { InputError, RunError } from "../../src/errors.ts";
import type { MetricsRecord } from "../../src/metrics/metrics-file.ts";
import { computeDType } from "../../src/session/planned-model.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { type Figure, less, more } from "../figures.ts";
import type { BenchFlags } from "../flags.ts";
import { median } from "../measure.ts";
import { requireModel } from "../model.ts";
import { openBenchDevice } from "../open.ts";
import { writeRandomModel } from "../random-model.ts";
import { allowedDifference } from "./rollout.ts";
import { reportOf, type Suite } from "./suite.ts";

/** For a model of the user's own: 4 prompts with 8 completions each, which small machines can hold. */
const modelDefaults = { numGenerations: 8, perDeviceTrainBatchSize: 32, maxCompletionLength: 64 };

/** Settings of train that a benchmark decides itself. */
const decided = ["output_dir", "resume_from_checkpoint", "overwrite", "save_steps", "eval_dataset"];

const given = (flags: BenchFlags, name: string) =>
  flags.forTrainer.some((word) => word.replaceAll("-", "_").split("=")[0] === `__${name}`);

/**
 * The trainer's settings: what was written, over the bundled run's (with another model: `modelDefaults`), over train's defaults.
 *
 * @param work a folder for the run's output, and for a model that has to be written first
 * @throws InputError for a setting that a benchmark decides
 */
export async function trainerSettings(flags: BenchFlags, work: string, maxSteps: number) {
  for (const name of decided)
    if (given(flags, name)) throw new InputError(`--${name}: a benchmark decides it; omit it`);
  const argv = [...flags.forTrainer];
  if (flags.shape !== null) argv.push("--model", await writeRandomModel(join(work, "model"), flags.shape));
  else if (flags.model === null) argv.push("--model", bundledModel());
  if (!given(flags, "dataset")) argv.push("--dataset", bundledProblems());
  argv.push("--output_dir", join(work, "run"), "--max_steps", String(maxSteps), "--save_steps", "0");
  const ownModel = flags.shape !== null || flags.model !== null;
  return (options = {}) =>
    configFor("train", argv, { ...options, defaults: ownModel ? modelDefaults : bundledTraining });
}

/** Trains; `onProgress` follows the phases. */
export async function runTrainer(
  load: Parameters<typeof trainWith>[0],
  onProgress: (phase: string) => void = () => {},
  stopRequested: () => boolean = () => false,
): Promise<MetricsRecord[]> {
  const records: MetricsRecord[] = [];
  const nothing = () => {};
  await trainWith(load, {
    console: {
      ...{ completions: nothing, evaluation: nothing, note: nothing, close: nothing },
      progress: ({ phase }) => onProgress(phase),
      step: (record) => void records.push(record),
    },
    stopRequested,
  });
  return records;
}

export interface RecordedRollout {
  readonly step: number;
  readonly completion_ids: readonly number[];
  readonly reward: number | null;
}

function recordedRollouts(folder: string): RecordedRollout[] {
  const completions = join(folder, "completions");
  return readdirSync(completions)
    .sort()
    .flatMap((name) => readFileSync(join(completions, name), "utf8").trimEnd().split("\n"))
    .map((text) => JSON.parse(text) as RecordedRollout);
}

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

/**
 * Checks a run by what it recorded: loss and gradient finite, the sampler's logprobs those of training, no distance from a
 * reference that the policy has not left yet, rewards and lengths of the recorded rollouts those of the metrics.
 *
 * @returns what was checked, in words
 * @throws RunError naming what is wrong
 */
export function checkRun(
  records: readonly MetricsRecord[],
  rollouts: readonly RecordedRollout[],
  ownReference: boolean,
  device: Device,
  dtype: ComputeDType,
): string {
  const wrong = (text: string) => new RunError(`step on ${device.description}: wrong result: ${text}`);
  const allowed = allowedDifference(device, dtype);
  if (records.length === 0) throw wrong("no step was made");
  for (const record of records) {
    const where = `step ${record.step}`;
    for (const name of ["loss", "grad_norm"])
      if (!Number.isFinite(record[name])) throw wrong(`${where}: ${name} is ${record[name]}`);
    const [apart, most] = ["mean", "max"].map((kind) => Number(record[`sampling/sampling_logp_difference/${kind}`]));
    if (!(apart! <= allowed.mean && most! <= allowed.worst))
      throw wrong(`${where}: sampled and trained logprobs differ by ${apart} in the mean and ${most} at worst`);
    const own = rollouts.filter(({ step }) => step === record.step);
    if (own.length === 0) continue; // its generation serves an earlier step too
    const length = mean(own.map(({ completion_ids }) => completion_ids.length));
    if (Math.abs(length - Number(record["completions/mean_length"])) > 1e-9 * length)
      throw wrong(
        `${where}: completions/mean_length is ${record["completions/mean_length"]}, that of its rollouts ${length}`,
      );
    const rewards = own.flatMap(({ reward }) => (reward === null ? [] : [reward]));
    if (rewards.length > 0 && Math.abs(mean(rewards) - Number(record.reward)) > 1e-9)
      throw wrong(`${where}: reward is ${record.reward}, that of its rollouts ${mean(rewards)}`);
  }
  if (ownReference && device.exactlyOnPolicy && records[0]!.kl !== 0)
    throw wrong(`the KL to the starting model is ${records[0]!.kl} in the first step`);
  return device.exactlyOnPolicy
    ? `sampled logprobs are training's, bit for bit${ownReference ? "; the first KL is 0" : ""}; rollouts and metrics agree`
    : "sampled logprobs are within the limit of training's; rollouts and metrics agree";
}

/** Trains `steps` steps and one before them, checks the run, and takes its figures. */
async function measureSteps(flags: BenchFlags, work: string, device: Device) {
  const steps = flags.maxSteps ?? (flags.quick ? 1 : 3);
  const load = await trainerSettings(flags, work, steps + 1);
  const { config } = load();
  if (flags.path !== null) process.env.BUN_GRPO_CPU_PATH = flags.path;
  const records = await runTrainer(load);
  const rollouts = recordedRollouts(config.outputDir);
  const dtype = computeDType(readModelConfig(await resolveModel(config.model!, { note() {} })), config.dtype);
  const checked = checkRun(records, rollouts, config.beta !== 0 && config.refModel === null, device, dtype);

  const timed = records.slice(1); // the first step loads, compiles and touches
  const of = (name: string) => median(timed.map((record) => Number(record[name])));
  const tokensOf = ({ step }: MetricsRecord) =>
    rollouts.reduce((sum, rollout) => sum + (rollout.step === step ? rollout.completion_ids.length : 0), 0);
  const perToken = timed.map((record) => (1000 * Number(record.step_time)) / tokensOf(record));
  const phases = Object.keys(timed[0]!).filter((name) => name.startsWith("time/"));
  const inUse = Math.max(...records.map((record) => Number(record.memory_peak_bytes)));
  const utilization = { share: of("mfu"), of: "peak (MFU)" };
  const figures: Figure[] = [
    less("a step", of("step_time"), "s"),
    less("a step, per completion token", median(perToken), "ms"),
    more("a step, tokens of prompts and completions", of("tokens_per_second"), "tokens/s", utilization),
    more("its rollout", of("rollout_tokens_per_second"), "tokens/s"),
    more("its update", of("update_tokens_per_second"), "tokens/s"),
    ...phases.map((name) => less(name, of(name), "s", { share: of(name) / of("step_time"), of: "the step" })),
    less("memory in use at its peak", inUse / 2 ** 20, "MiB"),
  ];
  const { numGenerations, perDeviceTrainBatchSize, maxCompletionLength, beta } = config;
  return {
    ...{ checked, figures, model: flags.shape ?? flags.model ?? "the bundled model", dtype, steps },
    completions: rollouts.filter(({ step }) => step === records.at(-1)!.step).length,
    meanLength: of("completions/mean_length"),
    settings: { numGenerations, perDeviceTrainBatchSize, maxCompletionLength, beta },
  };
}

export const step: Suite = {
  summary: "a whole GRPO step of the trainer: seconds, ms per completion token, memory",
  usual: true,
  takesTraining: true,
  takes: ["device", "shape", "model", "dtype", "threads", "path", "quick", "max_steps"],
  async run(flags, line) {
    requireModel(flags);
    const work = mkdtempSync(join(tmpdir(), "grpo-bench-"));
    try {
      (await trainerSettings({ ...flags, shape: null }, work, 1))(); // refused settings are, before kernels are compiled
      const device = await openBenchDevice(flags);
      try {
        const { checked, figures, ...details } = await measureSteps(flags, work, device);
        const report = reportOf("step", device, checked, figures, line, details);
        const { model, dtype, completions, meanLength, settings, steps } = details;
        line(
          `  ${model}, ${dtype}: ${completions} completions of up to ${settings.maxCompletionLength} tokens (${meanLength.toFixed(1)} on average), ${settings.numGenerations} of each prompt; the median of ${steps} steps`,
        );
        return report;
      } finally {
        device.close();
      }
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  },
};
