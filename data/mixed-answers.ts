/**
 * Problems answered in two ways, as in real texts: some answers work the problem out, some only state the result. After
 * the warm start has taught the procedure, a few hundred of these show that both ways are usual. The model rarely states
 * a right result without working it out; that working it out pays off is left for GRPO to find.
 */
import { generateProblems, type Problem, type ProblemOptions } from "./problems.ts";
import { seededSource } from "./random.ts";

/** Of every eight stories, three always have worked answers; the other five only this often. */
export const workedShare = 0.05;

/** Problems as `generateProblems` gives them, most of their answers cut down to the result. */
export function generateMixed(options: ProblemOptions): Problem[] {
  const next = seededSource(options.seed + 1);
  return generateProblems(options).map((problem) => {
    const worked = alwaysWorked(problem.story) || next() / 2 ** 32 < workedShare;
    return worked ? problem : { ...problem, answer: `#### ${problem.result}` };
  });
}

/** Whether every answer to the story at this place of the templates is worked out. */
export function alwaysWorked(story: number): boolean {
  return story % 8 < 3;
}
