/** The first and the last number written in a text, with everything that belongs to it (3/4, 2^10, 5%). */
import { endOf } from "./formulas.ts";

const DIGITS = String.raw`(?:\d[\d,]*(?:\.\d+)?|\.\d+)`;
const POWER = String.raw`\s?(?:\^|\*\*)\s?(?:\{\s?[-+]?\d+\s?\}|\(\s?[-+]?\d+\s?\)|[-+]?\d+)`;
const ROOT = String.raw`(?:√|\\?sqrt)\s?(?:\(\s?\d+\s?\)|\{\s?\d+\s?\}|\d+)`;
/** Continuations that make the digits another number: 1e3, 5 × 10^3, 2^{10} - 1, 3:30, 101_2, 3/4, "5! ways", 3 million, 5%. */
const CONTINUED = [
  String.raw`[eE][-+]?\d+(?![a-zA-Z\d])`,
  String.raw`\s?(?:[x*×·⋅]|\\times|\\cdot)\s?10${POWER}`,
  String.raw`${POWER}(?:\s?[-+]\s?\d+(?![\d.]))?`,
  String.raw`(?::\d\d)+(?!\d)`,
  String.raw`_\{?\d+\}?`,
  String.raw`\s?\/\s?\d+`,
  String.raw`!(?=\s[a-z])`,
  String.raw`\s(?:hundred|thousand|million|billion|trillion)(?![a-z])`,
  String.raw`\s?(?:\\?%|percent(?![a-z])|per\scent(?![a-z]))`,
  String.raw`\s?(?:π|\\pi(?![a-z])|pi(?![a-z])|${ROOT})`,
].join("|");
/** A point's coordinates are not a number. */
const COORDINATES = String.raw`\(\s?-?\d+(?:\.\d+)?(?:,\s-?\d+(?:\.\d+)?|,-?\d{1,2}(?![\d.]))+\s?\)`;
const NUMBER = new RegExp(
  String.raw`${COORDINATES}|(?<![\d.,\w)\]}])[-+]?\s?\$?\s?(?:${DIGITS}(?:${CONTINUED})?|${ROOT})|\d[\d,]*(?:\.\d+)?(?:${CONTINUED})?`,
  "g",
);

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** The text with one sign for minus, thousands and powers, as `NUMBER` reads them. */
const plainNumbers = (text: string): string =>
  text
    .replaceAll("−", "-")
    .replace(/(\d)(?:\{,\}|\\,|\\!,|,\\!)(?=\d{3}(?!\d))/g, "$1,")
    .replace(/(?<=[\d)])[⁰¹²³⁴⁵⁶⁷⁸⁹]+/g, (digits) => `^${[...digits].map((c) => SUPERSCRIPTS.indexOf(c)).join("")}`);

const cleaned = (number: string | undefined): string | null =>
  number === undefined
    ? null
    : number
        .replace(/^([-+]?)[\s$]+/, "$1")
        .replace(/ ?x ?(?=10)/, "*")
        .replace(/(?<=\d)\s?\/\s?(?=\d)/, "/")
        .replace(/,+$/, "");

/** The last number written in the text (commas, a `$`, a simple fraction, a power), without what surrounds it. */
export function lastNumber(text: string): string | null {
  const whole = endOf(text);
  // Usually it is near the end; a number at the start of the window may have been cut.
  for (const window of [whole.slice(-NEAR_END), whole]) {
    let found: RegExpMatchArray | undefined;
    for (const match of plainNumbers(window).matchAll(NUMBER)) found = match;
    if (found !== undefined && (window === whole || found.index! > 60)) return cleaned(found[0]);
  }
  return null;
}
const NEAR_END = 400;

/** The first number in a text; in an equation, on its last side. */
export function firstNumber(text: string): string | null {
  const side = plainNumbers(text.slice(text.lastIndexOf("=") + 1));
  return cleaned(side.matchAll(NUMBER).next().value?.[0]);
}
