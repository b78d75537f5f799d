/**
 * The commands as functions: settings as an object, hooks to follow and stop the work, a typed result. What a command
 * computes with is loaded when its function is first called: a reward module that imports `bun-grpo` has no use for it.
 */
import { configFrom } from "../config/load.ts";
import type { ConfigInput } from "../config/schema.ts";
import { InputError } from "../errors.ts";
import { controlOf, type Hooks, type ProgressHooks, type RunHooks } from "./control.ts";
import type { EvaluationResult } from "./evaluate.ts";
import type { GenerateControl, Generated, Prompt } from "./generate.ts";
import type { TokenGroup, TokenScores } from "./score.ts";
import type { RunResult } from "./train.ts";
import type { UpdateResult } from "./update.ts";

/**
 * Trains a policy with GRPO, or another of the estimators, and writes `outputDir` as `grpo train` does. Without `model` and
 * `dataset` it is the bundled run.
 *
 * @returns `steps`: optimizer steps made, earlier ones of a resumed run included; `stopped`: by the signal, after a checkpoint
 * @throws InputError for settings, data, models or an `outputDir` that cannot be used; RunError where the run itself fails, with
 *   what was reached in the last checkpoint
 */
export async function train(settings: ConfigInput<"train">, hooks: RunHooks = {}): Promise<RunResult> {
  const { trainWith } = await import("./train.ts");
  const { bundled: _, ...result } = await trainWith(
    (options) => configFrom("train", settings, options),
    controlOf(hooks),
  );
  return result;
}

/** Supervised fine-tuning on prompts and answers, as `grpo sft` does it. Result and errors are those of `train`. */
export async function sft(settings: ConfigInput<"sft">, hooks: RunHooks = {}): Promise<RunResult> {
  const loaded = configFrom("sft", settings);
  const { sftWith } = await import("./sft.ts");
  return sftWith(loaded, controlOf(hooks));
}

/**
 * The policy update alone, on a file of recorded rollouts. Nothing is saved unless it comes to its end.
 *
 * @returns the metrics of each optimizer step
 * @throws as `train`, and the signal's reason once that is aborted
 */
export async function update(settings: ConfigInput<"update">, hooks: RunHooks = {}): Promise<UpdateResult> {
  const { updateWith } = await import("./update.ts");
  const load = (options = {}) => configFrom("update", settings, options);
  return unlessAborted(await updateWith(load, controlOf(hooks)), hooks);
}

/**
 * Answers the problems of a dataset and judges the answers. Files are written only if `outputDir` is given.
 *
 * @returns accuracy, pass@k and maj@k with their intervals, and every answer with its verdict and rewards
 * @throws as `train`, and the signal's reason once that is aborted
 */
export async function evaluate(settings: ConfigInput<"eval">, hooks: ProgressHooks = {}): Promise<EvaluationResult> {
  const loaded = configFrom("eval", settings);
  const { evaluateWith } = await import("./evaluate.ts");
  return unlessAborted(await evaluateWith(loaded, controlOf(hooks), loaded.given.has("output_dir")), hooks);
}

/** The settings of `grpo generate`, with prompts as values beside its `prompt` and `input`. */
export type GenerateSettings = ConfigInput<"generate"> & {
  /** Conversations go through the chat template, texts are taken as they stand; `prompt` is one user's turn. */
  readonly prompts?: readonly Prompt[] | undefined;
};

export interface GenerateHooks extends Hooks {
  readonly onText?: GenerateControl["onText"];
}

/**
 * Completes one prompt (`prompt`), several (`prompts`) or those of a file (`input`), greedily unless `temperature` says
 * otherwise. Writes a file only if `output` is given.
 *
 * @returns for each prompt, in order, its `numGenerations` completions with text, ids and logprobs
 * @throws InputError for settings or prompts that cannot be used, RunError for a model whose output is not finite, and the
 *   signal's reason once that is aborted
 */
export async function generate(
  { prompts, ...settings }: GenerateSettings,
  hooks: GenerateHooks = {},
): Promise<Generated[]> {
  if (prompts?.length === 0) throw new InputError("prompts: there are none to complete");
  if (prompts !== undefined && settings.prompt !== undefined)
    throw new InputError("prompt and prompts: use only one of them");
  const { config, warnings } = configFrom("generate", settings, prompts === undefined ? {} : standIns.prompts);
  for (const warning of warnings) hooks.onNote?.(`note: ${warning}`);
  const { generateWith, writeGenerated } = await import("./generate.ts");
  const { stopRequested, console } = controlOf(hooks);
  const control = { note: console.note, stopRequested, onText: hooks.onText };
  const generated = unlessAborted(await generateWith(config, prompts ?? null, control), hooks);
  if (config.output !== null) writeGenerated(config.output, generated);
  return generated;
}

/** The settings of `grpo score`, with groups of token ids as values in place of `input`. */
export type ScoreSettings = ConfigInput<"score"> & { readonly groups?: readonly TokenGroup[] | undefined };

/**
 * Log-probabilities and entropies of completions under a model: of `groups`, or of the file `input`. Writes a file only if
 * `output` is given.
 *
 * @returns by group, for each completion, `logprobs` and `entropies` (R), in nats, of softmax(logits / temperature)
 * @throws as `generate`
 */
export async function score({ groups, ...settings }: ScoreSettings, hooks: Hooks = {}): Promise<TokenScores[][]> {
  if (groups !== undefined && settings.input !== undefined)
    throw new InputError("groups and input: use only one of them");
  const { config, warnings, given } = configFrom(
    "score",
    settings,
    groups === undefined ? standIns.output : standIns.groups,
  );
  for (const warning of warnings) hooks.onNote?.(`note: ${warning}`);
  const { scoreWith, writeScores } = await import("./score.ts");
  const output = given.has("output") ? config.output : null;
  const scores = await scoreWith({ ...config, output }, groups ?? null, hooks);
  if (output !== null) writeScores(output, scores);
  return scores;
}

/** For the settings that a command line must have and a call with values need not; messages name them. */
const standIns = {
  prompts: { defaults: { prompt: "" } },
  output: { defaults: { output: "output" } },
  groups: { defaults: { input: "groups", output: "output" } },
} as const;

/** What came of the work; where it was stopped and has left nothing, the promise is rejected as `fetch`'s is. */
function unlessAborted<T>(result: T | null, { signal }: Hooks): T {
  if (result === null) throw signal?.reason;
  return result;
}
