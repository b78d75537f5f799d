/**
 * The result of scoring a batch: each function's rewards and failures, the weighted sum, and the warnings to print.
 * Merges the results of several batches into one.
 */

import type { Reason } from "../answers/verify.ts";
import type { Logs } from "./pool/protocol.ts";

export interface FunctionResult {
  /** As in the metric `rewards/<name>/mean`. */
  readonly name: string;
  /** Null: not scored. */
  readonly rewards: readonly (number | null)[];
  /** Verifiers: the reward under strict extraction (null if there is no gold). */
  readonly strict?: readonly (0 | 1 | null)[];
  /** Verifiers: why, per completion (null if there is no gold). */
  readonly reasons?: readonly (Reason | null)[];
  /** Completions in which no answer was found. */
  readonly unparsed: number;
  /** Completions stopped at the deadline, at the memory limit, or with their process. */
  readonly timeouts: number;
  /** What went wrong, one entry per kind; absent if nothing did. */
  readonly mishaps?: readonly Mishap[];
  /** What the function logged beside its rewards; absent if nothing. */
  readonly logs?: Logs;
}

/** One kind of failure of one function, and how often it happened. */
export interface Mishap {
  /** The function and what it did, as a sentence's beginning. */
  readonly what: string;
  /** What it means for the completions concerned. */
  readonly cost: string;
  readonly count: number;
  /** The first one: its index in the batch, and its row in the dataset if known. */
  readonly first: { readonly index: number; readonly row: number | null };
}

export interface RewardResult {
  readonly perFunction: readonly FunctionResult[];
  /** The weighted sum of the rewards that are not null; null if all are. */
  readonly total: readonly (number | null)[];
  /** The reasons of the first verifier; null if there is none, or no gold. */
  readonly reasons: readonly (Reason | null)[];
  /** One line per function and kind of failure. */
  readonly warnings: readonly string[];
}

/** Over the functions that scored a completion; null where none did. (N) */
export function weightedSum(
  perFunction: readonly (readonly (number | null)[])[],
  weights: readonly number[],
  completions: number,
): (number | null)[] {
  return Array.from({ length: completions }, (_, i) => {
    let sum: number | null = null;
    for (const [f, rewards] of perFunction.entries()) {
      const reward = rewards[i] ?? null;
      if (reward !== null) sum = (sum ?? 0) + reward * weights[f]!;
    }
    return sum;
  });
}

/** @param weights one per function, in order */
export function resultOf(
  perFunction: readonly FunctionResult[],
  weights: readonly number[],
  completions: number,
): RewardResult {
  const all = perFunction.map(({ rewards }) => rewards);
  const total = weightedSum(all, weights, completions);
  const reasons = perFunction.find((result) => result.reasons)?.reasons ?? total.map(() => null);
  return { perFunction, total, reasons, warnings: warningsOf(perFunction) };
}

/**
 * Results of batches that one pool scored → the result of all their completions, in the order given. A kind of failure
 * in several batches is reported once, with its total count.
 */
export function joinResults(results: readonly RewardResult[]): RewardResult {
  const names = results[0]?.perFunction.map(({ name }) => name) ?? [];
  for (const { perFunction } of results) {
    if (perFunction.length !== names.length || perFunction.some(({ name }, k) => name !== names[k])) {
      throw new Error(`joinResults: ${perFunction.map(({ name }) => name).join()} after ${names.join()}`);
    }
  }
  const offsets: number[] = [];
  let completions = 0;
  for (const { total } of results) {
    offsets.push(completions);
    completions += total.length;
  }
  const perFunction = names.map((name, k): FunctionResult => {
    const parts = results.map((result) => result.perFunction[k]!);
    const mishaps = joinMishaps(
      parts.flatMap((part, b) =>
        (part.mishaps ?? []).map((m) => ({ ...m, first: { ...m.first, index: m.first.index + offsets[b]! } })),
      ),
    );
    const logs = joinLogs(parts.map((part) => ({ logs: part.logs, count: part.rewards.length })));
    return {
      name,
      rewards: parts.flatMap((part) => part.rewards),
      ...(parts[0]!.strict && { strict: parts.flatMap((part) => part.strict ?? []) }),
      ...(parts[0]!.reasons && { reasons: parts.flatMap((part) => part.reasons ?? []) }),
      unparsed: parts.reduce((sum, part) => sum + part.unparsed, 0),
      timeouts: parts.reduce((sum, part) => sum + part.timeouts, 0),
      ...(mishaps.length > 0 && { mishaps }),
      ...(logs && { logs }),
    };
  });
  return {
    perFunction,
    total: results.flatMap(({ total }) => total),
    reasons: results.flatMap(({ reasons }) => reasons),
    warnings: warningsOf(perFunction),
  };
}

/** The logs of several calls, with their numbers of completions → the logs of all, in order; undefined if there are none. */
export function joinLogs(
  parts: readonly { readonly logs: Logs | undefined; readonly count: number }[],
): Logs | undefined {
  if (parts.every(({ logs }) => logs === undefined)) return undefined;
  const names = (of: "metrics" | "extra") => [...new Set(parts.flatMap(({ logs }) => Object.keys(logs?.[of] ?? {})))];
  const nothing = (count: number): unknown[] => new Array(count).fill(null);
  return {
    metrics: Object.fromEntries(
      names("metrics").map((name) => [name, parts.flatMap(({ logs }) => logs?.metrics[name] ?? [])]),
    ),
    extra: Object.fromEntries(
      names("extra").map((name) => [name, parts.flatMap(({ logs, count }) => logs?.extra[name] ?? nothing(count))]),
    ),
  };
}

/** The mean of what all functions logged under each name. */
export function loggedMetrics({ perFunction }: RewardResult): Record<string, number> {
  const values = new Map<string, number[]>();
  for (const { logs } of perFunction)
    for (const [name, some] of Object.entries(logs?.metrics ?? {}))
      values.set(name, [...(values.get(name) ?? []), ...some]);
  return Object.fromEntries([...values].map(([name, all]) => [name, all.reduce((a, b) => a + b, 0) / all.length]));
}

/** The columns that functions added, by completion; null if none did. */
export function loggedColumns({ perFunction, total }: RewardResult): Record<string, unknown>[] | null {
  const columns = perFunction.flatMap(({ logs }) => Object.entries(logs?.extra ?? {}));
  if (columns.length === 0) return null;
  return total.map((_, i) => Object.fromEntries(columns.map(([name, values]) => [name, values[i]])));
}

function joinMishaps(mishaps: readonly Mishap[]): Mishap[] {
  const kinds = Map.groupBy(mishaps, ({ what, cost }) => `${what}\n${cost}`);
  return [...kinds.values()].map((same) => ({ ...same[0]!, count: same.reduce((sum, { count }) => sum + count, 0) }));
}

function warningsOf(perFunction: readonly FunctionResult[]): string[] {
  return perFunction.flatMap(({ mishaps = [], rewards }) =>
    mishaps.map(
      ({ what, cost, count, first }) =>
        `${what} on ${count} of ${rewards.length} completions; ${cost} (first: ${place(first.index, first.row)})`,
    ),
  );
}

/** The position of a completion, for messages: the row counted from 0, as by `data info`; the completion from 1. */
export const place = (index: number, row: number | null): string =>
  `${row === null ? "" : `row ${row}, `}completion ${index + 1}`;
