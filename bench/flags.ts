/**
 * The flags of `grpo bench`: their table, and how the arguments become suites and values. A suite that runs the trainer also
 * takes the trainer's own settings, which it passes on unread.
 */
import { kindOf } from "../src/config/allowed.ts";
import { splitArguments } from "../src/config/arguments.ts";
import { nearest } from "../src/config/nearest.ts";
import { type SettingTypes, settingsOf } from "../src/config/schema.ts";
import { engineSettings } from "../src/config/settings/engine.ts";
import { anyText, choice, text, toggle, whole } from "../src/config/settings/kinds.ts";
import { checkpointingSettings } from "../src/config/settings/optimizer.ts";
import { complete, type Given, readValue, unknownName } from "../src/config/shape.ts";
import { errorText, InputError } from "../src/errors.ts";
import type { GradientCheckpointing } from "../src/session/gradient-checkpointing.ts";

export const settings = {
  filter: anyText(null, "REGEX")`
    ops: only benchmarks whose line ("matmulForward M=1 N=1536 K=576 bfloat16") matches this; roofline: only "MODEL on GPU"; with
    compare: only figures whose name matches.`,
  device: engineSettings.device,
  shape: text(null, "NAME|FOLDER")`
    A model of this shape with random weights: SmolLM2-135M, Qwen2.5-0.5B, Qwen3-0.6B, Qwen2.5-7B, or a folder with a
    config.json. null: SmolLM2-135M on a CPU, Qwen3-0.6B on a GPU; for step and startup, the bundled model.`,
  model: text(null, "FOLDER|ID")`A model with its weights, instead of a shape.`,
  dtype: choice(["float32", "bfloat16"], null)`
    Number format of the model. null: both (ops), bfloat16 (rollout, update), the checkpoint's (step, startup).`,
  threads: engineSettings.threads,
  ranks: whole(2, null)`
    roofline: what as many ranks send each other in a step, and how long it takes over three networks, in place of the table of
    GPUs.`,
  path: text(null, "NAME")`Instruction path (grpo doctor lists them). null: the one that training uses.`,
  quick: toggle(false)`Fewer samples and less work: about a third of the time, and more noise.`,
  num_generations: whole(1, null)`Completions per prompt. null: 16 on a GPU, 8 on a CPU; step: as in training.`,
  max_concurrent_sequences: whole(1, null)`
    Sequences decoded at once. null: 64 on a GPU, 8 on a CPU; step: as in training.`,
  prompt_tokens: whole(1, null)`rollout, update: tokens per prompt. null: 128 on a GPU, 64 on a CPU.`,
  max_completion_length: whole(2, null)`
    Tokens per completion, the first of which comes with the prompt; rollout and update make every completion this long.
    null: 1024 on a GPU, 64 on a CPU; step: as in training.`,
  micro_batch_tokens: whole(1, null)`
    Tokens in one pass of the update. null: 16384 on a GPU of 40 GB, 2048 on a CPU; step: as in training.`,
  ...checkpointingSettings,
  max_steps: whole(1, null)`step: how many are timed, after one that warms up. null: 3, or 1 if quick.`,
  compare: text(null, "REV")`
    Another git revision: both run in turn, and ratios are printed. Needs a checkout, and one suite.`,
  pairs: whole(1, null)`With compare: how often both run. null: 3, or 2 if quick.`,
  json: toggle(false)`Print one JSON object instead of the table.`,
};

export type FlagName = keyof typeof settings;

export interface BenchFlags {
  readonly filter: string | null;
  readonly device: string;
  readonly shape: string | null;
  readonly model: string | null;
  readonly dtype: "float32" | "bfloat16" | null;
  readonly threads: number | null;
  readonly ranks: number | null;
  readonly path: string | null;
  readonly quick: boolean;
  readonly numGenerations: number | null;
  readonly maxConcurrentSequences: number | null;
  readonly promptTokens: number | null;
  readonly maxCompletionLength: number | null;
  readonly microBatchTokens: number | null;
  readonly gradientCheckpointing: GradientCheckpointing;
  readonly maxSteps: number | null;
  readonly compare: string | null;
  readonly pairs: number | null;
  readonly json: boolean;
  /** The flags that settings of `train` have too, as they were written. */
  readonly forTrainer: readonly string[];
  /** The flags of the suites, as they were written: those of the command itself are left out. */
  readonly written: readonly string[];
}

/** What the reader has to know of a suite. */
export interface Taking {
  /** Part of `grpo bench` without a suite's name. */
  readonly usual: boolean;
  readonly takes: readonly FlagName[];
  /** It also takes every setting of `train`. */
  readonly takesTraining?: boolean;
}

/** What every suite takes, or the command itself. */
const always: readonly FlagName[] = ["json", "compare", "pairs"];

/** The suites and flags of a command line; the usual suites if none is named. @throws InputError for any that is wrong */
export function readCommandLine<S extends Taking>(
  argv: readonly string[],
  suites: Readonly<Record<string, S>>,
): { readonly names: readonly string[]; readonly flags: BenchFlags } {
  const training = settingsOf("train");
  const known: SettingTypes = { ...training, ...settings };
  const split = splitArguments(argv, (key) => (Object.hasOwn(known, key) ? kindOf(known[key]!) : undefined));
  const all = Object.keys(suites);
  for (const name of split.positionals) requireSuite(name, all);
  const named = [...new Set(split.positionals)];
  const chosen = named.length === 0 ? all.filter((name) => suites[name]!.usual) : named;
  const trains = chosen.some((name) => suites[name]!.takesTraining === true);
  const own = new Set<string>(chosen.flatMap((name) => suites[name]!.takes));
  const compares = split.flags.some(({ key }) => key === "compare");
  const taken = new Set<string>([...own, ...always, ...(compares ? ["filter"] : [])]);
  const given = new Map<string, Given>();
  const forTrainer: string[] = [];
  const written: string[] = [];
  for (const { key, label, value } of split.flags) {
    const words = typeof value === "boolean" ? [label] : [label, ...[value].flat()];
    const passes = trains && Object.hasOwn(training, key);
    if (!Object.hasOwn(settings, key) && !passes)
      throw unknownName("bench", key, Object.keys(trains ? known : settings), value, "flag", label);
    if (!taken.has(key) && !passes) {
      const cure = key === "model" && taken.has("shape") ? `use --shape ${value}` : "omit it (grpo bench --help)";
      throw new InputError(`${label}: ${chosen.join(", ")} does not take it; ${cure}`);
    }
    if (Object.hasOwn(settings, key)) given.set(key, readValue(known, key, value, "flag", label));
    // A benchmark counts the steps that it times, not all of them.
    if (passes && key !== "max_steps") forTrainer.push(...words);
    if (own.has(key) || passes) written.push(...words);
  }
  const flags = { ...(complete(settings, given) as unknown as BenchFlags), forTrainer, written };
  if (flags.shape !== null && flags.model !== null)
    throw new InputError("--shape and --model: a model has either random weights or its own; use only one of them");
  return { names: chosen, flags };
}

function requireSuite(name: string, names: readonly string[]): void {
  if (names.includes(name)) return;
  const guess = nearest(name, names);
  const cure = guess === undefined ? `choose from ${names.join(", ")}` : `did you mean ${guess}?`;
  throw new InputError(`${JSON.stringify(name)} is not a suite; ${cure}`);
}

/** @throws InputError for an invalid regular expression */
export function patternOf(filter: string | null, flags = ""): RegExp {
  try {
    return new RegExp(filter ?? "", flags);
  } catch (error) {
    throw new InputError(`--filter ${filter}: not a regular expression (${errorText(error)})`);
  }
}
