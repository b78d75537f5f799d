/**
 * Answers compared as texts, if letters are not variables or the parser does not understand them: words, options of a
 * multiple choice, sums of unknown terms, residues. The texts are normalized (normalize.ts).
 */

/** Sums that the parser does not understand, `f(x) + \int …`, with the same terms in another order. */
export function sameTerms(a: string, b: string): boolean {
  if (!/[+-]/.test(a)) return false;
  const [left, right] = [termsOf(a), termsOf(b)];
  return left.length > 1 && left.join("\n") === right.join("\n");
}

/** The terms of a sum with their signs, sorted; none if it is not a plain sum. */
function termsOf(text: string): readonly string[] {
  const terms: string[] = [];
  let depth = 0;
  let term = "+";
  let previous = "";
  for (const c of text.replace(/\s+/g, " ")) {
    if ("([{⦃".includes(c)) depth++;
    if (")]}⦄".includes(c)) depth--;
    if (depth === 0 && "=<>≤≥≠∈≈±∓,;".includes(c)) return [];
    // A sign after an operator belongs to the term.
    if (depth === 0 && (c === "+" || c === "-") && !"*/^_".includes(previous || "\n")) {
      if (term.trim().length > 1) terms.push(term);
      term = c;
    } else term += c;
    if (c !== " ") previous = c;
  }
  terms.push(term);
  return depth === 0 ? terms.map(literalKey).sort() : [];
}

/** 5 and 5 (mod 12) or x ≡ 5 (mod 12): the modulus may be left out, as a unit may. */
export function sameResidue(a: string, b: string): boolean {
  if (!a.includes("pmod") && !b.includes("pmod")) return false;
  const residue = (text: string): string | undefined =>
    /^(?:[a-zA-Z]\s*\\equiv\s*)?(-?\d{1,30})\s*\\pmod\s*\{\d{1,30}\}$/.exec(text)?.[1];
  const [left, right] = [residue(a), residue(b)];
  return (left === undefined) !== (right === undefined) && (left === undefined ? a : b) === (left ?? right);
}

/** Without spaces, except those between two numbers. */
export const literalKey = (text: string): string => text.replace(/(?<!\d)\s+|\s+(?!\d)/g, "").replace(/\s+/g, " ");

export const LETTER = /^\(?([A-J])\)?$/;

/** "(B) 12": one option and its text, with no other option named in it. */
export function chosen(text: string): { readonly letter: string; readonly text: string } | null {
  const match = /^(?:\(([A-J])\)\s*|([A-J])(?:\)\s*|[.:]\s+))(\S.*)$/.exec(text);
  if (match === null || /\(?(?<![a-zA-Z])[A-J](?:\)|(?![a-zA-Z]))|,|;|∪/.test(match[3]!)) return null;
  return { letter: match[1] ?? match[2]!, text: match[3]! };
}

/** An answer made of words (a name, a day, a sentence), for which letters are not variables. */
export function isWords(text: string): boolean {
  if (!/^[a-zA-Z\s.,;'"()-]+$/.test(text)) return false;
  return /[a-z]{4}|[A-Z][A-Za-z]{2}|[a-z]{2,} [a-z]{2,}/.test(text) && !/^(?:sqrt|sin|cos|tan|log|ln|exp)\b/.test(text);
}

/** Everything but words and their punctuation. */
export const besideWords = (text: string): string => text.replace(/[a-zA-Z\s.,;:'"()!?-]+/g, "");

/** "even function" as "even": the question has already named the noun. */
const KIND_OF =
  /^((?:(?:right|acute|obtuse|scalene|isosceles|equilateral|even|odd|prime|composite|rational|irrational|neither) ?){1,2}) (?:triangle|function|number|integer)s?$/;

export const wordsKey = (text: string): string =>
  text
    .toLowerCase()
    .split(/[^a-z]*,[^a-z]*/)
    .map((part) =>
      part
        .replace(/^(?:it|this|(?:the|an?) [a-z]+|f(?:\(x\))?) is (?=\S+(?: \S+)?[.\s]*$)/, "")
        .replace(/^(?:on\s+)?(?:(?:the|an?)\s+)?/, "")
        .replace(/[^a-z]+/g, " ")
        .trim()
        .replace(KIND_OF, "$1")
        .replace(/^(infinitely many) [a-z]+$/, "$1")
        .replace(/^(?:it|series|sequence|integral|limit) (?=(?:con|di)verges$)/, ""),
    )
    .sort()
    .join(",");
