/**
 * Which numbers an evaluation during training can have, known before the first: so that `metric_for_best_model` is judged
 * at the start, and not when an evaluation is over.
 */
import { nearest } from "../config/nearest.ts";
import { InputError } from "../errors.ts";
import { evaluationName } from "../run/best-checkpoint.ts";
import { chosenKs } from "./report.ts";

export interface EvaluationNames {
  /** Of the reward functions; none if an evaluation asks for no rewards. */
  readonly rewards: readonly string[];
  /** Some function is the user's own, and may log what it likes. */
  readonly logsMore: boolean;
  /** Answers to a problem. */
  readonly samples: number;
}

/** With their `eval_`; those of accuracy are there only where problems have golds. */
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
 * @param metric as it is set; null: not at all
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
