/**
 * Rewards on model output, computed outside the trainer's process: in a few processes with a memory limit and a hard
 * deadline per answer. This is the main thread's side: it checks the settings, starts the supervisor worker
 * (supervisor.ts) on first use, passes batches to it and combines the results of several reward functions.
 *
 * If an answer misses its deadline, a verifier gives it 0 with the reason "timeout", and a reward function null (not
 * scored). A function that throws costs the completion its reward, not the run; a module that cannot be loaded
 * (InputError) or that returns anything but rewards (RunError) ends the run. Neither worker nor processes keep the
 * program alive, and none outlives it.
 */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import type { Extraction, Verdict } from "../../answers/verify.ts";
import { isVerifier, type LibraryReward, type VerifierReward } from "../../config/reward-names.ts";
import { InputError, RunError } from "../../errors.ts";
import type { Message } from "../../message.ts";
import { type Judgement, judge, TIMEOUT, verdicts } from "../judge.ts";
import { defaultParameters, type RewardParameters, scoreByLibrary } from "../library/library.ts";
import { type FunctionResult, type Mishap, place, type RewardResult, resultOf } from "../results.ts";
import { isModule, needsGold, type RewardSpec, rewardNames } from "../specs.ts";
import { connect, DEFAULT_TIMEOUT_MS } from "./connection.ts";
import type { RewardFunction } from "./functions.ts";
import { inlineCall } from "./inline.ts";
import type { Answer, Arguments, Failure, Item, RewardTrainerState } from "./protocol.ts";

export { type FunctionResult, joinResults, loggedColumns, loggedMetrics, type RewardResult } from "../results.ts";
export type { RewardSpec } from "../specs.ts";
export type { RewardTrainerState } from "./protocol.ts";

export interface RewardPoolOptions {
  readonly functions: readonly RewardSpec[];
  /** The functions of the `inline` ones, by their names there. They run in this process. */
  readonly inline?: ReadonlyMap<string, RewardFunction> | undefined;
  /** One weight per function; 1 each by default. */
  readonly weights?: readonly number[] | undefined;
  /** Parameters of the built-in functions, e.g. the whole settings of `train`; by default those of `grpo train`. */
  readonly parameters?: Partial<RewardParameters> | undefined;
  /** Deadline of one answer, or of one call of a reward function, in milliseconds. Default 10,000. */
  readonly timeoutMs?: number | undefined;
  /** What each process may use beyond its initial size, in MiB. Default 512. */
  readonly memoryLimitMiB?: number | undefined;
  /** Most processes at a time. Default: the number of cores, or of modules if larger, but at most 4. */
  readonly size?: number | undefined;
}

/** N completions; every array has N entries. */
export interface RewardBatch {
  readonly prompts: readonly (string | readonly Message[])[];
  readonly completions: readonly string[];
  readonly completionIds: readonly (readonly number[])[];
  /** The end of each completion's prompt as the model read it, special tokens included: it may open `<think>`. */
  readonly promptEnds?: readonly string[] | undefined;
  readonly golds: readonly (string | null)[];
  readonly columns: Readonly<Record<string, readonly unknown[]>>;
  /** The row in the dataset that each completion answers; failures name it. */
  readonly rows?: readonly number[] | undefined;
  /** Completions of one prompt have the same number; absent: all are one group. Used only by `length`. */
  readonly groups?: readonly number[] | undefined;
  /** The state of training that reward functions get; absent: none. */
  readonly trainerState?: RewardTrainerState | undefined;
}

/** Outside of training. */
export const noTraining: RewardTrainerState = {
  global_step: 0,
  max_steps: 0,
  epoch: 0,
  num_input_tokens_seen: 0,
  progress: 1,
  is_evaluation: true,
};

/** Rewards by a member's name, one per completion (null: not scored). */
export type ExternalRewards = ReadonlyMap<string, readonly (number | null)[]>;

export interface RewardPool {
  /** The functions' names, in order, as metrics spell them. */
  readonly names: readonly string[];
  /** The names and what they stand for, in order; those of reward models are the keys of `external`. */
  readonly members: readonly { readonly name: string; readonly spec: RewardSpec }[];
  /** Loads the reward functions once. @throws InputError for a module without a reward function */
  ready(): Promise<void>;
  /**
   * Any number of batches may be in flight.
   *
   * @param external the rewards of the reward models, which the caller computes
   * @throws RunError naming the function that returned no rewards; InputError like `ready`
   */
  score(batch: RewardBatch, external?: ExternalRewards): Promise<RewardResult>;
  /** Only judges answers, in order. An answer that cannot be finished has the reason "timeout". */
  verify(items: readonly Item[], extraction: Extraction): Promise<readonly Verdict[]>;
  /** Ends worker and processes; requests in flight are abandoned. */
  close(): Promise<void>;
}

interface Member {
  readonly name: string;
  readonly spec: RewardSpec;
  readonly weight: number;
}

/** @throws InputError for a module path that does not exist, or weights that do not match the functions */
export function createRewardPool(options: RewardPoolOptions): RewardPool {
  const members = membersOf(options);
  const { inline } = options;
  const modules = members.filter(({ spec }) => isModule(spec));
  const connection = connect({ ...options, functions: modules.length });
  const parameters: RewardParameters = { ...defaultParameters, ...options.parameters };
  /** The verifier that `cosine` and `length` ask: the first in the list, else "auto". */
  const [arbiter] = members.flatMap(({ spec }) => (typeof spec === "string" && isVerifier(spec) ? [spec] : []));

  const load = async ({ name, spec }: Member): Promise<void> => {
    if (!isModule(spec)) return;
    const answer = await connection.ask({ kind: "load", path: spec.path });
    if (answer.kind === "failed") throw failureError(name, spec.path, answer.failure);
  };

  const verify: RewardPool["verify"] = async (items, extraction) => {
    const results = await verdicts(connection, items, [extraction]);
    return results.map(([verdict = TIMEOUT]) => verdict);
  };

  return {
    names: members.map((member) => member.name),
    members: members.map(({ name, spec }) => ({ name, spec })),
    ready: async () => void (await Promise.all(members.map(load))),
    async score(batch, external) {
      checkBatch(batch);
      const { completions, golds } = batch;
      const judgements = new Map<VerifierReward, Promise<Judgement>>();
      /** Each verifier judges a batch once, however many functions depend on it. */
      const judged = (verifier: VerifierReward): Promise<Judgement> => {
        const judgement = judgements.get(verifier) ?? judge(connection, verifier, completions, golds);
        judgements.set(verifier, judgement);
        return judgement;
      };
      const scored = members.map(({ name, spec }): FunctionResult | Promise<FunctionResult> => {
        if (typeof spec !== "string") {
          if (isModule(spec)) {
            const { path } = spec;
            const call: Call = (args, state) => connection.ask({ kind: "call", path, args, state });
            return scoreByFunction(call, name, path, batch);
          }
          if ("inline" in spec) {
            const call = inlineCall(inline!.get(spec.inline)!, options.timeoutMs ?? DEFAULT_TIMEOUT_MS);
            return scoreByFunction(call, name, "inline", batch);
          }
          return scoredOutside(name, external?.get(name), batch);
        }
        if (isVerifier(spec)) return scoreByVerifier(name, judged(spec), batch);
        if (!needsGold(spec)) return scoreByText(name, spec, batch, parameters);
        return scoreByAnswer(name, spec, batch, parameters, judged(arbiter ?? "auto"), arbiter !== undefined);
      });
      const perFunction = await Promise.all(scored);
      const weights = members.map(({ weight }) => weight);
      return resultOf(perFunction, weights, completions.length);
    },
    verify,
    close: () => connection.close(),
  };
}

function membersOf({ functions, weights, inline }: RewardPoolOptions): readonly Member[] {
  if (weights !== undefined && weights.length !== functions.length) {
    throw new InputError(
      `reward_weights has ${weights.length} values for ${functions.length} reward functions; give one weight per function`,
    );
  }
  const specs = functions.map((spec) => {
    if (typeof spec === "object" && "inline" in spec && !inline?.has(spec.inline))
      throw new InputError(
        `reward_funcs: ${spec.inline} is a function of the TypeScript program that began the run; ` +
          "go on from there, or write the function as a module and give its path",
      );
    if (!isModule(spec)) return spec;
    const path = resolve(spec.path);
    if (existsSync(path)) return { path };
    throw new InputError(`reward_funcs: ${path} does not exist; give gsm8k, math, or the path of a .ts module`);
  });
  const names = rewardNames(specs);
  return specs.map((spec, i) => ({ name: names[i]!, spec, weight: weights?.[i] ?? 1 }));
}

function checkBatch(batch: RewardBatch): void {
  const n = batch.completions.length;
  const { prompts, completionIds, promptEnds, golds, columns, rows, groups } = batch;
  const lists = {
    prompts,
    completionIds,
    golds,
    ...(promptEnds && { promptEnds }),
    ...(rows && { rows }),
    ...(groups && { groups }),
    ...columns,
  };
  for (const [name, list] of Object.entries(lists)) {
    if (list.length !== n) throw new Error(`score: ${name} has ${list.length} entries for ${n} completions`);
  }
}

/** What happened to the completions at `indices`, at least one. */
function mishap(batch: RewardBatch, indices: readonly number[], what: string, cost: string): Mishap {
  const index = indices[0]!;
  return { what, cost, count: indices.length, first: { index, row: batch.rows?.[index] ?? null } };
}

/** @throws RunError for rewards that are not finite numbers */
function scoredOutside(
  name: string,
  rewards: readonly (number | null)[] | undefined,
  batch: RewardBatch,
): FunctionResult {
  if (rewards?.length !== batch.completions.length) {
    throw new Error(`score: ${rewards?.length ?? "no"} rewards of ${name} for ${batch.completions.length} completions`);
  }
  const bad = rewards.findIndex((reward) => reward !== null && !Number.isFinite(reward));
  if (bad >= 0) {
    throw new RunError(`reward model ${name} gave ${rewards[bad]} on ${place(bad, batch.rows?.[bad] ?? null)}`);
  }
  const missing = [...rewards.keys()].filter((i) => rewards[i] === null);
  if (missing.length === 0) return { name, rewards, unparsed: 0, timeouts: 0 };
  const what = `reward model ${name} gave no score: prompt and completion are longer than its context, or empty,`;
  return { name, rewards, unparsed: 0, timeouts: 0, mishaps: [mishap(batch, missing, what, "they are not scored")] };
}

async function scoreByVerifier(name: string, judged: Promise<Judgement>, batch: RewardBatch): Promise<FunctionResult> {
  const { rewards, strict, reasons } = await judged;
  return {
    name,
    rewards,
    strict,
    reasons,
    unparsed: reasons.filter((reason) => reason === "unparsed").length,
    ...lateness(name, reasons, batch, "they get 0"),
  };
}

const scoreByText = (
  name: string,
  spec: LibraryReward,
  batch: RewardBatch,
  parameters: RewardParameters,
): FunctionResult => ({
  name,
  rewards: scoreByLibrary(spec, { ...batch, correct: batch.completions.map(() => null) }, parameters),
  unparsed: 0,
  timeouts: 0,
});

/** @param reported whether the verifier is itself a member, whose result already reports answers that were too late */
async function scoreByAnswer(
  name: string,
  spec: LibraryReward,
  batch: RewardBatch,
  parameters: RewardParameters,
  judged: Promise<Judgement>,
  reported: boolean,
): Promise<FunctionResult> {
  const { rewards, reasons } = await judged;
  const correct = rewards.map((reward) => (reward === null ? null : reward === 1));
  return {
    name,
    rewards: scoreByLibrary(spec, { ...batch, correct }, parameters),
    unparsed: 0,
    ...(reported ? { timeouts: 0 } : lateness(name, reasons, batch, "they count as wrong")),
  };
}

function lateness(name: string, reasons: Judgement["reasons"], batch: RewardBatch, cost: string) {
  const late = [...reasons.keys()].filter((i) => reasons[i] === "timeout");
  if (late.length === 0) return { timeouts: 0 };
  const what = `reward ${name} did not judge the answer in time`;
  return { timeouts: late.length, mishaps: [mishap(batch, late, what, cost)] };
}

/** Calls a reward function, wherever it runs. */
type Call = (args: Arguments, state: RewardTrainerState) => Promise<Answer>;

async function scoreByFunction(call: Call, name: string, path: string, batch: RewardBatch): Promise<FunctionResult> {
  const args: Arguments = {
    ...batch.columns,
    prompts: batch.prompts,
    completions: batch.completions,
    completion_ids: batch.completionIds,
    prompt_ends: batch.promptEnds ?? batch.completions.map(() => ""),
  };
  if (batch.completions.length === 0) return { name, rewards: [], unparsed: 0, timeouts: 0 };
  const answer = await call(args, batch.trainerState ?? noTraining);
  if (answer.kind === "failed") throw failureError(name, path, answer.failure, batch);
  if (answer.kind !== "rewards") throw new Error("a call was answered with verdicts");
  const { rewards, failures, logs } = answer;
  const byCause = Map.groupBy(failures, ({ failure }) => failure.cause);
  const mishaps = [...byCause.values()].map((same) => {
    const indices = same.map(({ index }) => index);
    return mishap(batch, indices, `${label(name, path)} ${same[0]!.failure.message}`, "they are not scored");
  });
  const timeouts = failures.filter(({ failure }) => failure.cause !== "threw").length;
  return { name, rewards, unparsed: 0, timeouts, ...(mishaps.length > 0 && { mishaps }), ...(logs && { logs }) };
}

const label = (name: string, path: string): string => `reward function ${name} (${path})`;

function failureError(name: string, path: string, failure: Failure, batch?: RewardBatch): Error {
  const { cause, message, index } = failure;
  if (cause === "start") return new RunError(message);
  const where = index === undefined ? "" : ` on ${place(index, batch?.rows?.[index] ?? null)}`;
  const cure = index === undefined ? "" : "; a reward is a finite number, or null";
  const text = `${label(name, path)} ${message}${where}${cure}`;
  return cause === "load" ? new InputError(text) : new RunError(text);
}
