/**
 * The messages between the pool's three parts: the main thread (pool.ts), its supervisor worker (supervisor.ts), and the
 * reward processes (child.ts). Plain data that structured clone can carry.
 */
import type { Extraction, Verdict, Verifier } from "../../answers/verify.ts";

/** One answer to judge, in each of the task's extractions. */
export interface Item {
  readonly gold: string;
  readonly response?: string;
  readonly pred?: string;
  readonly verifier?: Verifier;
}

/** What a reward function gets: one value per completion in each array, including the dataset's columns. */
export interface Arguments {
  readonly prompts: readonly unknown[];
  readonly completions: readonly string[];
  readonly completion_ids: readonly (readonly number[])[];
  /** The end of the prompt as the model read it, special tokens included; "" if the caller does not know it. */
  readonly prompt_ends: readonly string[];
  readonly [column: string]: readonly unknown[];
}

/**
 * The state of training when a reward function is called, with the names of transformers' TrainerState. Outside of
 * training (`grpo eval`, the API) all numbers are 0 and `progress` is 1.
 */
export interface RewardTrainerState {
  /** Optimizer steps done: 0 for the first generation. */
  readonly global_step: number;
  readonly max_steps: number;
  /** Passes over the dataset so far. */
  readonly epoch: number;
  /** Prompt and completion tokens so far, without this generation's. */
  readonly num_input_tokens_seen: number;
  /** global_step ÷ max_steps, from 0 to 1. */
  readonly progress: number;
  /** Whether an evaluation is being scored, rather than training data. */
  readonly is_evaluation: boolean;
}

/** What a reward function logged beside its rewards. */
export interface Logs {
  /** By `log_metric`: every value of a name. */
  readonly metrics: Readonly<Record<string, readonly number[]>>;
  /** By `log_extra`: for each column one value, any JSON, per completion. */
  readonly extra: Readonly<Record<string, readonly unknown[]>>;
}

/** The result of a call. */
export interface Called {
  readonly rewards: readonly (number | null)[];
  readonly logs?: Logs | undefined;
}

export type Work =
  | { readonly kind: "verify"; readonly items: readonly Item[]; readonly extractions: readonly Extraction[] }
  | { readonly kind: "call"; readonly path: string; readonly args: Arguments; readonly state: RewardTrainerState }
  | { readonly kind: "load"; readonly path: string };

/** From a process, in this order: ready once; then per task any number of verdicts, `loaded`, and one ending. */
export type Progress =
  | { readonly kind: "ready" }
  /** The verdicts on item `index`, one per extraction, sent as soon as they are known, so that a hang has one culprit. */
  | { readonly kind: "verdicts"; readonly index: number; readonly verdicts: readonly Verdict[] }
  | { readonly kind: "loaded" }
  | ({ readonly kind: "done" } & Partial<Called>)
  | { readonly kind: "failed"; readonly failure: Failure };

/**
 * Why a task failed. `load`: the module has no reward function; `result`: it returned something other than rewards (both
 * end the run). The others only cost the completions their reward: `threw`, `timeout`, `memory`, `exit` (the process
 * ended). `start`: no process could be started at all.
 */
export interface Failure {
  readonly cause: "load" | "result" | "threw" | "timeout" | "memory" | "exit" | "start";
  /** One line, without the function's name. */
  readonly message: string;
  /** `result`: the completion with the bad reward, if it is a single one. */
  readonly index?: number;
}

/** Whether the failure ends the run rather than costing a reward. */
export const isFatal = (failure: Failure): boolean => ["load", "result", "start"].includes(failure.cause);

export interface SupervisorSettings {
  /** Longest time for one answer, or for one call of a reward function, in milliseconds. */
  readonly timeoutMs: number;
  /** What a process may use beyond its initial size, in MiB. */
  readonly memoryLimitMiB: number;
  /** Most processes at a time. */
  readonly size: number;
  /** The command that starts a process. */
  readonly command: readonly string[];
}

export type ToSupervisor =
  | { readonly kind: "start"; readonly settings: SupervisorSettings }
  | { readonly kind: "work"; readonly id: number; readonly work: Work }
  | { readonly kind: "close" };

export type FromSupervisor =
  | {
      readonly kind: "verdicts";
      readonly id: number;
      /** Per item: one verdict per extraction, or the failure that it ended in. */
      readonly results: readonly (readonly Verdict[] | Failure)[];
    }
  | {
      readonly kind: "rewards";
      readonly id: number;
      /** Null if the function returned null, and where `failures` has an entry. */
      readonly rewards: readonly (number | null)[];
      readonly failures: readonly { readonly index: number; readonly failure: Failure }[];
      /** Absent if nothing was logged. */
      readonly logs?: Logs;
    }
  | { readonly kind: "failed"; readonly id: number; readonly failure: Failure };

type WithoutId<M> = M extends { readonly id: number } ? Omit<M, "id"> : never;

/** What came of one request, wherever it was answered. */
export type Answer = WithoutId<FromSupervisor>;
