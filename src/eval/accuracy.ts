/**
 * Accuracy and rewards on held-out problems: completions are sampled (greedily by default), judged by a verifier in the
 * reward processes if there is a gold answer, leniently and strictly, scored by reward functions if there are any, and
 * summarized with confidence intervals. Used by `grpo eval` and between training steps. report.ts prints and logs the
 * numbers.
 */

import { isNumber } from "../answers/gsm8k.ts";
import type { Extraction, Reason, Verifier } from "../answers/verify.ts";
import { unlessStopped } from "../device/stopping.ts";
import { InputError } from "../errors.ts";
import { alone, type Ranks, shareOf } from "../ranks/ranks.ts";
import { joinResults, loggedColumns, type RewardPool, type RewardResult } from "../rewards/pool/pool.ts";
import type { Item } from "../rewards/pool/protocol.ts";
import type { RolloutEngine } from "../rollout/engine.ts";
import type { SampledCompletion } from "../rollout/sequence.ts";
import type { Problem, ProblemSource } from "../run/prompts.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import type { Votes } from "./maj-at-k.ts";
import { type Estimate, meanPassAtK, type ProblemCount } from "./pass-at-k.ts";
import { type RewardSummary, type ScoreAnswers, summarizeRewards } from "./rewards.ts";
import { type Ballot, countVotes } from "./votes.ts";

export interface EvaluationSettings {
  /** "none": nothing is judged, with or without gold answers. */
  readonly verifier: Verifier | "auto" | "none";
  readonly samples: number;
  readonly seed: number;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  readonly maxCompletionLength: number;
  readonly stop?: readonly string[] | null;
}

export interface JudgedAnswer {
  readonly text: string;
  readonly completion: SampledCompletion;
  /** False without a gold answer. */
  readonly correct: boolean;
  readonly strict: boolean;
  /** null: no gold answer. */
  readonly reason: Reason | null;
  /** As found anywhere in the text, and in the required form only; null: not found. */
  readonly answer: string | null;
  readonly strictAnswer: string | null;
  /** The weighted sum, and by function; null: not scored. Absent without reward functions. */
  readonly reward?: number | null;
  readonly rewards?: Readonly<Record<string, number | null>>;
  /** Columns that reward functions added. */
  readonly extra?: Readonly<Record<string, unknown>>;
}

export interface JudgedProblem {
  readonly problem: Problem;
  /** null: not judged. */
  readonly gold: string | null;
  readonly answers: readonly JudgedAnswer[];
}

export interface Evaluation {
  readonly problems: readonly JudgedProblem[];
  /**
   * Share of right answers, found anywhere in the text, over the problems with a gold answer, with Wilson's 95 %
   * interval; null if no problem has one, like the next two.
   */
  readonly accuracy: Estimate | null;
  /** The same with the answer in the required form only. */
  readonly strict: Estimate | null;
  /** Share of responses in which no answer was found. */
  readonly unparsed: number | null;
  /** null: there are no reward functions. */
  readonly rewards: RewardSummary | null;
  /** What went wrong with reward functions, one line each. */
  readonly warnings: readonly string[];
  readonly meanLength: number;
  readonly clipped: number;
  /** Rows left out: their prompt is too long. */
  readonly skipped: number;
  /** How the answers to each problem with a gold answer agree, by extraction. */
  readonly votes: Readonly<Record<Extraction, readonly Votes[]>>;
}

/** How long an evaluation that was told to stop waits for pending verdicts. */
const JUDGE_GRACE_MS = 500;

/** Evaluation has its own stream of random numbers, so that it never changes training. */
const EVALUATION_STREAM = 1;

/**
 * The first `limit` problems (null: all) that fit.
 *
 * @param cure what to do about a row without a gold answer, which is refused; null: it is left to the reward functions
 */
export function evaluationProblems(
  source: ProblemSource,
  limit: number | null,
  longestPrompt: number,
  cure: string | null = "name the column with --answer_column",
): { problems: Problem[]; skipped: number } {
  const problems: Problem[] = [];
  let skipped = 0;
  const { numRows, path } = source.dataset;
  for (let row = 0; row < numRows && problems.length < (limit ?? Infinity); row++) {
    const problem = source.problem(row);
    if (cure !== null && problem.example.gold === null)
      throw new InputError(`${path}: row ${row} has no gold answer; ${cure}`);
    if (problem.promptIds.length > longestPrompt) skipped++;
    else problems.push(problem);
  }
  if (problems.length === 0)
    throw new InputError(`${path}: no problems to evaluate: no rows, or every prompt is too long`);
  return { problems, skipped };
}

/** Samples, judges and scores; divided among the ranks, all of which get all results. null: it was stopped. */
export async function evaluateProblems(
  rollout: RolloutEngine,
  tokenizer: Tokenizer,
  pool: RewardPool,
  { problems, skipped }: { readonly problems: readonly Problem[]; readonly skipped: number },
  settings: EvaluationSettings,
  events: {
    readonly onProgress?: (finished: number, total: number) => void;
    readonly shouldStop?: () => boolean;
    /** Asks the reward functions; null: there are none. */
    readonly score?: ScoreAnswers | null;
    /** Left out: this process alone, until `shouldStop`. */
    readonly ranks?: Ranks;
  } = {},
): Promise<Evaluation | null> {
  const { samples, seed, temperature, topK, topP, minP, repetitionPenalty, maxCompletionLength, verifier } = settings;
  const { onProgress, score = null, ranks = alone(events.shouldStop) } = events;
  const shouldStop = ranks.shouldHurry;
  const share = shareOf(problems.length, ranks.rank, ranks.size);
  const own = problems.slice(share.from, share.to);

  const judgedShare = async (): Promise<JudgedShare | null> => {
    const sampled = await rollout.generate(
      own.map(({ promptIds }, i) => ({ promptIds, samples, prompt: share.from + i })),
      {
        ...{ seed, stream: EVALUATION_STREAM, step: 0, temperature, topK, topP, minP, repetitionPenalty },
        maxCompletionLength,
        ...{ isStop: tokenizer.isStop, stopStrings: tokenizer.stopStrings(settings.stop ?? null) },
      },
      { ...(onProgress && { onProgress }), shouldStop },
    );
    if (shouldStop()) return null;
    return unlessStopped(judgeCompletions(tokenizer, pool, own, sampled, verifier, score), shouldStop, JUDGE_GRACE_MS);
  };
  const parts = await ranks.gather("an evaluation", await judgedShare());
  if (parts.includes(null)) return null;
  const whole = parts.flatMap((part) => part!.answers);
  const judged = problems.map((problem, i) => ({ problem, gold: goldOf(problem, verifier), answers: whole[i]! }));
  const votes = (by: Extraction) => parts.flatMap((part) => part!.votes[by]);
  const scored = parts.flatMap((part) => (part!.scored && part!.answers.length > 0 ? [part!.scored] : []));
  const all = scored.length > 1 ? joinResults(scored) : scored[0];
  return {
    problems: judged,
    votes: { lenient: votes("lenient"), strict: votes("strict") },
    rewards: all
      ? summarizeRewards(
          all,
          whole.map((answers) => answers.length),
        )
      : null,
    warnings: all?.warnings ?? [],
    skipped,
    ...summary(judged),
  };
}

/** A rank's part of an evaluation, as plain data. */
interface JudgedShare {
  /** By problem. */
  readonly answers: readonly (readonly JudgedAnswer[])[];
  readonly votes: Evaluation["votes"];
  readonly scored: RewardResult | null;
}

/** null: not judged. */
const goldOf = ({ example }: Problem, verifier: EvaluationSettings["verifier"]): string | null =>
  verifier === "none" ? null : example.gold;

/** The answers, judged by the verifiers and scored by the reward functions, and how they agree. */
async function judgeCompletions(
  tokenizer: Tokenizer,
  pool: RewardPool,
  problems: readonly Problem[],
  sampled: readonly (readonly SampledCompletion[])[],
  verifier: EvaluationSettings["verifier"],
  score: ScoreAnswers | null,
): Promise<JudgedShare> {
  const answers = problems.flatMap((problem, group) =>
    sampled[group]!.map((completion) => ({
      ...{ problem, group, completion, completionIds: completion.completionIds },
      text: tokenizer.decode([...completion.completionIds], { skipSpecialTokens: true }),
      gold: goldOf(problem, verifier),
    })),
  );
  const named = verifier === "auto" || verifier === "none" ? {} : { verifier };
  const items = answers.flatMap(({ gold, text }) => (gold === null ? [] : [{ gold, response: text, ...named }]));
  const scored = (await score?.(answers)) ?? null;
  const columns = scored ? loggedColumns(scored) : null;
  const lenient = (await pool.verify(items, "lenient")).values();
  const strict = (await pool.verify(items, "strict")).values();
  const judged = answers.map(({ gold, text, completion }, i): JudgedAnswer => {
    const shared = { text, completion, ...(scored && rewardsOf(scored, i, columns)) };
    if (gold === null)
      return { ...shared, correct: false, strict: false, reason: null, answer: null, strictAnswer: null };
    const [verdict, strictly] = [lenient.next().value!, strict.next().value!];
    const right = { correct: verdict.reward === 1, strict: strictly.reward === 1 };
    return { ...shared, ...right, reason: verdict.reason, answer: verdict.answer, strictAnswer: strictly.answer };
  });
  const byProblem = Map.groupBy(judged.keys(), (i) => answers[i]!.group);
  const answered = problems.map((problem, group) => ({
    ...{ problem, gold: goldOf(problem, verifier) },
    answers: (byProblem.get(group) ?? []).map((i) => judged[i]!),
  }));
  const judge = (pairs: readonly Item[]) => pool.verify(pairs, "lenient");
  const ballots = (strictly: boolean) => judgedOf(answered).map((each) => ballot(each, verifier, strictly));
  const votes = { lenient: await countVotes(ballots(false), judge), strict: await countVotes(ballots(true), judge) };
  return { answers: answered.map((each) => each.answers), votes, scored };
}

/** The reward functions' results for one answer. */
function rewardsOf(
  { perFunction, total }: RewardResult,
  i: number,
  columns: readonly Record<string, unknown>[] | null,
) {
  const rewards = Object.fromEntries(perFunction.map((each) => [each.name, each.rewards[i] ?? null]));
  return { reward: total[i] ?? null, rewards, ...(columns && { extra: columns[i]! }) };
}

/** The problems with a gold answer. */
export const judgedOf = (problems: readonly JudgedProblem[]) => problems.filter(({ gold }) => gold !== null);

function ballot({ gold, answers }: JudgedProblem, verifier: EvaluationSettings["verifier"], strictly: boolean): Ballot {
  const byGold = isNumber(gold ?? "") ? "gsm8k" : "math";
  return {
    verifier: verifier === "auto" || verifier === "none" ? byGold : verifier,
    answers: answers.map((a) =>
      strictly ? { answer: a.strictAnswer, right: a.strict } : { answer: a.answer, right: a.correct },
    ),
  };
}

/** How many of the answers to each problem with a gold answer are right. */
export function counts(problems: readonly JudgedProblem[], by: "correct" | "strict" = "correct"): ProblemCount[] {
  return judgedOf(problems).map(({ answers }) => ({
    samples: answers.length,
    correct: answers.filter((a) => a[by]).length,
  }));
}

function summary(problems: readonly JudgedProblem[]) {
  const answers = problems.flatMap((p) => p.answers);
  const judged = answers.filter((a) => a.reason !== null);
  const share = (of: readonly JudgedAnswer[], test: (a: JudgedAnswer) => boolean) =>
    of.filter(test).length / Math.max(of.length, 1);
  const accuracies =
    judged.length === 0
      ? { accuracy: null, strict: null, unparsed: null }
      : {
          accuracy: meanPassAtK(counts(problems), 1),
          strict: meanPassAtK(counts(problems, "strict"), 1),
          unparsed: share(judged, (a) => a.reason === "unparsed"),
        };
  return {
    ...accuracies,
    meanLength: answers.reduce((sum, a) => sum + a.completion.completionIds.length, 0) / Math.max(answers.length, 1),
    clipped: share(answers, (a) => !a.completion.finished),
  };
}
