/**
 * Splits the added tokens (`<|im_end|>`) off a text before the rest is normalized and split, by the rules of the original
 * tokenizers: leftmost and longest first, only whole words if a token says so, with surrounding white space if it says
 * so. The library uses JavaScript's white space and does not support whole words.
 */
import { isSpaceAt, wordCharacter } from "./unicode.ts";

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly single_word: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  readonly normalized: boolean;
}

/** A piece of text, or an added token. */
export interface Section {
  readonly text: string;
  readonly token: AddedToken | null;
  /** Where it begins in the original text. */
  readonly at: number;
}

const startsWithWord = new RegExp(`^${wordCharacter}`, "u");
const endsWithWord = new RegExp(`${wordCharacter}$`, "u");

/** @param tokens by the text that stands for each */
export function addedTokenSplitter(tokens: ReadonlyMap<string, AddedToken>): (text: string) => Section[] {
  // The first alternative wins, so the longest comes first.
  const contents = [...tokens.keys()].filter((content) => content !== "").sort((a, b) => b.length - a.length);
  if (contents.length === 0) return (text) => (text === "" ? [] : [{ text, token: null, at: 0 }]);
  const literal = (content: string) => content.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
  const initials = [...new Set(contents.map((content) => content[0]!))]
    .map((c) => c.replace(/[\\\]^-]/, "\\$&"))
    .join("");
  const expression = new RegExp(`(?=[${initials}])(?:${contents.map(literal).join("|")})`, "g");
  return (text) => {
    const sections: Section[] = [];
    let end = 0;
    for (const match of text.matchAll(expression)) {
      const token = tokens.get(match[0])!;
      let start = match.index;
      let stop = start + match[0].length;
      if (
        token.single_word &&
        (endsWithWord.test(text.slice(Math.max(0, start - 2), start)) || startsWithWord.test(text.slice(stop)))
      )
        continue;
      if (token.lstrip) while (start > end && isSpaceAt(text, start - 1)) start--;
      if (token.rstrip) while (stop < text.length && isSpaceAt(text, stop)) stop++;
      if (end < start) sections.push({ text: text.slice(end, start), token: null, at: end });
      sections.push({ text: text.slice(start, stop), token, at: start });
      end = stop;
    }
    if (end < text.length) sections.push({ text: text.slice(end), token: null, at: end });
    return sections;
  };
}
