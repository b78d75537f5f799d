/** The numbers of an evaluation as they are logged, written to results.json and printed. Judges nothing itself. */

import type { Extraction } from "../answers/verify.ts";
import { InputError } from "../errors.ts";
import { counts, type Evaluation, type EvaluationSettings, judgedOf } from "./accuracy.ts";
import { majAtK } from "./maj-at-k.ts";
import { type PairedDifference, pairedDifference } from "./paired.ts";
import { type Estimate, meanOverProblems, meanPassAtK } from "./pass-at-k.ts";
import { intervalText, rewardLines, rewardResults, rewardValues } from "./rewards.ts";

/**
 * k of pass@k and maj@k: as given, else the powers of two up to the number of answers.
 * @throws InputError for a k beyond that
 */
export function chosenKs(asked: readonly number[] | null, samples: number): number[] {
  const tooLarge = asked?.find((k) => k > samples);
  if (tooLarge !== undefined)
    throw new InputError(`pass_at_k ${tooLarge}: there are only ${samples} answers per problem; raise num_generations`);
  const powers = Array.from({ length: 31 }, (_, i) => 2 ** i).filter((k) => k <= samples);
  return asked ? [...asked] : powers;
}

export interface AtK {
  readonly k: number;
  readonly pass: Estimate;
  readonly maj: Estimate;
}

/** pass@k and maj@k over the problems with a gold answer; none without. */
export function atEachK({ problems, votes }: Evaluation, ks: readonly number[], extraction: Extraction): AtK[] {
  const right = counts(problems, extraction === "strict" ? "strict" : "correct");
  if (right.length === 0) return [];
  return ks.map((k) => ({
    k,
    pass: meanPassAtK(right, k),
    maj: meanOverProblems(
      votes[extraction].map((vote) => majAtK(vote, k)),
      right[0]!.samples,
    ),
  }));
}

/** The settings that `train` and `sft` evaluate with. */
export interface TrainingEvaluation {
  readonly verifier: EvaluationSettings["verifier"];
  readonly seed: number;
  readonly maxCompletionLength: number;
  readonly evalNumGenerations: number;
  readonly evalTemperature: number | null;
  readonly stop: readonly string[] | null;
}

/** One greedy answer per problem, or several at temperature 1, unless `eval_temperature` says otherwise. */
export function trainingEvaluation(config: TrainingEvaluation): EvaluationSettings {
  const { verifier, seed, maxCompletionLength, evalNumGenerations: samples, evalTemperature, stop } = config;
  return {
    ...{ verifier, seed, maxCompletionLength, samples, stop },
    temperature: evalTemperature ?? (samples === 1 ? 0 : 1),
    ...{ topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 },
  };
}

/**
 * The record of an evaluation for metrics.jsonl, without its step.
 * @param before an evaluation of the same problems before training, with which the note compares
 */
export function evaluationMetrics(
  evaluation: Evaluation,
  before: Evaluation | null = null,
): { values: Record<string, number>; note: string } {
  const { accuracy, strict, unparsed, rewards, meanLength, clipped, problems } = evaluation;
  const ks = chosenKs(null, problems[0]?.answers.length ?? 1).filter((k) => k > 1);
  const atK = atEachK(evaluation, ks, "lenient").flatMap(({ k, pass, maj }) => [
    [`eval_pass@${k}`, pass.value],
    [`eval_maj@${k}`, maj.value],
  ]);
  const mean = rewards?.total.mean ?? null;
  const reward = mean && `reward ${intervalText(mean)}`;
  const judged = accuracy && `95 % interval ${range(accuracy)}`;
  const interval = [`${problems.length} problems`, judged ?? reward ?? "not scored"].join(", ");
  return {
    values: {
      // Our metrics override what a reward function logs under the same name.
      ...Object.fromEntries(Object.entries(rewards?.logged ?? {}).map(([name, value]) => [`eval_${name}`, value])),
      ...(accuracy && strict ? { eval_accuracy: accuracy.value, eval_accuracy_strict: strict.value } : {}),
      ...Object.fromEntries(atK),
      ...(unparsed === null ? {} : { eval_unparsed: unparsed }),
      ...Object.fromEntries(Object.entries(rewardValues(rewards)).map(([name, value]) => [`eval_${name}`, value])),
      "eval_completions/mean_length": meanLength,
      "eval_completions/clipped_ratio": clipped,
    },
    note: before?.accuracy && accuracy ? `${interval}; ${differenceText(compared(before, evaluation))}` : interval,
  };
}

/** Evaluation as a trainer calls it, as such records: the first one is what later ones are compared with; null: stopped. */
export function againstFirst<A extends readonly unknown[]>(evaluate: (...of: A) => Promise<Evaluation | null>) {
  let first: Evaluation | null = null;
  return async (...of: A): Promise<{ values: Record<string, number>; note: string }> => {
    const result = await evaluate(...of);
    if (!result) return { values: {}, note: "stopped" };
    const metrics = evaluationMetrics(result, first);
    first ??= result;
    return metrics;
  };
}

/**
 * Compares two evaluations of the same problems, problem by problem (by each one's share of right answers).
 * @throws RangeError if the problems are not the same rows
 */
export function compared(
  before: Evaluation,
  after: Evaluation,
  by: "correct" | "strict" = "correct",
): PairedDifference {
  const rows = ({ problems }: Evaluation) =>
    judgedOf(problems)
      .map(({ problem }) => problem.row)
      .join();
  if (rows(before) !== rows(after)) throw new RangeError("the two evaluations are of different problems");
  const shares = ({ problems }: Evaluation) => counts(problems, by).map(({ samples, correct }) => correct / samples);
  return pairedDifference(shares(before), shares(after));
}

/** "+50.7 points since the first evaluation (95 % interval +44.1 to +57.2; 160 problems better, 8 worse, p < 0.001)" */
export function differenceText({ value, low, high, better, worse, pValue }: PairedDifference): string {
  const points = (x: number) => `${x < 0 ? "−" : "+"}${Math.abs(100 * x).toFixed(1)}`;
  const p = pValue < 0.001 ? "p < 0.001" : `p = ${pValue.toFixed(3)}`;
  return `${points(value)} points since the first evaluation, 95 % interval ${points(low)} to ${points(high)}, ${better} better and ${worse} worse, ${p}`;
}

/** results.json: every number with its interval, pass@k and maj@k leniently and strictly. */
export function evaluationResults(evaluation: Evaluation, ks: readonly number[]): Record<string, unknown> {
  const { accuracy, strict, unparsed, rewards, meanLength, clipped, skipped, problems } = evaluation;
  const judged = judgedOf(problems).length;
  const byK = (extraction: Extraction, suffix: string) =>
    atEachK(evaluation, ks, extraction).flatMap(({ k, pass, maj }) => [
      [`pass@${k}${suffix}`, pass],
      [`maj@${k}${suffix}`, maj],
    ]);
  return {
    problems: problems.length,
    answers_per_problem: problems[0]?.answers.length ?? 0,
    ...(judged === problems.length ? {} : { judged_problems: judged }),
    ...(judged === 0 ? {} : { accuracy, accuracy_strict: strict }),
    ...Object.fromEntries([...byK("lenient", ""), ...byK("strict", "_strict")]),
    ...(rewards ? rewardResults(rewards) : {}),
    ...(judged === 0 ? {} : { unparsed }),
    ...{ mean_length: meanLength, clipped_ratio: clipped, skipped_rows: skipped },
  };
}

/** The lines that `grpo eval` prints: lenient and strict side by side; k = 1 is the accuracy and is not repeated. */
export function evaluationLines(evaluation: Evaluation, ks: readonly number[]): string[] {
  const { accuracy, strict, unparsed, rewards, meanLength, clipped, skipped, problems } = evaluation;
  const judged = judgedOf(problems).length;
  const row = (name: string, lenient: string, strictly: string) =>
    `${name.padEnd(17)} ${lenient.padEnd(24)}${strictly}`.trimEnd();
  const numbers = (name: string, a: Estimate, b: Estimate) => row(name, estimate(a), estimate(b));
  const shown = ks.filter((k) => k > 1);
  const strictly = atEachK(evaluation, shown, "strict");
  const lenient = atEachK(evaluation, shown, "lenient");
  const accuracies =
    accuracy && strict && unparsed !== null
      ? [
          row("95 % intervals", "found anywhere", "in the required form"),
          numbers("accuracy", accuracy, strict),
          ...lenient.map(({ k, pass }, i) => numbers(`pass@${k}`, pass, strictly[i]!.pass)),
          ...lenient.map(({ k, maj }, i) => numbers(`maj@${k}`, maj, strictly[i]!.maj)),
          row("no answer found", `${(100 * unparsed).toFixed(1)} %`, ""),
          ...(judged < problems.length ? [`without a gold    ${problems.length - judged} problems: not judged`] : []),
        ]
      : [];
  return [
    ...accuracies,
    ...(rewards ? rewardLines(rewards) : []),
    `mean length       ${meanLength.toFixed(1)} tokens, ${(100 * clipped).toFixed(1)} % cut at the limit`,
    ...(skipped > 0 ? [`rows left out     ${skipped}: the prompt leaves no room for an answer`] : []),
  ];
}

const range = ({ low, high }: Estimate) => `${(100 * low).toFixed(1)}–${(100 * high).toFixed(1)} %`;
const estimate = (e: Estimate) => `${(100 * e.value).toFixed(1)} % (${range(e)})`;
