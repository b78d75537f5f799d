/**
 * `bench verify`: answers judged per second, by the verifiers alone and through the processes in which a run judges. Answers are
 * generated together with their right verdict, in the notations that models use.
 */
import { type Question, verify as verifyAnswer } from "../../src/answers/verify.ts";
import { RunError } from "../../src/errors.ts";
import { createRewardPool } from "../../src/rewards/pool/pool.ts";
import { parseRewardSpec } from "../../src/rewards/specs.ts";
import { type Figure, more } from "../figures.ts";
import { randomFrom } from "../ops/random.ts";
import { reportOf, type Suite } from "./suite.ts";

export interface Judged {
  readonly gold: string;
  readonly response: string;
  readonly reward: 0 | 1;
}

type Maker = (a: number, b: number) => readonly [gold: string, equal: string, different: string];

/** A gold answer, the same in another notation, and another one. */
const makers: readonly Maker[] = [
  (a, b) => [`${1000 * a + b}`, `${a},${String(b).padStart(3, "0")}`, `${1000 * a + b + 1}`],
  (a, b) => [`\\frac{${a}}{${b}}`, `${2 * a}/${2 * b}`, `\\frac{${a + 1}}{${b}}`],
  (a, b) => [`${a * b}.5`, `\\frac{${2 * a * b + 1}}{2}`, `${a * b}.25`],
  (a, b) => [`x^2+${a}x+${b}`, `${b}+${a}x+x^{2}`, `x^2+${a}x-${b}`],
  (a, b) => [`(${a}, ${a + b})`, `\\left(${a},${a + b}\\right)`, `(${a}, ${a + b + 1})`],
  (a, b) => [`${a}\\sqrt{${b}}`, `\\sqrt{${b}} \\cdot ${a}`, `${a + 1}\\sqrt{${b}}`],
  (a, b) => [`\\{${a}, ${a + b}\\}`, `\\{${a + b}, ${a}\\}`, `\\{${a}, ${a + b}, ${a + b + 1}\\}`],
  (a, b) => [`${a}^{${2 + (b % 3)}}`, `${a ** (2 + (b % 3))}`, `${a ** (2 + (b % 3)) + 1}`],
];

/** Half of the answers are right. */
export function generatedAnswers(count: number): Judged[] {
  const random = randomFrom("answers");
  return Array.from({ length: count }, (_, i) => {
    const [a, b] = [2 + random.integer(90), 2 + random.integer(90)];
    const [gold, equal, different] = makers[i % makers.length]!(a, b);
    const reward = random.uniform() < 0.5 ? 1 : 0;
    const steps = Array.from({ length: 1 + random.integer(6) }, (_, s) => `Step ${s + 1}: ${a}+${b * s}=${a + b * s}.`);
    return {
      gold,
      reward,
      response: `${steps.join("\n")}\nSo the answer is $\\boxed{${reward ? equal : different}}$.`,
    };
  });
}

/** @throws RunError naming the first answer with a wrong verdict */
export function requireVerdicts(answers: readonly Judged[], rewards: readonly (number | null)[], by: string): void {
  for (const [i, { gold, response, reward }] of answers.entries())
    if (rewards[i] !== reward)
      throw new RunError(
        `verify: wrong result by ${by}: ${JSON.stringify(response.split("\n").at(-1))} against ${JSON.stringify(gold)} has reward ${rewards[i]}, wanted ${reward}`,
      );
}

/** As many as a generation has, so that the processes get whole batches. */
const BATCH = 256;

export const verify: Suite = {
  summary: "answers/s of the math verifier, alone and in the reward processes",
  usual: true,
  takes: ["quick"],
  async run({ quick }, line) {
    const answers = generatedAnswers(quick ? 4096 : 16_384);
    const questions = answers.map(
      ({ gold, response }): Question => ({ gold, response, verifier: "math", extraction: "lenient" }),
    );
    requireVerdicts(
      answers,
      questions.map((question) => verifyAnswer(question).reward),
      "the verifier",
    );
    const rate = (start: number) => (1000 * answers.length) / (performance.now() - start);
    let start = performance.now();
    for (const question of questions) verifyAnswer(question);
    const figures: Figure[] = [more("math answers, in this process", rate(start), "answers/s")];

    const pool = createRewardPool({ functions: [parseRewardSpec("math")] });
    try {
      const batches = Array.from({ length: answers.length / BATCH }, (_, i) =>
        answers.slice(i * BATCH, (i + 1) * BATCH),
      );
      const score = async (batch: readonly Judged[]) => {
        const result = await pool.score({
          prompts: batch.map(() => "What is it?"),
          completions: batch.map(({ response }) => response),
          completionIds: batch.map(() => []),
          golds: batch.map(({ gold }) => gold),
          columns: {},
        });
        return result.total;
      };
      requireVerdicts(batches[0]!, await score(batches[0]!), "the reward processes"); // they start with the first batch
      start = performance.now();
      const totals = await Promise.all(batches.map(score));
      figures.push(more("math answers, in the reward processes", rate(start), "answers/s"));
      requireVerdicts(answers, totals.flat(), "the reward processes");
    } finally {
      await pool.close();
    }
    const checked = `${answers.length} verdicts on ${makers.length} notations, half of the answers right`;
    return reportOf("verify", { description: "math answers" }, checked, figures, line);
  },
};
