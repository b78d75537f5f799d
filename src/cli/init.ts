/** `grpo init`: writes a commented configuration for train, from three answers or from flags. Never over a file. */
import { existsSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline/promises";
import { bundledTraining, trainingPaths } from "../api/bundled.ts";
import { fitSettings } from "../api/fit.ts";
import { memoryNamed } from "../config/gpus.ts";
import { configFrom } from "../config/load.ts";
import { toSnake } from "../config/names.ts";
import type { ConfigInput } from "../config/schema.ts";
import { datasetSettings } from "../config/settings/data.ts";
import { engineSettings } from "../config/settings/engine.ts";
import { planSettings } from "../config/settings/output.ts";
import { configTemplate } from "../config/template.ts";
import { errorText, InputError, RunError } from "../errors.ts";
import { setUpTraining } from "../grpo/setup.ts";
import { callOf } from "../program.ts";
import { availableBytes } from "../session/memory.ts";
import { mebibytes } from "../tensor/mebibytes.ts";
import type { Command } from "./command.ts";
import { memoryFor } from "./fit.ts";
import { describeFlags, readFlags } from "./flags.ts";
import { noteOnStderr } from "./terminal.ts";

const settings = {
  model: engineSettings.model,
  dataset: datasetSettings.dataset,
  memory: planSettings.memory,
  device: engineSettings.device,
};

const defaultFile = "grpo.toml";

interface Answers {
  readonly model: string | null;
  readonly dataset: string | null;
  readonly memory: string | null;
  readonly device: string;
}

export const init: Command = {
  flags: settings,
  usage: `Usage: grpo init [FILE.toml] [--model M] [--dataset D] [--memory SIZE|GPU] [--device auto|cpu|cuda]

Writes a configuration for grpo train, by default ${defaultFile}, with every usual setting explained. On a terminal it asks for
the model, the data and the memory; anything given as a flag is not asked for. Settings of memory are searched for as
grpo plan --fit does, where the model and the data are here. A file that exists is never replaced.

${describeFlags(settings)}
Example: grpo init run.toml --model ./Qwen3-0.6B --dataset gsm8k.arrow --memory 24GiB && grpo train run.toml`,
  async run(argv) {
    const words = argv.filter((word) => !word.startsWith("--") && /\.toml$/i.test(word));
    const file = words[0] ?? defaultFile;
    const { flags } = readFlags(
      "init",
      settings,
      argv[0] === file ? argv.slice(1) : argv.filter((word) => word !== file),
    );
    if (existsSync(file)) throw new InputError(`${file} exists and is not replaced; name another file, or remove it`);
    const asks = process.stdin.isTTY === true && process.stdout.isTTY === true;
    const given = new Set(argv.map((word) => /^--([\w-]+)/.exec(word)?.[1]));
    const answers = asks ? await ask(flags, given) : flags;
    if (answers.memory !== null) memoryNamed(answers.memory);
    const { chosen, remarks } = await choose(answers);
    const head = [
      `A run of grpo train: ${callOf("train")} ${file}`,
      "Lines that begin with # are comments, with the default in place; take the # away to change a setting.",
      `All settings: ${callOf("train")} --help. Memory: ${callOf("plan")} ${file} --fit`,
      ...remarks,
    ];
    try {
      writeFileSync(file, configTemplate("train", chosen, head), { flag: "wx" });
    } catch (error) {
      throw new RunError(`${file}: cannot be written (${errorText(error)})`);
    }
    process.stdout.write(
      `wrote ${file}\n${remarks.map((line) => `${line}\n`).join("")}next: ${callOf("train")} ${file}\n`,
    );
  },
};

/** The three questions; an empty answer takes what is in brackets. */
async function ask(flags: Answers, given: ReadonlySet<string | undefined>): Promise<Answers> {
  const lines = createInterface({ input: process.stdin, output: process.stdout });
  // Ctrl-D answers nothing more.
  const closed = new Promise<never>((_, reject) =>
    lines.once("close", () => reject(new InputError("the questions were not answered; nothing was written"))),
  );
  closed.catch(() => {});
  const question = async (text: string): Promise<string | null> => {
    const answer = (await Promise.race([lines.question(text), closed])).trim();
    return answer === "" ? null : answer;
  };
  try {
    const { model, dataset, memory } = flags;
    return {
      ...flags,
      model: given.has("model") ? model : await question("Model, a folder or a hub id [the bundled tiny model]: "),
      dataset: given.has("dataset")
        ? dataset
        : await question("Data, a file, a folder or a hub id [the bundled problems]: "),
      memory: given.has("memory")
        ? memory
        : await question(
            `Memory, a size such as 24GiB or a GPU [what is free here, ${mebibytes(availableBytes())} MiB]: `,
          ),
    };
  } finally {
    lines.close();
  }
}

/** The settings that the answers come to, and what to know of them. */
async function choose({ model, dataset, memory, device }: Answers): Promise<{
  readonly chosen: Record<string, unknown>;
  readonly remarks: string[];
}> {
  const bundled = model === null && dataset === null;
  const input: ConfigInput<"train"> = {
    ...(bundled ? bundledTraining : {}),
    ...(model !== null && { model }),
    ...(dataset !== null && { dataset }),
    ...(device !== "auto" && { device }),
  };
  const chosen = Object.fromEntries(Object.entries(input).map(([key, value]) => [toSnake(key), value]));
  if (!bundled)
    Object.assign(chosen, { num_generations: 8, per_device_train_batch_size: 64, output_dir: "outputs/train" });
  const isHere = [model, dataset].every((path) => path === null || existsSync(path));
  if (!isHere)
    return { chosen, remarks: ["The model or the data is not here yet: settings of memory are the defaults."] };
  const { config } = configFrom("train", {
    ...input,
    ...(bundled ? {} : { numGenerations: 8, perDeviceTrainBatchSize: 64 }),
  });
  const setup = await setUpTraining(config, trainingPaths(config), noteOnStderr);
  try {
    const room = memoryFor(setup, memory);
    const { fits, peakBytes, changes } = await fitSettings(setup, config, new Set(Object.keys(chosen)), room);
    const found: Record<string, unknown> = { ...chosen };
    for (const { key, value } of changes) found[key] = value;
    const numbers = `${mebibytes(peakBytes)} of ${mebibytes(room.bytes)} MiB${room.gpu === null ? "" : ` of ${room.gpu}`}`;
    return {
      chosen: found,
      remarks: [fits ? `Planned memory: ${numbers}` : `It does not fit: at least ${numbers}; use a smaller model`],
    };
  } finally {
    setup.close();
  }
}
