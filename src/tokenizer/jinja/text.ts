/** Python's strings: counted in code points, with Python's white space. */

/** Python's white space (`str.isspace`), for a character class; JavaScript's `\s` has U+FEFF but not U+001C and U+0085. */
export const whitespace = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const lineBreaks = "\\n-\\r\\x1c-\\x1e\\x85\\u2028\\u2029";
/** Where `str.splitlines` breaks a text. */
export const lineBreak = new RegExp(`\\r\\n|[${lineBreaks}]`);
const leading = new RegExp(`^[${whitespace}]+`);
const isSpace = new RegExp(`^[${whitespace}]$`);
const surrogate = /[\ud800-\udfff]/;

/** One string per code point. */
export function codePoints(text: string): string[] {
  return surrogate.test(text) ? Array.from(text) : text.split("");
}

/** Python's `len`. */
export function lengthOf(text: string): number {
  return surrogate.test(text) ? Array.from(text).length : text.length;
}

/** @param chars the characters to strip; null: Python's white space */
export function lstrip(text: string, chars: string | null = null): string {
  if (chars === null) return text.replace(leading, "");
  const set = new Set(codePoints(chars));
  const all = codePoints(text);
  let start = 0;
  while (start < all.length && set.has(all[start]!)) start++;
  return all.slice(start).join("");
}

export function rstrip(text: string, chars: string | null = null): string {
  if (chars === null) {
    // By hand: a pattern that ends in `+$` takes quadratic time on inner white space.
    let end = text.length;
    while (end > 0 && isSpace.test(text[end - 1]!)) end--;
    return text.slice(0, end);
  }
  const set = new Set(codePoints(chars));
  const all = codePoints(text);
  let end = all.length;
  while (end > 0 && set.has(all[end - 1]!)) end--;
  return all.slice(0, end).join("");
}

export function strip(text: string, chars: string | null = null): string {
  return rstrip(lstrip(text, chars), chars);
}

/** The parts between white space. */
export function words(text: string): string[] {
  return strip(text)
    .split(new RegExp(`[${whitespace}]+`))
    .filter((word) => word !== "");
}

/** A character with its title case: `ß` gives `Ss`. */
function titleOf(character: string): string {
  const digraph = /^[\u01c4-\u01cc\u01f1-\u01f3]$/.exec(character);
  // The letters with a title case of their own: Ǆ ǅ ǆ and the like.
  if (digraph !== null) {
    const middle = [0x01c5, 0x01c8, 0x01cb, 0x01f2].find((code) => Math.abs(code - character.charCodeAt(0)) <= 1);
    return String.fromCharCode(middle as number);
  }
  const [first = "", ...rest] = codePoints(character.toUpperCase());
  return first + rest.join("").toLowerCase();
}

export function capitalize(text: string): string {
  const [first = "", ...rest] = codePoints(text);
  return titleOf(first) + rest.join("").toLowerCase();
}

export function titleCase(text: string): string {
  return text.replace(/\p{Cased}+/gu, (run) => capitalize(run));
}

const unprintable = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u;

/** Whether Python writes the character unchanged in a `repr`. */
export function isPrintable(character: string): boolean {
  return !unprintable.test(character);
}

/** Python's numeric escape of a character. */
export function escapedCharacter(character: string): string {
  const code = character.codePointAt(0)!;
  const hex = code.toString(16);
  if (code < 0x100) return `\\x${hex.padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
}

/** Has letters with a case, all of them lower case. */
export const isLower = (text: string): boolean => /\p{Cased}/u.test(text) && !/[\p{Lu}\p{Lt}]/u.test(text);
/** Has letters with a case, all of them upper case. */
export const isUpper = (text: string): boolean => /\p{Cased}/u.test(text) && !/[\p{Ll}\p{Lt}]/u.test(text);

/** Python's `repr` of a string. */
export function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const named: Readonly<Record<string, string>> = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" };
  const inner = codePoints(text).map((character) => {
    if (character === quote) return `\\${quote}`;
    const known = named[character];
    if (known !== undefined) return known;
    if (isPrintable(character)) return character;
    return escapedCharacter(character);
  });
  return quote + inner.join("") + quote;
}

/** Order by code points, as Python compares strings; JavaScript compares halves of surrogate pairs. */
export function compareText(a: string, b: string): number {
  if (a === b) return 0;
  if (!surrogate.test(a) && !surrogate.test(b)) return a < b ? -1 : 1;
  const [left, right] = [Array.from(a), Array.from(b)];
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const difference = left[i]!.codePointAt(0)! - right[i]!.codePointAt(0)!;
    if (difference !== 0) return difference;
  }
  return left.length - right.length;
}
