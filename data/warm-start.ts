/**
 * The problems that the bundled model learns from before GRPO. They show two ways of answering, as texts in the world
 * do: some answers work the problem out, some only state the result. The model learns both, and where which is usual;
 * it seldom gets a stated result right. That working it out pays is left for GRPO to find.
 */
import { generateProblems, type Problem, type ProblemOptions } from "./problems.ts";
import { seededSource } from "./random.ts";

/** Of three stories, the answers of one are always worked out; those of the other two only this often. */
export const workedShare = 0.2;

/** Problems as `generateProblems` gives them, most of their answers cut down to the result. */
export function generateWarmStart(options: ProblemOptions): Problem[] {
  const next = seededSource(options.seed + 1);
  return generateProblems(options).map((problem) => {
    const worked = alwaysWorked(problem.story) || next() / 2 ** 32 < workedShare;
    return worked ? problem : { ...problem, answer: `#### ${problem.result}` };
  });
}

/** Whether the warm start works out every answer to the story at this place. */
export function alwaysWorked(story: number): boolean {
  return story % 3 === 0;
}
