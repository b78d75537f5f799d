/** A configuration as it is stored beside a checkpoint, and what has changed since. */
import { isObject } from "./json-file.ts";
import { toSnake } from "./names.ts";

export type ConfigRecord = Readonly<Record<string, unknown>>;

/** Settings whose values are written nowhere. */
const secrets: ReadonlySet<string> = new Set(["hub_token"]);

/** The settings by their snake_case names, ready for JSON; without secrets. */
export function toJson(config: object): ConfigRecord {
  const entries = Object.entries(config).map(([key, value]) => [toSnake(key), value] as const);
  return Object.fromEntries(entries.filter(([key]) => !secrets.has(key)));
}

/** Settings that may differ when a run goes on: they change what is shown or kept, never a weight. */
export const freeOnResume: ReadonlySet<string> = new Set([
  "threads",
  "ranks",
  "shard_optimizer",
  "max_concurrent_sequences",
  "gradient_checkpointing",
  "offload_optimizer",
  "reward_timeout",
  "eval_dataset",
  "eval_split",
  "eval_steps",
  "eval_samples",
  "eval_num_generations",
  "eval_temperature",
  "verifier",
  "metric_for_best_model",
  "greater_is_better",
  "load_best_model_at_end",
  "early_stopping_patience",
  "early_stopping_threshold",
  "output_dir",
  "overwrite",
  "resume_from_checkpoint",
  "save_steps",
  "save_total_limit",
  "logging_steps",
  "report_to",
  "run_name",
  "quiet",
  "log_completions",
  "log_completions_steps",
  "num_completions_to_print",
  "save_completions",
  "save_token_details",
  "dashboard",
  "dashboard_host",
  "debug",
  "preset",
  "push_to_hub",
  "hub_model_id",
  "hub_strategy",
  "hub_private_repo",
  "hub_revision",
  "hub_token",
]);

/** Settings of `update` that a replay has its own of: where things are, and what the file of rollouts says itself. */
export const freeInReplay: ReadonlySet<string> = new Set([
  ...freeOnResume,
  "device",
  "model",
  "rollouts",
  "num_generations",
]);

export interface Difference {
  readonly key: string;
  readonly before: unknown;
  readonly now: unknown;
}

/**
 * Settings with different values in two records of `toJson`; a key that one of them lacks counts.
 * @param ignored keys left out, e.g. `freeOnResume`
 */
export function configDifferences(
  before: ConfigRecord,
  now: ConfigRecord,
  ignored: ReadonlySet<string> = new Set(),
): Difference[] {
  const keys = new Set([...Object.keys(before), ...Object.keys(now)]);
  const differences: Difference[] = [];
  for (const key of keys) {
    if (ignored.has(key) || canonical(before[key]) === canonical(now[key])) continue;
    differences.push({ key, before: before[key], now: now[key] });
  }
  return differences;
}

/** JSON with sorted keys, so that the order in which an object was written does not count. */
function canonical(value: unknown): string {
  const sorted = (_: string, inner: unknown) =>
    isObject(inner) ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1))) : inner;
  return JSON.stringify(value, sorted) ?? "absent";
}
