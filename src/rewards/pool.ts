/**
 * Rewards on model output, computed away from the trainer: in a few processes with a memory limit and a hard deadline
 * per answer. This is the main thread's side: it checks the settings, starts the supervisor worker (supervisor.ts) on
 * first use, passes batches to it and puts the results of several reward functions together.
 *
 * An answer that misses its deadline: a verifier gives it 0 with the reason "timeout"; a reward function gives it null
 * (not scored). What a function throws costs the completion concerned its reward, not the run; a module that cannot
 * be loaded (InputError) or that returns something other than rewards (RunError) ends the run.
 * Neither worker nor processes keep the program alive, and none outlives it.
 */
import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { VerifierReward } from "../config/reward-names.ts";
import { InputError, RunError } from "../errors.ts";
import type { Arguments, Failure, FromSupervisor, Item, ToSupervisor, Work } from "./protocol.ts";
import { compiled } from "./public_api.ts";
import { type FunctionResult, type Mishap, place, type RewardResult, resultOf } from "./results.ts";
import { type RewardSpec, rewardNames } from "./specs.ts";
import type { Extraction, Reason, Verdict } from "./verify.ts";

export { type FunctionResult, joinResults, type RewardResult } from "./results.ts";
export type { RewardSpec } from "./specs.ts";

export interface RewardPoolOptions {
  readonly functions: readonly RewardSpec[];
  /** One weight per function; 1 each by default. */
  readonly weights?: readonly number[] | undefined;
  /** Deadline of one answer, or of one call of a reward function, in milliseconds. Default 10,000. */
  readonly timeoutMs?: number | undefined;
  /** What each process may use beyond what it starts with, in MiB. Default 512. */
  readonly memoryLimitMiB?: number | undefined;
  /** Most processes at a time. Default: the cores, at most 4. */
  readonly size?: number | undefined;
}

export interface Message {
  readonly role: string;
  readonly content: string;
}

/** N completions; every array has N entries. */
export interface RewardBatch {
  readonly prompts: readonly (string | readonly Message[])[];
  readonly completions: readonly string[];
  readonly completionIds: readonly (readonly number[])[];
  readonly golds: readonly (string | null)[];
  readonly columns: Readonly<Record<string, readonly unknown[]>>;
  /** The row in the data set that each completion answers; failures name it. */
  readonly rows?: readonly number[] | undefined;
  /** Completions of one prompt have the same number; absent: all are one group. Of use to `length` alone. */
  readonly groups?: readonly number[] | undefined;
}

/** Rewards by a member's name, one per completion (null: not scored). */
export type ExternalRewards = ReadonlyMap<string, readonly (number | null)[]>;

export interface RewardPool {
  /** The functions' names, in order, as metrics spell them. */
  readonly names: readonly string[];
  /** Names with what they stand for, in order; those of reward models are the keys of `external`. */
  readonly members: readonly { readonly name: string; readonly spec: RewardSpec }[];
  /** Loads the reward functions once. @throws InputError for a module that is none */
  ready(): Promise<void>;
  /**
   * @param external rewards by the names of neural reward models, which are scored elsewhere
   * @throws RunError naming the function that returned no rewards; InputError as `ready`
   */
  score(batch: RewardBatch, external?: ReadonlyMap<string, readonly (number | null)[]>): Promise<RewardResult>;
  /** Judges answers alone, in order. An answer that cannot be finished has the reason "timeout". */
  verify(items: readonly Item[], extraction: Extraction): Promise<readonly Verdict[]>;
  /** Ends worker and processes; work under way is given up. */
  close(): Promise<void>;
}

const TIMEOUT: Verdict = { reward: 0, answer: null, reason: "timeout" };

interface Member {
  readonly name: string;
  readonly spec: RewardSpec;
  readonly weight: number;
}

/** @throws InputError for a module path that does not exist, or weights that do not match the functions */
export function createRewardPool(options: RewardPoolOptions): RewardPool {
  const members = membersOf(options);
  const connection = connect(options);

  const load = async ({ name, spec }: Member): Promise<void> => {
    if (typeof spec === "string" || !("path" in spec)) return;
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
      const perFunction = await Promise.all(
        members.map(({ name, spec }) => {
          if (typeof spec === "string") return scoreByVerifier(connection, name, spec as VerifierReward, batch);
          if ("path" in spec) return scoreByFunction(connection, name, spec.path, batch);
          return scoredOutside(name, external?.get(name), batch);
        }),
      );
      const weights = members.map(({ weight }) => weight);
      return resultOf(perFunction, weights, batch.completions.length);
    },
    verify,
    close: () => connection.close(),
  };
}

function membersOf({ functions, weights }: RewardPoolOptions): readonly Member[] {
  if (weights !== undefined && weights.length !== functions.length) {
    throw new InputError(
      `reward_weights has ${weights.length} values for ${functions.length} reward functions; give one weight per function`,
    );
  }
  const specs = functions.map((spec) => {
    if (typeof spec === "string" || !("path" in spec)) return spec;
    const path = resolve(spec.path);
    if (existsSync(path)) return { path };
    throw new InputError(`reward_funcs: ${path} does not exist; give gsm8k, math, or the path of a .ts module`);
  });
  const names = rewardNames(specs);
  return specs.map((spec, i) => ({ name: names[i]!, spec, weight: weights?.[i] ?? 1 }));
}

function checkBatch(batch: RewardBatch): void {
  const n = batch.completions.length;
  const { prompts, completionIds, golds, columns, rows, groups } = batch;
  const lists = { prompts, completionIds, golds, ...(rows && { rows }), ...(groups && { groups }), ...columns };
  for (const [name, list] of Object.entries(lists)) {
    if (list.length !== n) throw new Error(`score: ${name} has ${list.length} entries for ${n} completions`);
  }
}

/** What happened to the completions at `indices`, of which there is at least one. */
function mishap(batch: RewardBatch, indices: readonly number[], what: string, cost: string): Mishap {
  const index = indices[0]!;
  return { what, cost, count: indices.length, first: { index, row: batch.rows?.[index] ?? null } };
}

/** @throws RunError for rewards that are no finite numbers */
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
  return { name, rewards, unparsed: 0, timeouts: 0 };
}

async function scoreByVerifier(
  connection: Connection,
  name: string,
  spec: VerifierReward,
  batch: RewardBatch,
): Promise<FunctionResult> {
  const asked = [...batch.golds.keys()].filter((i) => batch.golds[i] !== null);
  const items = asked.map((i): Item => {
    const item = { gold: batch.golds[i]!, response: batch.completions[i]! };
    return spec === "auto" ? item : { ...item, verifier: spec === "gsm8k" ? "gsm8k" : "math" };
  });
  const found = await verdicts(connection, items, ["lenient", "strict"]);
  const rewards: (number | null)[] = batch.golds.map(() => null);
  const strict: (0 | 1 | null)[] = batch.golds.map(() => null);
  const reasons: (Reason | null)[] = batch.golds.map(() => null);
  for (const [k, i] of asked.entries()) {
    const [lenient = TIMEOUT, marked = TIMEOUT] = found[k]!;
    rewards[i] = lenient.reward;
    strict[i] = marked.reward;
    reasons[i] = lenient.reason;
  }
  const late = asked.filter((i) => reasons[i] === "timeout");
  return {
    name,
    rewards,
    strict,
    reasons,
    unparsed: reasons.filter((reason) => reason === "unparsed").length,
    timeouts: late.length,
    ...(late.length > 0 && {
      mishaps: [mishap(batch, late, `reward ${name} did not judge the answer in time`, "they get 0")],
    }),
  };
}

/** Per item its verdicts, or none where it could not be finished. */
async function verdicts(
  connection: Connection,
  items: readonly Item[],
  extractions: readonly Extraction[],
): Promise<readonly (readonly Verdict[])[]> {
  if (items.length === 0) return [];
  const answer = await connection.ask({ kind: "verify", items, extractions });
  if (answer.kind !== "verdicts") return items.map(() => []);
  return answer.results.map((result) => {
    if (!("cause" in result)) return result;
    if (result.cause === "start") throw new RunError(result.message);
    return [];
  });
}

async function scoreByFunction(
  connection: Connection,
  name: string,
  path: string,
  batch: RewardBatch,
): Promise<FunctionResult> {
  const args: Arguments = {
    ...batch.columns,
    prompts: batch.prompts,
    completions: batch.completions,
    completion_ids: batch.completionIds,
  };
  if (batch.completions.length === 0) return { name, rewards: [], unparsed: 0, timeouts: 0 };
  const answer = await connection.ask({ kind: "call", path, args });
  if (answer.kind === "failed") throw failureError(name, path, answer.failure, batch);
  if (answer.kind !== "rewards") throw new Error("a call was answered with verdicts");
  const { rewards, failures } = answer;
  const byCause = Map.groupBy(failures, ({ failure }) => failure.cause);
  const mishaps = [...byCause.values()].map((same) => {
    const indices = same.map(({ index }) => index);
    return mishap(batch, indices, `${label(name, path)} ${same[0]!.failure.message}`, "they are not scored");
  });
  const timeouts = failures.filter(({ failure }) => failure.cause !== "threw").length;
  return { name, rewards, unparsed: 0, timeouts, ...(mishaps.length > 0 && { mishaps }) };
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

// The worker

interface Connection {
  ask(work: Work): Promise<FromSupervisor>;
  close(): Promise<void>;
}

/**
 * In the executable, worker and processes are the program's own entry again, told by BUN_GRPO_CHILD what they are:
 * its entry then imports supervisor.ts, or offers the public API (public_api.ts) and imports child.ts.
 */
const startSupervisor = (): Worker =>
  compiled
    ? new Worker(Bun.main, { env: { ...process.env, BUN_GRPO_CHILD: "supervisor" } as Record<string, string> })
    : new Worker(new URL("./supervisor.ts", import.meta.url).href);

const childCommand = (): readonly string[] =>
  compiled
    ? [process.execPath]
    : [process.execPath, "--no-orphans", fileURLToPath(new URL("./child.ts", import.meta.url))];

function connect(options: RewardPoolOptions): Connection {
  const waiting = new Map<number, { resolve: (answer: FromSupervisor) => void; reject: (error: Error) => void }>();
  let worker: Worker | null = null;
  let closed = false;
  let lastId = 0;

  const fail = (error: Error): void => {
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };

  const start = (): Worker => {
    const started = startSupervisor();
    started.addEventListener("message", (event: MessageEvent<FromSupervisor>) => {
      waiting.get(event.data.id)?.resolve(event.data);
      waiting.delete(event.data.id);
      // Only work under way keeps the program alive.
      if (waiting.size === 0) started.unref();
    });
    started.addEventListener("error", (event) =>
      fail(new RunError(`the rewards' supervisor failed: ${event.message}`)),
    );
    const settings = {
      timeoutMs: options.timeoutMs ?? 10_000,
      memoryLimitMiB: options.memoryLimitMiB ?? 512,
      size: options.size ?? Math.min(4, availableParallelism()),
      command: childCommand(),
    };
    started.postMessage({ kind: "start", settings } satisfies ToSupervisor);
    return started;
  };

  return {
    ask(work) {
      if (closed) return Promise.reject(new Error("the reward pool is closed"));
      worker ??= start();
      worker.ref();
      const id = ++lastId;
      const answer = new Promise<FromSupervisor>((resolve, reject) => waiting.set(id, { resolve, reject }));
      worker.postMessage({ kind: "work", id, work } satisfies ToSupervisor);
      return answer;
    },
    async close() {
      closed = true;
      fail(new Error("the reward pool was closed"));
      if (worker === null) return;
      const ended = new Promise((resolve) => worker?.addEventListener("close", resolve));
      worker.ref();
      worker.postMessage({ kind: "close" } satisfies ToSupervisor);
      await ended;
      worker = null;
    },
  };
}
