/** Log-probabilities and entropies of given completions under a model, wired together from the settings. */
import { resolveModel } from "../checkpoint/hub.ts";
import { readModelConfig } from "../checkpoint/huggingface.ts";
import { requireFreeFile } from "../checkpoint/output-folder.ts";
import type { ConfigOf } from "../config/schema.ts";
import { InputError, RunError } from "../errors.ts";
import { writeOutput } from "../files/atomic.ts";
import { scoreGroups } from "../grpo/learner/policy-update.ts";
import { readRollouts } from "../grpo/rollout-file.ts";
import { maxMicroBatchTokens, type PackedGroup } from "../model/micro-batches.ts";
import { onDevice, withDeviceSession } from "../run/device.ts";
import { planPolicy, planScoring, type ScoringModel } from "../session/policy.ts";
import { bundledModel } from "./bundled.ts";
import type { Hooks } from "./control.ts";

/** A prompt and completions of it, as ids; what `generate` and `readRollouts` give is one. */
export interface TokenGroup {
  /** (P), P ≥ 1 */
  readonly promptIds: ArrayLike<number>;
  /** Each (R), R ≥ 1 */
  readonly completions: readonly { readonly completionIds: ArrayLike<number> }[];
}

/** Of one completion, in nats, under softmax(logits / temperature). */
export interface TokenScores {
  readonly logprobs: Float32Array; // (R)
  readonly entropies: Float32Array; // (R)
}

/** A group under the number that messages name it by. */
export interface NumberedGroup extends PackedGroup {
  readonly group: number;
}

/**
 * @param given groups that stand in for the file `input`; null: the file
 * @returns the scores of each completion, by group
 */
export async function scoreWith(
  config: Omit<ConfigOf<"score">, "output"> & { readonly output: string | null },
  given: readonly TokenGroup[] | null,
  hooks: Hooks,
): Promise<TokenScores[][]> {
  const model = config.model ?? bundledModel();
  requireFreeFile(config.output, config.overwrite, { model, input: given === null ? config.input : null });
  const folder = await resolveModel(model, { revision: config.modelRevision, note: (text) => hooks.onNote?.(text) });
  const { vocabSize, maxPositionEmbeddings } = readModelConfig(folder);
  const groups: readonly NumberedGroup[] =
    given === null
      ? await readRollouts(config.input, { vocabSize, requireReward: false })
      : numbered(given, config.input, vocabSize);
  const cure = `the model's context is ${maxPositionEmbeddings}; leave the line out`;
  const { longestPrompt, longestCompletion } = sizes(config.input, groups, maxPositionEmbeddings, cure);
  const { temperature, dtype } = config;
  return withDeviceSession(
    config,
    (text) => hooks.onNote?.(text),
    (plan) => {
      const positions = longestPrompt + longestCompletion;
      const tokens = maxMicroBatchTokens({
        budget: onDevice(config, plan.device).microBatchTokens,
        longestPrompt,
        longestCompletion,
        groups: groups.length,
        completions: groups.reduce((sum, group) => sum + group.completions.length, 0),
      });
      const policy = planPolicy(plan, plan.folder(folder), { dtype, positions, fourBit: config.loadIn4bit });
      return { scorer: planScoring(plan, policy, { tokens, longestPrompt }) };
    },
    ({ scorer }) => {
      const { microBatchTokens } = onDevice(config, scorer.model.device);
      return scoreOn(scorer, folder, groups, { temperature, microBatchTokens }, hooks.signal);
    },
  );
}

/**
 * The scores of each completion, by group, under an open model.
 *
 * @param folder of the model, for messages
 */
export async function scoreOn(
  { model, activations }: ScoringModel,
  folder: string,
  groups: readonly NumberedGroup[],
  settings: { readonly temperature: number; readonly microBatchTokens: number },
  signal?: AbortSignal,
): Promise<TokenScores[][]> {
  const goOn = () => signal?.throwIfAborted();
  goOn();
  const scores = await scoreGroups(model, activations, groups, settings, goOn);
  requireFinite(folder, groups, scores);
  const next = scores.values();
  return groups.map(({ completions }) => completions.map(() => next.next().value!));
}

/** @throws InputError for no group, one without completions, an empty prompt or completion, an id outside of the vocabulary */
export function numbered(groups: readonly TokenGroup[], name: string, vocabSize: number): NumberedGroup[] {
  if (groups.length === 0) throw new InputError(`${name}: there are none to score`);
  const checked = (ids: ArrayLike<number>, where: string): Int32Array => {
    const list = Array.from(ids);
    if (list.length === 0) throw new InputError(`${where}: is empty; it needs at least one token`);
    const wrong = list.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
    if (wrong !== undefined)
      throw new InputError(
        `${where}: ${wrong} is not an id; the model's vocabulary has ids from 0 to ${vocabSize - 1}`,
      );
    return Int32Array.from(list);
  };
  return groups.map(({ promptIds, completions }, group) => {
    const where = `${name}[${group}]`;
    if (completions.length === 0) throw new InputError(`${where}: has no completions; leave the group out`);
    return {
      group,
      promptIds: checked(promptIds, `${where}.promptIds`),
      completions: completions.map(({ completionIds }, i) => ({
        completionIds: checked(completionIds, `${where}.completions[${i}].completionIds`),
      })),
    };
  });
}

/** Sizes that the groups imply. @throws InputError where prompt and completion exceed the room */
export function sizes(name: string, groups: readonly NumberedGroup[], room: number, cure: string) {
  const longestPrompt = Math.max(...groups.map((g) => g.promptIds.length));
  const longestCompletion = Math.max(...groups.flatMap((g) => g.completions.map((c) => c.completionIds.length)));
  for (const { group, promptIds, completions } of groups)
    for (const { completionIds } of completions)
      if (promptIds.length + completionIds.length > room)
        throw new InputError(
          `${name}: group ${group}: prompt and completion have ${promptIds.length + completionIds.length} tokens, ${cure}`,
        );
  return { longestPrompt, longestCompletion };
}

/** @throws RunError naming model, group and token where a score is not a number: JSON would say null */
function requireFinite(model: string, groups: readonly NumberedGroup[], scores: readonly TokenScores[]): void {
  const places = groups.flatMap(({ group, completions }) => completions.map((_, i) => ({ group, i })));
  for (const [k, { logprobs, entropies }] of scores.entries())
    for (const [name, values] of Object.entries({ logprob: logprobs, entropy: entropies })) {
      const t = values.findIndex((value) => !Number.isFinite(value));
      if (t < 0) continue;
      const { group, i } = places[k]!;
      throw new RunError(
        `the ${name} of group ${group}, completion ${i}, token ${t} is ${values[t]}: the output of ${model} is broken; ` +
          "check its weights (NaN or infinite values) and dtype",
      );
    }
}

/** The shortest decimal of a float32. */
const shortest = (value: number): number => Number(Math.fround(value).toPrecision(9));

/** A line per completion: `{"logprobs": […], "entropies": […]}`. */
export function writeScores(path: string, scores: readonly (readonly TokenScores[])[]): void {
  const lines = scores.flat().map(({ logprobs, entropies }) => ({
    logprobs: Array.from(logprobs, shortest),
    entropies: Array.from(entropies, shortest),
  }));
  writeOutput(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
}
