/**
 * Users' reward functions: loads a module by path, calls its default export, checks what it returns. Modules are
 * loaded only in a reward process (child.ts), never in the trainer's; inline.ts calls functions there.
 */
import { pathToFileURL } from "node:url";
import { errorText } from "../../errors.ts";
import type { Arguments, Called, Failure, Logs, RewardTrainerState } from "./protocol.ts";

/**
 * A reward function: the default export of a TypeScript or JavaScript module, or a value in the API's `rewardFuncs`.
 * It takes arrays of equal length, one entry per completion, and returns one reward per completion: a finite number, or
 * null for a completion that it does not score (which then has no advantage and is left out of its group's baseline).
 * `prompts`: the text or the messages, as in the dataset. `completions`: the generated text without special
 * tokens. `completion_ids`: its tokens. `prompt_ends`: the end of the prompt as the model read it, with what the chat
 * template put there (`<think>`). `trainer_state`, `log_metric`, `log_extra`: see `RewardTools`. Every other key is a
 * column of the dataset.
 */
export type RewardFunction = (
  args: Arguments & RewardTools,
) => readonly (number | null)[] | Promise<readonly (number | null)[]>;

/** What a reward function gets beside its arrays, as in TRL. */
export interface RewardTools {
  readonly trainer_state: RewardTrainerState;
  /** Logs a number with the step's metrics; several calls in a step are averaged. @throws TypeError unless it is a finite number */
  readonly log_metric: (name: string, value: number) => void;
  /** Adds a column to the recorded completions, one value (any JSON) per completion. @throws TypeError for another count */
  readonly log_extra: (column: string, values: readonly unknown[]) => void;
}

/** A failure on its way to the supervisor. */
export class RewardFailure extends Error {
  override readonly name = "RewardFailure";
  readonly failure: Failure;
  constructor(cause: Failure["cause"], message: string, index?: number) {
    super(message);
    this.failure = index === undefined ? { cause, message } : { cause, message, index };
  }
}

const loaded = new Map<string, RewardFunction>();

/** Imports the module once per process. @throws RewardFailure "load" if it cannot be imported or exports no function */
export async function loadFunction(path: string): Promise<RewardFunction> {
  const known = loaded.get(path);
  if (known !== undefined) return known;
  let module: { default?: unknown };
  try {
    module = await import(pathToFileURL(path).href);
  } catch (error) {
    throw new RewardFailure("load", `cannot be loaded: ${describe(error)}`);
  }
  if (typeof module.default !== "function") {
    throw new RewardFailure(
      "load",
      "has no function as its default export; write `export default ({ completions }) => …`",
    );
  }
  const found = module.default as RewardFunction;
  loaded.set(path, found);
  return found;
}

/**
 * One call with all of `args`.
 * @returns one number or null per completion, and what was logged
 * @throws RewardFailure "threw" or "result"
 */
export async function callFunction(f: RewardFunction, args: Arguments, state: RewardTrainerState): Promise<Called> {
  const { tools, logs } = startLogs(args.completions.length);
  let returned: unknown;
  try {
    returned = await f({ ...args, trainer_state: state, ...tools } as Arguments & RewardTools);
  } catch (error) {
    throw new RewardFailure("threw", `threw ${describe(error)}`);
  }
  const logged = logs();
  return { rewards: checkRewards(returned, args.completions.length), ...(logged && { logs: logged }) };
}

function startLogs(count: number) {
  const metrics: Record<string, number[]> = {};
  const extra: Record<string, unknown[]> = {};
  const tools: Omit<RewardTools, "trainer_state"> = {
    log_metric(name, value) {
      if (typeof name !== "string" || name === "")
        throw new TypeError("log_metric: the name must be a non-empty string");
      if (typeof value !== "number" || !Number.isFinite(value))
        throw new TypeError(`log_metric ${name}: ${show(value)} is not a finite number`);
      metrics[name] ??= [];
      metrics[name].push(value);
    },
    log_extra(column, values) {
      if (typeof column !== "string" || column === "")
        throw new TypeError("log_extra: the column must be a non-empty string");
      if (!Array.isArray(values) || values.length !== count)
        throw new TypeError(`log_extra ${column}: got ${show(values)} for ${count} completions; give one value each`);
      extra[column] = values.map((value) => JSON.parse(JSON.stringify(value) ?? "null"));
    },
  };
  const isEmpty = (object: object) => Object.keys(object).length === 0;
  return { tools, logs: (): Logs | undefined => (isEmpty(metrics) && isEmpty(extra) ? undefined : { metrics, extra }) };
}

/** @throws RewardFailure "result", which names the first thing that is wrong */
export function checkRewards(returned: unknown, count: number): readonly (number | null)[] {
  if (!Array.isArray(returned) && !(returned instanceof Float32Array) && !(returned instanceof Float64Array)) {
    throw new RewardFailure(
      "result",
      `returned ${show(returned)} instead of an array with a number or null per completion`,
    );
  }
  if (returned.length !== count) {
    throw new RewardFailure(
      "result",
      `returned ${returned.length} rewards for ${count} completions; it must return one per completion`,
    );
  }
  return Array.from(returned, (value: unknown, i) => {
    if (value === null || (typeof value === "number" && Number.isFinite(value))) return value;
    throw new RewardFailure("result", `returned ${show(value)}`, i);
  });
}

function describe(error: unknown): string {
  const name = error instanceof Error && error.name !== "" ? error.name : "an error";
  return `${name}: ${errorText(error)}`.slice(0, 500);
}

function show(value: unknown): string {
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === "string") return JSON.stringify(value.slice(0, 40));
  if (typeof value === "object" && value !== null) return `an object (${value.constructor?.name ?? "Object"})`;
  return typeof value === "function" ? "a function" : String(value);
}
