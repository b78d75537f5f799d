/**
 * Arithmetic word problems with worked answers, drawn from the stories of templates.ts: whole numbers from 1 to 99, two
 * or three steps, the result after `####` as in GSM8K. Writing them to files is make.ts's part.
 */
import { integerIn, oneOf, type Uint32Source, xoshiro128 } from "./random.ts";
import { names, type Template, templates, things } from "./templates.ts";

export interface Problem {
  readonly question: string;
  /** A line per step, such as `7+5=12`, then `#### ` and the result. */
  readonly answer: string;
}

export interface ProblemOptions {
  readonly count: number;
  /** Any integer; its low 32 bits count. */
  readonly seed: number;
  /** Questions that must not appear, such as the held-out ones. */
  readonly exclude?: ReadonlySet<string>;
}

/** No operand and no result is larger: two digits. */
export const largestNumber = 99;

const drawsPerProblem = 1000;

/**
 * `count` problems, no two with the same question; the same ones for the same options.
 * @throws RangeError where so many different ones are not found
 */
export function generateProblems({ count, seed, exclude = new Set() }: ProblemOptions): Problem[] {
  const next = xoshiro128(seed);
  const problems = new Map<string, Problem>();
  for (let draws = 0; problems.size < count; draws++) {
    if (draws === count * drawsPerProblem) throw new RangeError(`no ${count} different problems in ${draws} draws`);
    const problem = drawProblem(next, oneOf(next, templates));
    if (problem !== null && !exclude.has(problem.question)) problems.set(problem.question, problem);
  }
  return [...problems.values()];
}

/** One problem of `template`, or null where the numbers drawn lead to a result that is not whole or out of range. */
export function drawProblem(next: Uint32Source, template: Template): Problem | null {
  const name = oneOf(next, names);
  const other = oneOf(next, names);
  const values = new Map<string, number>();
  for (const [place, [low, high]] of Object.entries(template.numbers)) values.set(place, integerIn(next, low, high));
  const fill: Record<string, string> = { N: name, M: other, o: oneOf(next, things) };
  if (name === other) return null;
  const question = template.text.replace(/\{(\w)\}/g, (_, place: string) => fill[place] ?? String(values.get(place)));
  const answer = workOut(template.steps, values);
  return answer === null ? null : { question, answer };
}

function workOut(steps: readonly string[], values: Map<string, number>): string | null {
  const lines: string[] = [];
  let result = 0;
  for (const [index, step] of steps.entries()) {
    const [left, operator, right] = step.split(" ") as [string, string, string];
    const x = values.get(left)!;
    const y = values.get(right)!;
    result = apply(x, operator, y);
    if (!Number.isInteger(result) || result < 1 || result > largestNumber) return null;
    values.set(String(index + 1), result);
    lines.push(`${x}${operator}${y}=${result}`);
  }
  return `${lines.join("\n")}\n#### ${result}`;
}

function apply(x: number, operator: string, y: number): number {
  switch (operator) {
    case "+":
      return x + y;
    case "-":
      return x - y;
    case "*":
      return x * y;
    case "/":
      return x / y;
    default:
      throw new RangeError(`a step's operator is one of + - * /, not ${operator}`);
  }
}
