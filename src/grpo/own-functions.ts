/**
 * The functions that a program gives in place of names: reward functions, a loss, an estimator. They travel beside the
 * settings, which have only names: `function:NAME` is what run.json and checkpoints record.
 */
import { type ConfigRecord, toJson } from "../config/record.ts";
import type { RewardFunction } from "../rewards/pool/functions.ts";
import type { OwnEstimator } from "./estimators/own.ts";
import type { OwnLoss } from "./loss/config.ts";

export interface OwnFunctions {
  /** By the names that `reward_funcs` has them under. */
  readonly rewards: ReadonlyMap<string, RewardFunction>;
  readonly loss: OwnLoss | null;
  readonly estimator: OwnEstimator | null;
}

export const noFunctions: OwnFunctions = { rewards: new Map(), loss: null, estimator: null };

const recordName = (own: { readonly name: string }): string => `function:${own.name || "unnamed"}`;

/** Whether a recorded value stands for a function, which a file cannot hold. */
export const isFunctionRecord = (value: unknown): value is string =>
  typeof value === "string" && value.startsWith("function:");

/** A run's settings as they are stored: those that are functions by their names. */
export function recordOf(config: object, { loss, estimator }: OwnFunctions): ConfigRecord {
  return {
    ...toJson(config),
    ...(loss && { loss_type: recordName(loss) }),
    ...(estimator && { advantage_estimator: recordName(estimator) }),
  };
}
