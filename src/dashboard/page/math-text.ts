/** Text cut into prose and LaTeX. Knows no elements. */

export type Piece =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "math"; readonly source: string; readonly isBlock: boolean; readonly text: string };

const delimiters: readonly (readonly [open: string, close: string, isBlock: boolean])[] = [
  ["$$", "$$", true],
  ["\\[", "\\]", true],
  ["\\(", "\\)", false],
  ["$", "$", false],
];

/** Longest formula, in characters. */
const LONGEST = 4000;

/** The pieces, in order; joined, their `text` is the whole. */
export function mathPieces(text: string): Piece[] {
  const pieces: Piece[] = [];
  let plain = 0;
  let at = 0;
  const add = (from: number, to: number): void => {
    if (to > from) pieces.push({ kind: "text", text: text.slice(from, to) });
  };
  while (at < text.length) {
    const found = formulaAt(text, at);
    if (found === null) {
      at = nextPlace(text, at + 1);
      continue;
    }
    add(plain, at);
    pieces.push({ kind: "math", ...found, text: text.slice(at, found.end) });
    at = found.end;
    plain = at;
  }
  add(plain, text.length);
  return pieces;
}

/** Where a formula may begin next. */
function nextPlace(text: string, from: number): number {
  for (let i = from; i < text.length; i++) if (text[i] === "$" || text[i] === "\\") return i;
  return text.length;
}

function formulaAt(text: string, at: number): { source: string; isBlock: boolean; end: number } | null {
  if (text.startsWith("\\boxed{", at)) {
    const end = closingBrace(text, at + 6);
    return end < 0 ? null : { source: text.slice(at, end + 1), isBlock: false, end: end + 1 };
  }
  for (const [open, close, isBlock] of delimiters) {
    if (!text.startsWith(open, at)) continue;
    const start = at + open.length;
    const end = closing(text, start, close);
    if (end < 0) continue;
    const source = text.slice(start, end);
    // "$5 and $6" are prices: a formula neither begins nor ends with a space, and no digit follows it.
    if (open === "$" && (/^\s|\s$|\n\s*\n/.test(source) || /\d/.test(text[end + 1] ?? ""))) return null;
    if (source.trim() === "") return null;
    return { source, isBlock, end: end + close.length };
  }
  return null;
}

function closing(text: string, from: number, close: string): number {
  for (let at = text.indexOf(close, from); at >= 0 && at - from <= LONGEST; at = text.indexOf(close, at + 1))
    if (close.startsWith("\\") || text[at - 1] !== "\\") return at;
  return -1;
}

/** The brace that closes the one at `open`. */
function closingBrace(text: string, open: number): number {
  let depth = 0;
  for (let i = open; i < text.length && i - open < LONGEST; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === "{") depth++;
    else if (text[i] === "}" && --depth === 0) return i;
  }
  return -1;
}
