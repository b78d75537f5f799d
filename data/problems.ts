/**
 * Arithmetic word problems with worked answers, drawn from the stories of templates.ts: whole numbers from 1 to 99, two
 * or three steps, the result after `####` as in GSM8K. make.ts writes them to files.
 */
import { integerIn, oneOf, seededSource, type Uint32Source } from "./random.ts";
import { names, templates, things } from "./templates.ts";

export interface Problem {
  readonly question: string;
  /** A line per step, such as `7+5=12`, then `#### ` and the result. */
  readonly answer: string;
  readonly result: number;
  /** Index of the story in `templates`. */
  readonly story: number;
}

export interface ProblemOptions {
  readonly count: number;
  /** Any integer; its low 32 bits count. */
  readonly seed: number;
  /** Questions that must not appear, such as the held-out ones. */
  readonly exclude?: ReadonlySet<string>;
}

/** No operand and no result is larger. */
export const largestNumber = 99;

const drawsPerProblem = 1000;

/**
 * `count` problems, each story as likely as the others, no two with the same question; the same ones for the same
 * options.
 * @throws RangeError if there are not enough different ones
 */
export function generateProblems({ count, seed, exclude = new Set() }: ProblemOptions): Problem[] {
  const next = seededSource(seed);
  const problems = new Map<string, Problem>();
  for (let draws = 0; problems.size < count; draws++) {
    if (draws === count * drawsPerProblem) throw new RangeError(`no ${count} different problems in ${draws} draws`);
    const problem = drawProblem(next, integerIn(next, 0, templates.length - 1));
    if (!exclude.has(problem.question)) problems.set(problem.question, problem);
  }
  return [...problems.values()];
}

/** One problem from the story at index `story` of the templates. */
export function drawProblem(next: Uint32Source, story: number): Problem {
  const { text, numbers, steps } = templates[story]!;
  const name = oneOf(next, names);
  let other = name;
  while (other === name) other = oneOf(next, names);
  const fill: Record<string, string> = { N: name, M: other, o: oneOf(next, things) };
  for (let draws = 0; draws < drawsPerProblem; draws++) {
    const values = new Map<string, number>();
    for (const [place, [low, high]] of Object.entries(numbers)) values.set(place, integerIn(next, low, high));
    const worked = workOut(steps, values);
    if (worked === null) continue;
    const question = text.replace(/\{(\w)\}/g, (_, place: string) => fill[place] ?? String(values.get(place)));
    return { ...worked, question, story };
  }
  throw new RangeError(`no numbers found for story ${story}: "${text}"`);
}

function workOut(steps: readonly string[], values: Map<string, number>): Pick<Problem, "answer" | "result"> | null {
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
  return { answer: `${lines.join("\n")}\n#### ${result}`, result };
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
