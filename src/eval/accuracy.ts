/**
 * Accuracy on held-out problems: completions are sampled (greedily by default), judged by a verifier in the reward
 * processes, leniently and strictly, and summed up with confidence intervals. Used by `grpo eval` and between training
 * steps. How the numbers are shown and logged is report.ts.
 */
import { unlessStopped } from "../device/stopping.ts";
import type { Problem, ProblemSource } from "../engine/prompts.ts";
import { InputError } from "../errors.ts";
import { isNumber } from "../rewards/gsm8k.ts";
import type { RewardPool } from "../rewards/pool.ts";
import type { Item } from "../rewards/protocol.ts";
import type { Extraction, Reason, Verifier } from "../rewards/verify.ts";
import type { RolloutEngine } from "../rollout/engine.ts";
import type { SampledCompletion } from "../rollout/sequence.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import type { Votes } from "./maj-at-k.ts";
import { type Estimate, meanPassAtK, type ProblemCount } from "./pass-at-k.ts";
import { type Ballot, countVotes } from "./votes.ts";

export interface EvaluationSettings {
  readonly verifier: Verifier | "auto";
  readonly samples: number;
  readonly seed: number;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  readonly maxCompletionLength: number;
}

export interface JudgedAnswer {
  readonly text: string;
  readonly completion: SampledCompletion;
  readonly correct: boolean;
  readonly strict: boolean;
  readonly reason: Reason;
  /** As found anywhere in the text, and in the required form only; null: nothing was. */
  readonly answer: string | null;
  readonly strictAnswer: string | null;
}

export interface JudgedProblem {
  readonly problem: Problem;
  readonly gold: string;
  readonly answers: readonly JudgedAnswer[];
}

export interface Evaluation {
  readonly problems: readonly JudgedProblem[];
  /** Share of right answers, found anywhere in the text; over problems, with Wilson's 95 % interval. */
  readonly accuracy: Estimate;
  /** The same with the answer in the required form only. */
  readonly strict: Estimate;
  /** Share of answers in which nothing was found. */
  readonly unparsed: number;
  readonly meanLength: number;
  readonly clipped: number;
  /** Rows left out: their prompt is too long. */
  readonly skipped: number;
  /** How the answers of each problem agree, by extraction. */
  readonly votes: Readonly<Record<Extraction, readonly Votes[]>>;
}

/** How long an evaluation that is to stop waits for verdicts under way. */
const JUDGE_GRACE_MS = 500;

/** Evaluation draws from a stream of random numbers of its own, so that it never changes training. */
const EVALUATION_STREAM = 1;

/** The first `limit` problems (null: all) that fit and have a gold. @throws InputError where none has. */
export function evaluationProblems(
  source: ProblemSource,
  limit: number | null,
  longestPrompt: number,
): { problems: Problem[]; skipped: number } {
  const problems: Problem[] = [];
  let skipped = 0;
  const { numRows, path } = source.dataset;
  for (let row = 0; row < numRows && problems.length < (limit ?? Infinity); row++) {
    const problem = source.problem(row);
    if (problem.example.gold === null)
      throw new InputError(`${path}: row ${row} has no gold answer; name the column with --answer_column`);
    if (problem.promptIds.length > longestPrompt) skipped++;
    else problems.push(problem);
  }
  if (problems.length === 0)
    throw new InputError(`${path}: no problem to evaluate: no row, or every prompt is too long`);
  return { problems, skipped };
}

/** Samples and judges. Stops early, with what is there, when `shouldStop` says so. */
export async function evaluateProblems(
  rollout: RolloutEngine,
  tokenizer: Tokenizer,
  pool: RewardPool,
  { problems, skipped }: { readonly problems: readonly Problem[]; readonly skipped: number },
  settings: EvaluationSettings,
  events: {
    readonly onProgress?: (finished: number, total: number) => void;
    readonly shouldStop?: () => boolean;
  } = {},
): Promise<Evaluation | null> {
  const { samples, seed, temperature, topK, topP, minP, repetitionPenalty, maxCompletionLength } = settings;
  const sampled = await rollout.generate(
    problems.map(({ promptIds }, prompt) => ({ promptIds, samples, prompt })),
    {
      ...{ seed, stream: EVALUATION_STREAM, step: 0, temperature, topK, topP, minP, repetitionPenalty },
      maxCompletionLength,
      isStop: tokenizer.isStop,
    },
    {
      onProgress: (_, finished, total) => events.onProgress?.(finished, total),
      ...(events.shouldStop ? { shouldStop: events.shouldStop } : {}),
    },
  );
  if (events.shouldStop?.()) return null;
  const judged = judgeCompletions(tokenizer, pool, problems, sampled, settings.verifier);
  const result = await unlessStopped(judged, events.shouldStop, JUDGE_GRACE_MS);
  return result && { problems: result.judged, skipped, votes: result.votes, ...summary(result.judged) };
}

/** What was answered, each answer judged by the verifiers; how they agree. */
async function judgeCompletions(
  tokenizer: Tokenizer,
  pool: RewardPool,
  problems: readonly Problem[],
  sampled: readonly (readonly SampledCompletion[])[],
  of: Verifier | "auto",
): Promise<{ judged: JudgedProblem[]; votes: Evaluation["votes"] }> {
  const texts = sampled.map((completions) =>
    completions.map((c) => tokenizer.decode([...c.completionIds], { skipSpecialTokens: true })),
  );
  const verifier = of === "auto" ? {} : { verifier: of };
  const items = problems.flatMap(({ example }, i) =>
    texts[i]!.map((response) => ({ gold: example.gold!, response, ...verifier })),
  );
  const [lenient, strict] = [await pool.verify(items, "lenient"), await pool.verify(items, "strict")];
  let at = 0;
  const judged = problems.map(
    (problem, i): JudgedProblem => ({
      problem,
      gold: problem.example.gold!,
      answers: sampled[i]!.map((completion, s) => {
        const [verdict, strictly] = [lenient[at]!, strict[at]!];
        at++;
        const { reason, answer } = verdict;
        return {
          text: texts[i]![s]!,
          completion,
          correct: verdict.reward === 1,
          strict: strictly.reward === 1,
          reason,
          answer,
          strictAnswer: strictly.answer,
        };
      }),
    }),
  );
  const judge = (pairs: readonly Item[]) => pool.verify(pairs, "lenient");
  const ballots = (strictly: boolean) => judged.map((each) => ballot(each, of, strictly));
  const votes = { lenient: await countVotes(ballots(false), judge), strict: await countVotes(ballots(true), judge) };
  return { judged, votes };
}

function ballot({ gold, answers }: JudgedProblem, verifier: Verifier | "auto", strictly: boolean): Ballot {
  return {
    verifier: verifier !== "auto" ? verifier : isNumber(gold) ? "gsm8k" : "math",
    answers: answers.map((a) =>
      strictly ? { answer: a.strictAnswer, right: a.strict } : { answer: a.answer, right: a.correct },
    ),
  };
}

/** How many of a problem's answers are right. */
export function counts(problems: readonly JudgedProblem[], by: "correct" | "strict" = "correct"): ProblemCount[] {
  return problems.map(({ answers }) => ({ samples: answers.length, correct: answers.filter((a) => a[by]).length }));
}

function summary(problems: readonly JudgedProblem[]) {
  const answers = problems.flatMap((p) => p.answers);
  const share = (test: (a: JudgedAnswer) => boolean) => answers.filter(test).length / Math.max(answers.length, 1);
  return {
    accuracy: meanPassAtK(counts(problems), 1),
    strict: meanPassAtK(counts(problems, "strict"), 1),
    unparsed: share((a) => a.reason === "unparsed"),
    meanLength: answers.reduce((sum, a) => sum + a.completion.completionIds.length, 0) / Math.max(answers.length, 1),
    clipped: share((a) => !a.completion.finished),
  };
}
