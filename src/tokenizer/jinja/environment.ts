/**
 * The environment in which transformers renders chat templates: jinja2's own functions, `raise_exception`,
 * `strftime_now`. A template has no other access to the machine.
 *
 * Written from scratch because no library renders like jinja2: `@huggingface/jinja` 0.5 deviates in its lexer, parser and
 * runtime, and minijinja and nunjucks are different languages. `test/golden/make_chat_renders.py` compares with jinja2.
 */

import { formatDate } from "../format-date.ts";
import type { Stmt } from "./ast.ts";
import { TemplateFault, TemplateRefusal } from "./fault.ts";
import { render, Scope, setAttribute } from "./interpreter.ts";
import { requireTemplateLength, resetLimits } from "./limits.ts";
import { Cycler } from "./loop.ts";
import { parseTemplate } from "./parser.ts";
import {
  type Callable,
  Dict,
  fromJson,
  iterate,
  type Kwargs,
  Namespace,
  Range,
  textOf,
  type Value,
  wholeOf,
} from "./values.ts";

export { TemplateFault, TemplateRefusal } from "./fault.ts";

/** jinja2's sandbox allows no longer range. */
const longestRange = 100_000n;

function range(args: readonly Value[]): Value {
  const numbers = args.map(wholeOf);
  if (numbers.length === 0 || numbers.length > 3)
    throw new TemplateFault(`range takes 1 to 3 arguments, not ${numbers.length}`);
  const [start, stop, step = 1n] = numbers.length === 1 ? [0n, numbers[0]!] : (numbers as [bigint, bigint, bigint?]);
  if (step === 0n) throw new TemplateFault("range() arg 3 must not be zero");
  const length = (stop - start + step - (step > 0n ? 1n : -1n)) / step;
  if (length > longestRange)
    throw new TemplateFault(`Range too big. The sandbox blocks ranges larger than ${longestRange}.`);
  return new Range(start, stop, step);
}

/** Python's `dict(…)`. */
function dict(args: readonly Value[], kwargs: Kwargs): Dict {
  const [source] = args;
  const result = new Dict();
  if (source instanceof Dict) for (const [key, value] of source.entries()) result.set(key, value);
  else if (source !== undefined)
    for (const pair of iterate(source)) {
      const [key, value] = iterate(pair);
      if (key === undefined || value === undefined) throw new TemplateFault("dictionary update sequence needs pairs");
      result.set(key, value);
    }
  for (const [key, value] of kwargs) result.set(key, value);
  return result;
}

const globals: Readonly<Record<string, Callable>> = {
  range,
  dict,
  namespace: (args, kwargs) => {
    const namespace = new Namespace();
    for (const [key, value] of dict(args, kwargs).entries()) setAttribute(namespace, textOf(key), value);
    return namespace;
  },
  cycler: (args) => new Cycler(args),
  joiner: (args, kwargs) => {
    const separator = args[0] ?? kwargs.get("sep") ?? ", ";
    let isUsed = false;
    return () => {
      const text = isUsed ? separator : "";
      isUsed = true;
      return text;
    };
  },
  raise_exception: (args, kwargs) => {
    throw new TemplateRefusal(textOf(args[0] ?? kwargs.get("message") ?? null));
  },
  strftime_now: (args, kwargs) => {
    const format = args[0] ?? kwargs.get("format");
    if (typeof format !== "string" || args.length + kwargs.size !== 1)
      throw new TemplateFault("strftime_now() takes 1 argument, a format");
    return formatDate(new Date(), format);
  },
};

export class ChatTemplateProgram {
  private readonly body: readonly Stmt[];

  /** @throws TemplateFault with the line at which the text is not a valid template */
  constructor(source: string) {
    requireTemplateLength(source.length);
    this.body = parseTemplate(source);
  }

  /**
   * @param variables JSON values
   * @throws TemplateFault for what Python would raise, TemplateRefusal from `raise_exception`
   */
  render(variables: Readonly<Record<string, unknown>>): string {
    resetLimits();
    const outermost = new Scope(null);
    for (const [name, value] of Object.entries(globals)) outermost.set(name, value);
    for (const [name, value] of Object.entries(variables)) outermost.set(name, fromJson(value));
    return render(this.body, new Scope(outermost));
  }
}
