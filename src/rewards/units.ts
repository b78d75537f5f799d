/**
 * The unit that an answer is given in, so that 5 cm and 5 kg are not the same. Only well-known units have one; any other
 * word after a number is left to normalize.ts, which drops it. Nothing is converted: 1 m is not 100 cm here.
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
  deg: ["°", "degree"],
  "%": ["percent", "percentage"],
  rad: ["radian"],
};
const CANONICAL: ReadonlyMap<string, string> = new Map(
  Object.entries(UNITS).flatMap(([unit, others]) => [unit, ...others].map((name): [string, string] => [name, unit])),
);
/** Letters that are variables unless they stand in `\text{…}`. */
const LETTERS = /^[a-zA-Z]$/;

const AFTER_VALUE =
  /[\d)}\]]\s*(?:\\[,;: !]|~|\s)*(?:\\(text|mbox|mathrm|textrm|rm|textbf)\s*\{\s*)?((?:(?:square|sq\.?|cubic|cu\.?)\s+)?[a-zA-Z¢]{1,12})\.?\s*(?:\}|(?=\^)|$|(?=\$))\s*(?:\^\s*\{?\s*([23])\s*\}?)?\s*\$?$/;

/** The unit at the end of an answer, with its power ("cm^2"); null where there is none that is known. */
export function unitOf(answer: string): string | null {
  const text = answer
    .trim()
    .slice(-80)
    .replace(/\\[%$]$/, "");
  if (/^\$?\s*\\?\$\s*-?\d[\d.,{}\\!]*$/.test(answer.trim()) && /\\\$|^\$[^$]*$/.test(answer)) return "$";
  if (/[\d)}\]]\s*\\?%\s*\$?$/.test(answer.trim().slice(-20))) return "%^1";
  if (/[\d)}\]]\s*(?:\^?\s*\{?\s*\\circ\s*\}?|°|\\degree)\s*\$?$/.test(text)) return "deg^1";
  const match = AFTER_VALUE.exec(text);
  if (match === null) return null;
  const [, command, words = "", power] = match;
  const [, kind = "", name = ""] = /^(?:(square|sq\.?|cubic|cu\.?)\s+)?(.*)$/.exec(words) ?? [];
  if (command === undefined && LETTERS.test(name)) return null;
  const unit = CANONICAL.get(name) ?? CANONICAL.get(name.replace(/s$/, "")) ?? CANONICAL.get(name.toLowerCase());
  if (unit === undefined) return null;
  const dimension = power ?? (kind.startsWith("s") ? "2" : kind.startsWith("c") ? "3" : "1");
  return `${unit}^${dimension}`.replace("$^1", "$");
}

/** Whether both name a known unit and not the same one. */
export function unitsDiffer(a: string, b: string): boolean {
  const unit = unitOf(a);
  const other = unit && unitOf(b);
  return unit !== null && other !== null && unit !== other;
}
