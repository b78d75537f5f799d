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
import { basename, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { InputError, RunError } from "../errors.ts";
import type { Arguments, Failure, FromSupervisor, Item, ToSupervisor, Work } from "./protocol.ts";
import { compiled } from "./public_api.ts";
import type { Extraction, Reason, Verdict } from "./verify.ts";

/** "auto": gsm8k for the golds that are numbers, math for the others. `path`: a module with a reward function. */
export type RewardSpec = "gsm8k" | "math" | "auto" | { readonly path: string } | { readonly model: string };

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
}

export interface FunctionResult {
  /** As in the metric `rewards/<name>/mean`. */
  readonly name: string;
  /** Null: not scored. */
  readonly rewards: readonly (number | null)[];
  /** Verifiers: the reward under strict extraction (null where there is no gold). */
  readonly strict?: readonly (0 | 1 | null)[];
  /** Verifiers: why, per completion (null where there is no gold). */
  readonly reasons?: readonly (Reason | null)[];
  /** Completions in which no answer was found. */
  readonly unparsed: number;
  /** Completions stopped at the deadline, at the memory limit, or with their process. */
  readonly timeouts: number;
}

export interface RewardResult {
  readonly perFunction: readonly FunctionResult[];
  /** The weighted sum of the rewards that are not null; null where all are. */
  readonly total: readonly (number | null)[];
  /** The reasons of the first verifier; null where there is none, or no gold. */
  readonly reasons: readonly (Reason | null)[];
  /** One line per function and kind of failure in this batch, to be shown. */
  readonly warnings: readonly string[];
}

export interface RewardPool {
  /** The functions' names, in order, as metrics spell them. */
  readonly names: readonly string[];
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
    if (typeof spec === "string" || "model" in spec) return;
    const answer = await connection.ask({ kind: "load", path: spec.path });
    if (answer.kind === "failed") throw failureError(name, spec.path, answer.failure);
  };

  const verify: RewardPool["verify"] = async (items, extraction) => {
    const results = await verdicts(connection, items, [extraction]);
    return results.map(([verdict = TIMEOUT]) => verdict);
  };

  return {
    names: members.map((member) => member.name),
    ready: async () => void (await Promise.all(members.map(load))),
    async score(batch, external) {
      checkBatch(batch);
      const scored = await Promise.all(
        members.map((member) => {
          if (typeof member.spec === "string") return scoreByVerifier(connection, member, member.spec, batch);
          if ("path" in member.spec) return scoreByFunction(connection, member, member.spec.path, batch);
          return scoredElsewhere(member, batch, external);
        }),
      );
      const perFunction = scored.map(({ result }) => result);
      return {
        perFunction,
        total: batch.completions.map((_, i) => weightedSum(members, perFunction, i)),
        reasons: perFunction.find((result) => result.reasons)?.reasons ?? batch.completions.map(() => null),
        warnings: scored.flatMap(({ warnings }) => warnings),
      };
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
  const taken = new Set<string>();
  return functions.map((given, i) => {
    const spec = typeof given === "object" && "path" in given ? { path: resolve(given.path) } : given;
    if (typeof spec === "object" && "path" in spec && !existsSync(spec.path)) {
      throw new InputError(`reward_funcs: ${spec.path} does not exist; give gsm8k, math, or the path of a .ts module`);
    }
    const stem = memberStem(spec);
    let name = stem;
    for (let k = 2; taken.has(name); k++) name = `${stem}_${k}`;
    taken.add(name);
    return { name, spec, weight: weights?.[i] ?? 1 };
  });
}

function memberStem(spec: RewardSpec): string {
  if (typeof spec === "string") return spec;
  return "model" in spec ? basename(resolve(spec.model)) : basename(spec.path).replace(/\.[^.]*$/, "");
}

/** Results of batches, in order, as the result of one batch. The same pool gave all of them. */
export function joinResults(results: readonly RewardResult[]): RewardResult {
  const functions = results[0]?.perFunction ?? [];
  const perFunction = functions.map((first, f): FunctionResult => {
    const parts = results.map((result) => result.perFunction[f]!);
    const sum = (count: (part: FunctionResult) => number) => parts.reduce((total, part) => total + count(part), 0);
    return {
      name: first.name,
      rewards: parts.flatMap((part) => part.rewards),
      ...(first.strict ? { strict: parts.flatMap((part) => part.strict ?? []) } : {}),
      ...(first.reasons ? { reasons: parts.flatMap((part) => part.reasons ?? []) } : {}),
      unparsed: sum((part) => part.unparsed),
      timeouts: sum((part) => part.timeouts),
    };
  });
  return {
    perFunction,
    total: results.flatMap((result) => result.total),
    reasons: results.flatMap((result) => result.reasons),
    warnings: [...new Set(results.flatMap((result) => result.warnings))],
  };
}

function checkBatch(batch: RewardBatch): void {
  const n = batch.completions.length;
  const lists = { prompts: batch.prompts, completionIds: batch.completionIds, golds: batch.golds, ...batch.columns };
  for (const [name, list] of Object.entries(lists)) {
    if (list.length !== n) throw new Error(`score: ${name} has ${list.length} entries for ${n} completions`);
  }
}

function weightedSum(members: readonly Member[], results: readonly FunctionResult[], i: number): number | null {
  let sum: number | null = null;
  for (const [k, member] of members.entries()) {
    const reward = results[k]!.rewards[i] ?? null;
    if (reward !== null) sum = (sum ?? 0) + member.weight * reward;
  }
  return sum;
}

interface Scored {
  readonly result: FunctionResult;
  readonly warnings: readonly string[];
}

async function scoredElsewhere(
  { name }: Member,
  batch: RewardBatch,
  external: ReadonlyMap<string, readonly (number | null)[]> | undefined,
): Promise<Scored> {
  const rewards = external?.get(name);
  if (rewards?.length !== batch.completions.length) throw new Error(`score: reward model ${name} was not scored`);
  const missing = rewards.filter((reward) => reward === null).length;
  const warnings =
    missing > 0 ? [`reward model ${name}: ${missing} sequences are longer than its context; they are not scored`] : [];
  return { result: { name, rewards, unparsed: 0, timeouts: 0 }, warnings };
}

async function scoreByVerifier(
  connection: Connection,
  { name }: Member,
  spec: "gsm8k" | "math" | "auto",
  batch: RewardBatch,
): Promise<Scored> {
  const asked = [...batch.golds.keys()].filter((i) => batch.golds[i] !== null);
  const items = asked.map((i): Item => {
    const item = { gold: batch.golds[i]!, response: batch.completions[i]! };
    return spec === "auto" ? item : { ...item, verifier: spec };
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
  const count = (reason: Reason): number => reasons.filter((r) => r === reason).length;
  const timeouts = count("timeout");
  const warnings =
    timeouts > 0 ? [`reward ${name}: ${timeouts} of ${asked.length} answers were not judged in time; they get 0`] : [];
  return { result: { name, rewards, strict, reasons, unparsed: count("unparsed"), timeouts }, warnings };
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
  { name }: Member,
  path: string,
  batch: RewardBatch,
): Promise<Scored> {
  const args: Arguments = {
    ...batch.columns,
    prompts: batch.prompts,
    completions: batch.completions,
    completion_ids: batch.completionIds,
  };
  if (batch.completions.length === 0) return { result: { name, rewards: [], unparsed: 0, timeouts: 0 }, warnings: [] };
  const answer = await connection.ask({ kind: "call", path, args });
  if (answer.kind === "failed") throw failureError(name, path, answer.failure);
  if (answer.kind !== "rewards") throw new Error("a call was answered with verdicts");
  const { rewards, failures } = answer;
  const byCause = Map.groupBy(failures, ({ failure }) => failure.cause);
  const warnings = [...byCause.values()].map(
    (same) =>
      `reward function ${name} (${path}) ${same[0]!.failure.message} on ${same.length} of ${rewards.length} completions; ` +
      "they are not scored",
  );
  const timeouts = failures.filter(({ failure }) => failure.cause !== "threw").length;
  return { result: { name, rewards, unparsed: 0, timeouts }, warnings };
}

function failureError(name: string, path: string, failure: Failure): Error {
  if (failure.cause === "start") return new RunError(failure.message);
  const text = `reward function ${name} (${path}) ${failure.message}`;
  return failure.cause === "load" ? new InputError(text) : new RunError(text);
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
