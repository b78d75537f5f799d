/** `grpo plan`: the memory plan of a training run, without allocating it. */
import { describeSettings } from "../config/help.ts";
import { describeMemory, mebibytes, planBytes } from "../engine/memory.ts";
import { setUpTraining } from "../grpo/setup.ts";
import type { Command } from "./command.ts";
import { trainingConfig, trainingPaths } from "./train.ts";

export const plan: Command = {
  name: "plan",
  summary: "the memory that a training run takes, without taking it",
  usage: `Usage: grpo plan [CONFIG.toml] [--key value …]

Takes the settings of grpo train and prints every group of buffers with its size and lifetime, the peak, and whether
this machine has it. Exit status 1 where it has not.

${describeSettings("plan")}`,
  async run(argv) {
    const { config, warnings } = trainingConfig("plan", argv);
    const note = (text: string) => process.stderr.write(`${text}\n`);
    for (const warning of warnings) note(`note: ${warning}`);
    const paths = trainingPaths(config);
    const setup = await setUpTraining(config, paths, note);
    try {
      const { memory } = setup.planned;
      const available = planBytes(setup.device);
      const fits = memory.peakBytes <= available;
      const lines = [
        `${paths.model} · ${setup.planned.dtype} · ${setup.device.description}`,
        `longest prompt ${setup.longestPrompt} tokens, ${setup.batch.stepCompletions} completions a step`,
        ...describeMemory(memory),
        `${(setup.device.freeBytes() === null ? "free on this machine" : "free on the device").padEnd(54)} ${mebibytes(available).padStart(9)}  ${fits ? "fits" : "does not fit"}`,
      ];
      process.stdout.write(`${lines.join("\n")}\n`);
      return fits ? 0 : 1;
    } finally {
      setup.close();
    }
  },
};
