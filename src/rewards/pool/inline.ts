/**
 * Reward functions that a program gives as values: called in its own process, as closures cannot leave it. The deadline
 * ends the waiting for one that waits; nothing ends one that computes, and there is no memory limit.
 */
import { callFunction, RewardFailure, type RewardFunction } from "./functions.ts";
import {
  type Answer,
  type Arguments,
  type Called,
  type Failure,
  isFatal,
  type RewardTrainerState,
} from "./protocol.ts";

/**
 * A function as the reward processes offer theirs: one that throws is called again with each completion by itself, to find
 * those that it fails on.
 */
export function inlineCall(
  call: RewardFunction,
  timeoutMs: number,
): (args: Arguments, state: RewardTrainerState) => Promise<Answer> {
  return async (args, state) => {
    const failures: { index: number; failure: Failure }[] = [];
    const attempt = async (some: Arguments, indices: readonly number[]): Promise<Called> => {
      try {
        return await inTime(callFunction(call, some, state), timeoutMs);
      } catch (error) {
        if (!(error instanceof RewardFailure)) throw error;
        const { failure } = error;
        if (isFatal(failure))
          throw failure.index === undefined
            ? error
            : new RewardFailure(failure.cause, failure.message, indices[failure.index]);
        if (failure.cause === "threw" && indices.length > 1) return oneByOne(indices);
        failures.push(...indices.map((index) => ({ index, failure })));
        return { rewards: indices.map(() => null) };
      }
    };
    const oneByOne = async (indices: readonly number[]): Promise<Called> => {
      const rewards: (number | null)[] = [];
      for (const i of indices) rewards.push(...(await attempt(only(args, i), [i])).rewards);
      return { rewards };
    };
    try {
      const { rewards, logs } = await attempt(args, [...args.completions.keys()]);
      return { kind: "rewards", rewards, failures, ...(logs && { logs }) };
    } catch (error) {
      if (error instanceof RewardFailure) return { kind: "failed", failure: error.failure };
      throw error;
    }
  };
}

/** The arguments of one completion. */
const only = (args: Arguments, i: number): Arguments =>
  Object.fromEntries(Object.entries(args).map(([key, values]) => [key, [values[i]]])) as unknown as Arguments;

async function inTime<T>(work: Promise<T>, timeoutMs: number): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new RewardFailure("timeout", `took longer than ${timeoutMs / 1000} s`)), timeoutMs);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
