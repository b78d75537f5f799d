/** `grpo plan`: the memory plan of a training run, without allocating it. */
import { orBundled, trainingPaths } from "../api/bundled.ts";
import { onRank, plannedTeams } from "../api/ranks.ts";
import { shownPath } from "../assets.ts";
import { memoryNamed } from "../config/gpus.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import { everySteps } from "../config/often.ts";
import type { PlanConfig } from "../config/schema.ts";
import { planAgain, setUpTraining, totalSteps } from "../grpo/setup.ts";
import { describeDisk, diskUse } from "../run/disk.ts";
import { describeMemory, type MemoryEstimate, memoryByModel } from "../session/memory.ts";
import { mebibytes } from "../tensor/mebibytes.ts";
import type { Command } from "./command.ts";
import { memoryFor, printFit } from "./fit.ts";
import { noteOnStderr } from "./terminal.ts";

/** The plan of a run with these settings, GRPO's or PPO's. */
async function memoryOf(config: PlanConfig, advantageEstimator: "grpo" | "gae") {
  const setup = await setUpTraining({ ...config, advantageEstimator }, trainingPaths(config), noteOnStderr);
  try {
    return setup.planned.memory;
  } finally {
    setup.close();
  }
}

const column = (text: string) => text.padStart(12);

/** GRPO's and PPO's memory by model: what each holds, and what its buffers take while it is busy. */
function comparison(grpo: MemoryEstimate, ppo: MemoryEstimate): string[] {
  const [ours, theirs] = [memoryByModel(grpo.plan), memoryByModel(ppo.plan)];
  const rowsOf = (key: "heldBytes" | "phaseBytes", title: (model: string) => string) =>
    theirs.map(({ model, [key]: bytes }) => {
      const own = ours.find((entry) => entry.model === model);
      return `${title(model).padEnd(44)} ${column(own ? mebibytes(own[key]) : "none")} ${column(mebibytes(bytes))}`;
    });
  const line = (name: string, a: number, b: number) =>
    `${name.padEnd(44)} ${column(mebibytes(a))} ${column(mebibytes(b))}`;
  const saved = (100 * (1 - grpo.plan.totalBytes / ppo.plan.totalBytes)).toFixed(0);
  return [
    `${"MiB".padEnd(44)} ${column("GRPO")} ${column("PPO")}`,
    ...rowsOf("heldBytes", (model) => `${model}: weights, optimizer, tables`),
    ...rowsOf("phaseBytes", (model) => `${model}: buffers while it is busy`),
    line("planned, buffers sharing their memory", grpo.plan.totalBytes, ppo.plan.totalBytes),
    line("peak, with scratch and the program", grpo.peakBytes, ppo.peakBytes),
    `GRPO takes ${saved} % less than PPO: it has no critic.`,
  ];
}

const sum = (all: readonly number[]) => all.reduce((total, each) => total + each, 0);

/** The program takes what it takes in the first rank's process, but for completions. */
const peakOf = ({ plan, scratchBytes, completionBytes }: MemoryEstimate, first: MemoryEstimate) =>
  plan.totalBytes + scratchBytes + first.programBytes - first.completionBytes + completionBytes + first.reserveBytes;

/** What is printed by rank at most; of more ranks, those that need least and most. */
const MOST_RANKS = 16;

/** The peak of each rank, and of all. The table above it is rank 0's. */
function byRank(peaks: readonly number[]): string[] {
  const line = (name: string, bytes: number) => `${name.padEnd(61)} ${mebibytes(bytes).padStart(9)}`;
  const each =
    peaks.length <= MOST_RANKS
      ? peaks.map((bytes, rank) => line(`peak of rank ${rank}`, bytes))
      : [line("least peak of a rank", Math.min(...peaks)), line("largest peak of a rank", Math.max(...peaks))];
  return [...each, line(`all ${peaks.length} ranks`, sum(peaks))];
}

export const plan: Command = {
  usage: `Usage: grpo plan [CONFIG] [--key value …]

Takes the settings of grpo train and prints every group of buffers with its size and lifetime, the peak, and whether this
machine has that much memory (exit status 1 if not), then the disk space that the run needs and what is free.
With --ranks N, the groups are those of rank 0, followed by the peak of each rank; ranks on CPUs share the machine's memory.
--compare prints GRPO's and PPO's memory side by side instead. --fit searches for the settings that fill the memory best, that of
this device or of --memory 24GiB or --memory "RTX 4090", and prints them as flags.

${describeSettings("plan")}`,
  async run(argv) {
    const { config, warnings, given } = orBundled((options) => configFor("plan", argv, options));
    if (config.memory !== null) memoryNamed(config.memory);
    for (const warning of warnings) noteOnStderr(`note: ${warning}`);
    const paths = trainingPaths(config);
    if (config.compare) {
      const [grpo, ppo] = [await memoryOf(config, "grpo"), await memoryOf(config, "gae")];
      process.stdout.write(`${[shownPath(paths.model), ...comparison(grpo, ppo)].join("\n")}\n`);
      return 0;
    }
    const teams = plannedTeams(config, given.has("per_device_train_batch_size"));
    const first = teams[0]!;
    const own = onRank(config, first);
    const setup = await setUpTraining(own, paths, noteOnStderr, null, first);
    try {
      if (config.fit) return await printFit(setup, config, given, argv);
      const peaks = [setup.planned.memory.peakBytes];
      for (const team of teams.slice(1)) {
        const planned = await planAgain(setup, own, team);
        planned.close();
        peaks.push(peakOf(planned.memory, setup.planned.memory));
      }
      const { memory, tenants } = setup.planned;
      const { config: modelConfig, dtype } = tenants.policy.model;
      const { bytes: available, gpu } = memoryFor(setup, config.memory);
      // Ranks share the memory of their machine; each has a GPU of its own.
      const needs = setup.device.freeBytes() === null ? sum(peaks) : Math.max(...peaks);
      const fits = needs <= available;
      const steps = totalSteps(setup);
      const disk = diskUse(modelConfig, dtype, {
        steps,
        every: everySteps(config, steps).save,
        limit: config.saveTotalLimit,
        hasCritic: config.advantageEstimator === "gae",
        hasMovingReference: config.syncRefModel,
        form: config,
      });
      const here = setup.device.freeBytes() === null ? "free on this machine" : "free on the device";
      const free = config.memory === null ? here : `there are${gpu === null ? "" : ` on ${gpu}`}`;
      const lines = [
        `${shownPath(paths.model)} · ${dtype} · ${setup.device.description}`,
        `longest prompt ${setup.longestPrompt} tokens, ${setup.batch.stepCompletions} completions a step, micro-batches of ${setup.config.microBatchTokens} tokens`,
        ...describeMemory(memory),
        ...(peaks.length === 1 ? [] : byRank(peaks)),
        `${free.padEnd(54)} ${mebibytes(available).padStart(9)}  ${fits ? "fits" : "does not fit"}`,
        ...describeDisk(disk, config.outputDir, config.overwrite),
      ];
      process.stdout.write(`${lines.join("\n")}\n`);
      return fits ? 0 : 1;
    } finally {
      setup.close();
    }
  },
};
