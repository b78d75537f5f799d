/**
 * The unit of an answer, so that 5 cm and 5 kg are not the same, nor 12 dogs and 12 cats. Nothing is converted: 1 m is
 * not 100 cm here. A unit that only one of two answers has is left to normalize.ts, which drops it.
 */

const UNITS: Readonly<Record<string, readonly string[]>> = {
  mm: ["millimeter", "millimetre"],
  cm: ["centimeter", "centimetre"],
  m: ["meter", "metre"],
  km: ["kilometer", "kilometre"],
  in: ["inch", "inche"],
  ft: ["foot", "feet"],
  yd: ["yard"],
  mi: ["mile"],
  mg: ["milligram"],
  g: ["gram"],
  kg: ["kilogram"],
  lb: ["pound"],
  oz: ["ounce"],
  ton: [],
  ml: ["mL", "milliliter", "millilitre"],
  l: ["L", "liter", "litre"],
  gal: ["gallon"],
  s: ["sec", "second"],
  min: ["minute"],
  h: ["hr", "hour"],
  day: [],
  week: [],
  month: [],
  year: [],
  $: ["dollar", "buck", "USD"],
  cent: ["¢"],
  euro: ["EUR", "€"],
  "£": ["GBP"],
  deg: ["°", "degree"],
  "%": ["percent", "percentage", "pct"],
  rad: ["radian"],
  mph: [],
  kph: ["kmh"],
};
const CANONICAL: ReadonlyMap<string, string> = new Map(
  Object.entries(UNITS).flatMap(([unit, others]) => [unit, ...others].map((name): [string, string] => [name, unit])),
);
const RATES: Readonly<Record<string, string>> = { "mi^1/h": "mph^1", "km^1/h": "kph^1" };

/** The canonical name of a unit, singular or plural in any spelling; null for any other word. */
export const canonicalUnit = (name: string): string | null =>
  CANONICAL.get(name) ?? CANONICAL.get(name.replace(/s$/, "")) ?? CANONICAL.get(name.toLowerCase()) ?? null;

/** Letters that are variables unless in `\text{…}`. */
const LETTERS = /^[a-zA-Z]$/;
/** Words that do not say what is counted. */
const EMPTY_WORDS =
  /^(?:the|an?|of|in|all|total|altogether|each|every|more|different|distinct|unique|such|possible|left|over|remaining|needed|required|per|to|for|is|are|about|away|long|old|tall|wide|deep|high|apart|units?|square|sq|cubic|cu|exactly|only|times|whole|that|there)$/;

interface Ending {
  /** The known unit with its power, `cm^2`; null if there is none. */
  readonly unit: string | null;
  /** The words that are not a known unit, in the singular. */
  readonly words: readonly string[];
}

const NONE: Ending = { unit: null, words: [] };

/** `\text{…}` and the like, and a fraction of two of them. */
const GROUP = /\\(?:text|mbox|mathrm|textrm|textnormal|textbf|hbox|operatorname|rm)\s*\{([^{}]*)\}/g;
const FRACTION_OF_UNITS =
  /\\[dt]?frac\s*\{\s*\\(?:text|mathrm)\s*\{([^{}]*)\}\s*\}\s*\{\s*\\(?:text|mathrm)\s*\{([^{}]*)\}\s*\}/g;

/** A fraction of two units as one group: `\frac{\text{km}}{\text{h}}` is `\text{km/h}`. */
export const joinUnitFractions = (text: string): string => text.replace(FRACTION_OF_UNITS, "\\text{$1/$2}");

/** A word, a text command or a degree sign: a quick check, since most answers have none. */
const MAY_END_IN_WORDS = /(?<![\\a-zA-Z])[a-zA-Z¢€]{2}|\\(?:text|mbox|math|hbox|operator|rm|circ|degree)|°/;

/** The words after the value at the end of an answer; `letters`: a letter that is a unit's symbol is that unit. */
function endingOf(answer: string, letters = false): Ending {
  const trimmed = answer.trim();
  if (/^\$?\s*\\?\$\s*-?\d[\d.,{}\\!]*$/.test(trimmed) && /\\\$|^\$[^$]*$/.test(answer))
    return { unit: "$", words: [] };
  const sign = /^\$?\s*([€£])\s*-?\d/.exec(trimmed)?.[1];
  if (sign !== undefined) return { unit: `${canonicalUnit(sign)}^1`, words: [] };
  if (/[\d)}\]]\s*\\?%\s*\$?$/.test(trimmed.slice(-20))) return { unit: "%^1", words: [] };
  const marks = /^-?\d[\d.,]*\s*(?:('|\^\{?\\prime\}?)|''|"|\^\{\\prime\\prime\})[\s.$]*$/.exec(
    trimmed.replace(/^\$/, ""),
  );
  if (marks !== null) return { unit: marks[1] === undefined ? "in^1" : "ft^1", words: [] };
  const tail = trimmed.slice(-160);
  if (!(letters || MAY_END_IN_WORDS.test(tail))) return NONE;
  const text = joinUnitFractions(tail).replace(/per cent(?![a-z])/gi, "percent");
  if (/[\d}]\s*(?:\\(?:text|mathrm)\s*\{)?\s*[ap]\.?\s?m\.?\s*\}?\s*\$?$/i.test(text)) return NONE;
  const degrees =
    /[\d)}\]]\s*(?:\^?\s*\{?\s*\\circ\s*\}?|°|\\degree)\s*(?:\\(?:text|mathrm)\s*\{\s*)?([CF]?)\s*\}?\s*\$?$/.exec(
      text,
    );
  if (degrees !== null) return { unit: `deg${degrees[1]}^1`, words: [] };
  // A single letter inside a group is marked, since outside of one it is a variable.
  const plain = text
    .replace(GROUP, (_, content: string) => ` ${content.replace(/(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z])/g, "$&‡")} `)
    .replace(/\\[,;: !%]|~|\$|\\$/g, " ");
  const tokens = plain.match(/\\[a-zA-Z]+|[a-zA-Z‡¢€]+\.?|\^\s*\{?\s*-?\d\s*\}?|\s+|./gs) ?? [];
  let from = tokens.length;
  while (from > 0 && /^(?:[a-zA-Z¢€].*|\^.*|\s+|[/.()-])$/s.test(tokens[from - 1]!)) from--;
  const before = tokens.slice(0, from).join("");
  // A word right after a backslash is a command.
  if (!/[\d)}\]|]$/.test(before) && !/(?:\\pi|π)$/.test(before)) return NONE;
  return read(
    tokens.slice(from).filter((token) => token.trim() !== ""),
    letters,
  );
}

function read(tokens: readonly string[], letters: boolean): Ending {
  let unit: string | null = null;
  let power = "";
  let rate = false;
  const words: string[] = [];
  for (const [i, token] of tokens.entries()) {
    if (token === "/" || token === "per") {
      rate = unit !== null && words.length === 0;
      continue;
    }
    const exponent = /^\^\s*\{?\s*(-?\d)/.exec(token)?.[1];
    if (exponent !== undefined) {
      if (unit !== null && words.length === 0 && !unit.includes("/")) unit = unit.replace(/\^\d$/, `^${exponent}`);
      continue;
    }
    if (!/^[a-zA-Z¢€]/.test(token)) continue;
    const name = token.replace(/[‡.]/g, "");
    if (LETTERS.test(name) && !token.includes("‡") && !(letters && canonicalUnit(name) !== null)) return NONE;
    if (/^units?$/i.test(name)) unit ??= `unit^${power || 1}`;
    else if (/^(?:square|sq)$/i.test(name)) power = "2";
    else if (/^(?:cubic|cu)$/i.test(name)) power = "3";
    else {
      const known = name === "in" && /^(?:all|total|the|a)\b/.test(tokens[i + 1] ?? "") ? null : canonicalUnit(name);
      if (known !== null && unit === null && words.length === 0) unit = `${known}^${power || 1}`;
      else if (known !== null && rate) {
        unit = `${unit}/${known}`;
        rate = false;
      } else if (!EMPTY_WORDS.test(name.toLowerCase())) words.push(name.toLowerCase().replace(/(?:es|s)$/, ""));
    }
  }
  return { unit: unit === null ? null : (RATES[unit] ?? unit).replace("$^1", "$"), words };
}

/** The known unit at the end of an answer, with its power ("cm^2"); null if there is none. */
export const unitOf = (answer: string): string | null => endingOf(answer).unit;

/** Whether both name what they count or measure in, and the two differ. */
export function unitsDiffer(a: string, b: string): boolean {
  let left = endingOf(a);
  let right = endingOf(b);
  // If one has a unit, a letter after the other's number is one too: 5 cm is not 5 m, nor 5 kg 5 g.
  if (left.unit !== null && right === NONE) right = endingOf(b, true);
  else if (right.unit !== null && left === NONE) left = endingOf(a, true);
  if (left.unit === null && left.words.length === 0) return false;
  if (right.unit === null && right.words.length === 0) return false;
  if (left.unit !== null && right.unit !== null) {
    const degrees = /^deg[CF]?\^1$/;
    if (degrees.test(left.unit) && degrees.test(right.unit) && (left.unit === "deg^1" || right.unit === "deg^1"))
      return false;
    // "units" adds nothing to the power.
    const [power, other] = [left.unit, right.unit].map((unit) => /^unit\^(\d)$/.exec(unit)?.[1]);
    if (power !== undefined || other !== undefined) {
      const powers = [left.unit, right.unit].map((unit) => /\^(\d)$/.exec(unit)?.[1]);
      return powers[0] !== powers[1] && powers.every((value) => value !== "1");
    }
    return left.unit !== right.unit;
  }
  if (left.unit?.startsWith("unit^") || right.unit?.startsWith("unit^")) return false;
  return !left.words.some((word) => right.words.includes(word));
}
