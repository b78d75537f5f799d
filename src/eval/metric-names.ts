/**
 * Which metrics an evaluation during training can have, known before the first one, so that `metric_for_best_model` can
 * be checked at the start rather than after an evaluation.
 */
import { nearest } from "../config/nearest.ts";
import { InputError } from "../errors.ts";
import { evaluationName } from "../run/best-checkpoint.ts";
import { chosenKs } from "./report.ts";

export interface EvaluationNames {
  /** Of the reward functions; none if an evaluation asks for no rewards. */
  readonly rewards: readonly string[];
  /** Some function is the user's own, and may log anything. */
  readonly logsMore: boolean;
  /** Answers per problem. */
  readonly samples: number;
}

/** With `eval_`; those of accuracy only if problems have gold answers. */
function evaluationNames({ rewards, samples }: EvaluationNames): string[] {
  const atK = chosenKs(null, samples).filter((k) => k > 1);
  return [
    ...["accuracy", "accuracy_strict", ...atK.flatMap((k) => [`pass@${k}`, `maj@${k}`]), "unparsed"],
    ...(rewards.length > 0 ? ["reward", "reward_std"] : []),
    ...rewards.flatMap((name) => [`rewards/${name}/mean`, `rewards/${name}/std`]),
    ...["completions/mean_length", "completions/clipped_ratio"],
  ].map((name) => `eval_${name}`);
}

/**
 * @param metric the setting's value; null: not set
 * @throws InputError if no evaluation can have it
 */
export function requireEvaluationName(metric: string | null, available: EvaluationNames): void {
  if (metric === null) return;
  const name = evaluationName(metric);
  const names = evaluationNames(available);
  if (names.includes(name) || (available.logsMore && !name.startsWith("eval_rewards/"))) return;
  const near = nearest(name, names);
  throw new InputError(
    `metric_for_best_model ${metric}: no evaluation has it; ${near === undefined ? `there are ${names.join(", ")}` : `did you mean ${near}?`}`,
  );
}
