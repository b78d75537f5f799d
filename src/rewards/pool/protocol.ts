/**
 * What the three parts of the pool say to each other: the main thread (pool.ts) to its supervisor worker
 * (supervisor.ts), and the supervisor to the reward processes (child.ts). Plain data that structured clone can carry.
 */
import type { Extraction, Verdict, Verifier } from "../../answers/verify.ts";

/** One answer to judge, in each of the task's extractions. */
export interface Item {
  readonly gold: string;
  readonly response?: string;
  readonly pred?: string;
  readonly verifier?: Verifier;
}

/** What a reward function gets: one value per completion in each array. Lists of the data set's columns come along. */
export interface Arguments {
  readonly prompts: readonly unknown[];
  readonly completions: readonly string[];
  readonly completion_ids: readonly (readonly number[])[];
  /** The end of the prompt as the model read it, special tokens included; "" where the caller does not know it. */
  readonly prompt_ends: readonly string[];
  readonly [column: string]: readonly unknown[];
}

/**
 * Where training stands when a reward function is called, in the names of transformers' TrainerState. Outside of training
 * (`grpo eval`, the API) all numbers are 0 and `progress` is 1.
 */
export interface RewardTrainerState {
  /** Optimizer steps done: 0 for the first generation. */
  readonly global_step: number;
  readonly max_steps: number;
  /** Passes over the data set so far. */
  readonly epoch: number;
  /** Prompt and completion tokens so far, without this generation's. */
  readonly num_input_tokens_seen: number;
  /** global_step ÷ max_steps, from 0 to 1. */
  readonly progress: number;
  /** Whether an evaluation is scored, and not what is learned from. */
  readonly is_evaluation: boolean;
}

/** What a reward function wrote down beside its rewards. */
export interface Logs {
  /** By `log_metric`: every value of a name. */
  readonly metrics: Readonly<Record<string, readonly number[]>>;
  /** By `log_extra`: by column one value, any JSON, per completion. */
  readonly extra: Readonly<Record<string, readonly unknown[]>>;
}

/** What a call gave. */
export interface Called {
  readonly rewards: readonly (number | null)[];
  readonly logs?: Logs | undefined;
}

export type Work =
  | { readonly kind: "verify"; readonly items: readonly Item[]; readonly extractions: readonly Extraction[] }
  | { readonly kind: "call"; readonly path: string; readonly args: Arguments; readonly state: RewardTrainerState }
  | { readonly kind: "load"; readonly path: string };

/** From a process, in this order: ready once; then per work any number of verdicts, `loaded`, and one ending. */
export type Progress =
  | { readonly kind: "ready" }
  /** The verdicts on item `index`, one per extraction: sent as soon as they are known, so that a hang has one culprit. */
  | { readonly kind: "verdicts"; readonly index: number; readonly verdicts: readonly Verdict[] }
  | { readonly kind: "loaded" }
  | ({ readonly kind: "done" } & Partial<Called>)
  | { readonly kind: "failed"; readonly failure: Failure };

/**
 * Why a work did not end well.
 * `load`: the module is not a reward function; `result`: it returned something else than rewards (both end the run).
 * The others cost the completions concerned their reward: `threw`, `timeout`, `memory`, `exit` (the process ended).
 * `start`: no process could be started at all.
 */
export interface Failure {
  readonly cause: "load" | "result" | "threw" | "timeout" | "memory" | "exit" | "start";
  /** One line, without the function's name. */
  readonly message: string;
  /** `result`: the completion whose reward is none, where it is one alone. */
  readonly index?: number;
}

/** Whether the failure ends the run rather than costing a reward. */
export const isFatal = (failure: Failure): boolean => ["load", "result", "start"].includes(failure.cause);

export interface SupervisorSettings {
  /** Longest time for one answer, or for one call of a reward function, in milliseconds. */
  readonly timeoutMs: number;
  /** What a process may use beyond what it has when it starts, in MiB. */
  readonly memoryLimitMiB: number;
  /** Most processes at a time. */
  readonly size: number;
  /** Command that starts a process. */
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
      /** Null if the function said so, and where `failures` has an entry. */
      readonly rewards: readonly (number | null)[];
      readonly failures: readonly { readonly index: number; readonly failure: Failure }[];
      /** Absent where nothing was logged. */
      readonly logs?: Logs;
    }
  | { readonly kind: "failed"; readonly id: number; readonly failure: Failure };
