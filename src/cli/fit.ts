/** `grpo plan --fit`: prints the settings that fill the memory best, as flags. The search is src/api/fit.ts. */
import { type FitMemory, type Fitted, fitSettings } from "../api/fit.ts";
import { memoryNamed, type NamedMemory } from "../config/gpus.ts";
import type { PlanConfig } from "../config/schema.ts";
import type { TrainingSetup } from "../grpo/setup.ts";
import { callOf } from "../program.ts";
import { planBytes } from "../session/memory.ts";
import { mebibytes } from "../tensor/mebibytes.ts";

/** What is planned for: what is free here, or what `memory` names. @throws InputError as `memoryNamed` */
export function memoryFor(setup: Pick<TrainingSetup, "device">, memory: string | null): NamedMemory & FitMemory {
  const hasOwn = setup.device.freeBytes() !== null;
  if (memory === null) return { bytes: planBytes(setup.device), gpu: null, onGpu: hasOwn, isOwn: true };
  const named = memoryNamed(memory);
  return { ...named, onGpu: hasOwn || named.gpu !== null };
}

/** A setting as a flag. */
export const flagOf = ({ key, value }: { readonly key: string; readonly value: unknown }): string =>
  value === false ? `--no_${key}` : value === true ? `--${key}` : `--${key} ${value}`;

/** Arguments as a shell takes them. */
const shellWord = (word: string): string =>
  /^[\w./:=@,+-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;

/** The arguments of `plan` that `train` takes too. */
function trainArguments(argv: readonly string[]): string[] {
  const rest: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const argument = argv[i]!;
    if (/^--(no[-_])?fit(=|$)/.test(argument)) {
      if (/^(true|false|yes|no|on|off|0|1)$/i.test(argv[i + 1] ?? "")) i++;
    } else if (/^--memory=/.test(argument)) continue;
    else if (argument === "--memory") i++;
    else rest.push(argument);
  }
  return rest;
}

function described({ fits, peakBytes, changes }: Fitted, memory: NamedMemory, hasOwn: boolean): string[] {
  const where = memory.gpu === null ? "" : ` of ${memory.gpu}`;
  const numbers = `peak ${mebibytes(peakBytes)} of ${mebibytes(memory.bytes)} MiB${where}`;
  const lines = changes.map((change) => `  ${flagOf(change)}${change.cost === null ? "" : `   (${change.cost})`}`);
  const remarks = [
    ...(memory.gpu !== null && !hasOwn
      ? ["Estimated with this machine's CPU, which keeps float32 activations: the GPU takes less."]
      : []),
    "num_generations and per_device_train_batch_size take no memory of their own here: choose them for learning.",
  ];
  if (!fits)
    return [
      `nothing that was tried fits: the least is a ${numbers}`,
      ...lines,
      "Lower max_completion_length, leave out rows with long prompts, set beta to 0 (no reference model), or use a smaller model.",
    ];
  return [changes.length === 0 ? `the settings fit as they are: ${numbers}` : `${numbers} with`, ...lines, ...remarks];
}

/** @returns the exit status: 1 if nothing fits */
export async function printFit(
  setup: TrainingSetup,
  config: PlanConfig,
  given: ReadonlySet<string>,
  argv: readonly string[],
): Promise<number> {
  const all = memoryFor(setup, config.memory);
  // Ranks share the memory of their machine; each has a GPU of its own.
  const memory = all.onGpu ? all : { ...all, bytes: Math.floor(all.bytes / setup.team.ranks.size) };
  const fitted = await fitSettings(setup, config, given, memory);
  const lines = described(fitted, memory, setup.device.freeBytes() !== null);
  if (fitted.fits) {
    const words = [...trainArguments(argv).map(shellWord), ...fitted.changes.map(flagOf)];
    lines.push("", `${callOf("train")} ${words.join(" ")}`.trimEnd());
  }
  process.stdout.write(`${lines.join("\n")}\n`);
  return fitted.fits ? 0 : 1;
}
