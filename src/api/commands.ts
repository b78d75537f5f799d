/**
 * The commands as functions: settings as an object, hooks or events to follow and stop the work, a typed result. What a
 * command computes with is loaded when its function is first called: a reward module that imports `bun-grpo` has no use for
 * it.
 */
import { configFrom, type LoadOptions } from "../config/load.ts";
import type { CommandName, ConfigInput } from "../config/schema.ts";
import { InputError } from "../errors.ts";
import { LOSS_DEFAULTS } from "../grpo/loss/config.ts";
import { requireOwnLossAlone } from "../grpo/loss/own.ts";
import {
  controlOf,
  type Hooks,
  isNewerProgress,
  type ProgressHooks,
  type RunEvent,
  type RunHooks,
  unlessStopped,
} from "./control.ts";
import type { EvaluationResult } from "./evaluate.ts";
import { withFields } from "./fields.ts";
import type { GenerateControl, Generated, Prompt, TokenEvent } from "./generate.ts";
import type { LoadedModel, LoadModelSettings } from "./loaded-model.ts";
import { type Followers, type Running, running } from "./running.ts";
import type { TokenGroup, TokenScores } from "./score.ts";
import type { RunResult } from "./train.ts";
import type { UpdateResult } from "./update.ts";
import {
  type EvaluateSettings,
  plainSettings,
  type SftSettings,
  type TrainSettings,
  type UpdateSettings,
} from "./values.ts";

/** Work of a command that can be awaited and followed. */
const followed = <R>(
  command: CommandName,
  work: (followers: Followers<RunEvent>) => Promise<R>,
): Running<R, RunEvent> => running((followers) => withFields(command, () => work(followers)), isNewerProgress);

/**
 * Trains a policy with GRPO, or another of the estimators, and writes `outputDir` as `grpo train` does. Without `model` and
 * `dataset` it is the bundled run. Prints nothing: what happens comes as hooks and as events (`for await`).
 *
 * @returns `steps`: optimizer steps made, earlier ones of a resumed run included; `stopped`: by the signal, after a checkpoint
 * @throws InputError for settings, data, models or an `outputDir` that cannot be used; RunError where the run itself fails, with
 *   what was reached in the last checkpoint
 */
export function train(settings: TrainSettings, hooks: RunHooks = {}): Running<RunResult, RunEvent> {
  return followed("train", async (followers) => {
    const plain = plainSettings<"train">(settings);
    const { config } = configFrom("train", plain.settings);
    if (plain.functions.loss) requireOwnLossAlone({ ...LOSS_DEFAULTS, ...config });
    const whole = await plain.withRows();
    const { trainWith } = await import("./train.ts");
    const load = (options: LoadOptions<"train"> = {}) => configFrom("train", whole, options);
    const control = { ...controlOf(hooks, followers), functions: plain.functions };
    const { bundled: _, ...result } = await trainWith(load, control);
    return result;
  });
}

/** Supervised fine-tuning on prompts and answers, as `grpo sft` does it. Result, events and errors are those of `train`. */
export function sft(settings: SftSettings, hooks: RunHooks = {}): Running<RunResult, RunEvent> {
  return followed("sft", async (followers) => {
    const plain = plainSettings<"sft">(settings);
    configFrom("sft", plain.settings);
    const loaded = configFrom("sft", await plain.withRows());
    const { sftWith } = await import("./sft.ts");
    return sftWith(loaded, controlOf(hooks, followers));
  });
}

/**
 * The policy update alone, on a file of recorded rollouts. Nothing is saved unless it comes to its end.
 *
 * @returns the metrics of each optimizer step
 * @throws as `train`, and the signal's reason once that is aborted
 */
export function update(settings: UpdateSettings, hooks: RunHooks = {}): Running<UpdateResult, RunEvent> {
  return followed("update", async (followers) => {
    const { settings: plain, functions } = plainSettings<"update">(settings);
    const load = (options: LoadOptions<"update"> = {}) => configFrom("update", plain, options);
    if (functions.loss) requireOwnLossAlone({ ...LOSS_DEFAULTS, ...load().config });
    const { updateWith } = await import("./update.ts");
    return unlessStopped(await updateWith(load, { ...controlOf(hooks, followers), functions }), hooks);
  });
}

/**
 * Answers the problems of a dataset and judges the answers. Files are written only if `outputDir` is given.
 *
 * @returns accuracy, pass@k and maj@k with their intervals, and every answer with its verdict and rewards
 * @throws as `train`, and the signal's reason once that is aborted
 */
export function evaluate(settings: EvaluateSettings, hooks: ProgressHooks = {}): Running<EvaluationResult, RunEvent> {
  return followed("eval", async (followers) => {
    const plain = plainSettings<"eval">(settings);
    configFrom("eval", plain.settings);
    const loaded = configFrom("eval", await plain.withRows());
    const { evaluateWith } = await import("./evaluate.ts");
    const control = { ...controlOf(hooks, followers), rewards: plain.functions.rewards };
    return unlessStopped(await evaluateWith(loaded, control, loaded.given.has("output_dir")), hooks);
  });
}

/** The settings of `grpo generate`, with prompts as values beside its `prompt` and `input`. */
export type GenerateSettings = ConfigInput<"generate"> & {
  /** Conversations go through the chat template, texts are taken as they stand; `prompt` is one user's turn. */
  readonly prompts?: readonly Prompt[] | undefined;
};

export interface GenerateHooks extends Hooks {
  /** Text as it is sampled, of completion `sample` of prompt `prompt`, both from 0. */
  readonly onText?: ((text: string, place: { readonly prompt: number; readonly sample: number }) => void) | undefined;
}

/**
 * Completes one prompt (`prompt`), several (`prompts`) or those of a file (`input`), greedily unless `temperature` says
 * otherwise. Writes a file only if `output` is given. Iterated, it gives the tokens as they are sampled. Each call loads the
 * model; `loadModel` keeps it.
 *
 * @returns for each prompt, in order, its `numGenerations` completions with text, ids and logprobs
 * @throws InputError for settings or prompts that cannot be used, RunError for a model whose output is not finite, and the
 *   signal's reason once that is aborted
 */
export function generate(settings: GenerateSettings, hooks: GenerateHooks = {}): Running<Generated[], TokenEvent> {
  const work = async ({ emit, left }: Followers<TokenEvent>): Promise<Generated[]> => {
    const { prompts, ...plain } = settings;
    if (prompts?.length === 0) throw new InputError("prompts: there are none to complete");
    if (prompts !== undefined && plain.prompt !== undefined)
      throw new InputError("prompt and prompts: use only one of them");
    const { config, warnings } = configFrom("generate", plain, prompts === undefined ? {} : standIns.prompts);
    for (const warning of warnings) hooks.onNote?.(`note: ${warning}`);
    const { generateWith, writeGenerated } = await import("./generate.ts");
    const control: GenerateControl = {
      note: (text) => hooks.onNote?.(text),
      stopRequested: () => left() || (hooks.signal?.aborted ?? false),
      onToken(token) {
        if (token.text !== "") hooks.onText?.(token.text, token);
        emit(token);
      },
    };
    const generated = unlessStopped(await generateWith(config, prompts ?? null, control), hooks);
    if (config.output !== null) writeGenerated(config.output, generated);
    return generated;
  };
  return running((followers) => withFields("generate", () => work(followers)));
}

/**
 * Loads a model and keeps it, to generate and score with until it is closed (`await using model = await loadModel(…)`).
 *
 * @param model its folder or hub id, or settings: those of `generate` that concern the model, its memory
 *   (`maxModelLength`, `maxConcurrentSequences`, `maxCompletionLength`) and the defaults of sampling
 * @throws InputError for a model or settings that cannot be used, or too little memory
 */
export function loadModel(
  model: string | LoadModelSettings = {},
  hooks: Pick<Hooks, "onNote"> = {},
): Promise<LoadedModel> {
  return withFields("generate", async () => {
    const { loadModelWith } = await import("./loaded-model.ts");
    return loadModelWith(typeof model === "string" ? { model } : model, (text) => hooks.onNote?.(text));
  });
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
export function score({ groups, ...settings }: ScoreSettings, hooks: Hooks = {}): Promise<TokenScores[][]> {
  return withFields("score", async () => {
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
  });
}

/** For the settings that a command line must have and a call with values need not; messages name them. */
const standIns = {
  prompts: { defaults: { prompt: "" } },
  output: { defaults: { output: "output" } },
  groups: { defaults: { input: "groups", output: "output" } },
} as const;
