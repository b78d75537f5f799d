/**
 * Rewrites the parts of Oniguruma's regular expressions, as in tokenizer.json, that `@huggingface/tokenizers` does not
 * support: possessive quantifiers and atomic groups (it lets them backtrack), `(?i)` without a colon, `\R`, and the two
 * non-ASCII letters that are s and k in another case. The library does the rest.
 */

/** Characters that go no further than the letter they stand for. */
const folded: Readonly<Record<string, string>> = { s: "ſ", S: "ſ", k: "\u212a", K: "\u212a" };
const escaped = /\\(?:[pPxuk][{<][^}>]*[}>]|x[\da-fA-F]{2}|u[\da-fA-F]{4}|[\s\S])/y;
const group = /\((?:\?(?:<[=!]|<[A-Za-z_]\w*>|[:=!>]|[imx-]+:))?/y;
const quantifier = /(?:[*+?]|\{(?:\d+(?:,\d*)?|,\d+)\})/y;

export function rewriteOniguruma(source: string): string {
  let at = 0;
  let atomics = 0;
  const take = (expression: RegExp): string | null => {
    expression.lastIndex = at;
    const found = expression.exec(source)?.[0] ?? null;
    if (found !== null) at += found.length;
    return found;
  };
  /** Matched as a whole or not at all: captured in a lookahead, then matched by a back reference. */
  const atomic = (inner: string): string => {
    // Digits only, since the library folds letters, in names too.
    const name = `_${atomics++}`;
    return `(?:(?=(?<${name}>${inner}))\\k<${name}>)`;
  };

  function alternatives(isFolded: boolean): string {
    let text = "";
    while (at < source.length && source[at] !== ")") {
      if (source.startsWith("(?i)", at)) {
        at += 4;
        // It applies up to the end of the group, alternatives included.
        return `${text}(?i:${alternatives(true)})`;
      }
      text += source[at] === "|" ? source[at++] : quantified(isFolded);
    }
    return text;
  }
  function quantified(isFolded: boolean): string {
    let text = atom(isFolded);
    for (let times = take(quantifier); times !== null; times = take(quantifier)) {
      const isPossessive = times.length === 1 && source[at] === "+";
      if (isPossessive) at++;
      text = isPossessive ? atomic(text + times) : text + times;
      if (!isPossessive) break;
    }
    if (source[at] === "?" || source[at] === "+") text += source[at++];
    return text;
  }
  function atom(isFolded: boolean): string {
    const character = source[at]!;
    if (character === "\\") {
      if (source.startsWith("\\R", at)) {
        at += 2;
        return atomic("\\r\\n|[\\n-\\r\\x85\\u2028\\u2029]");
      }
      return take(escaped) ?? source[at++]!;
    }
    if (character === "[") return bracket(isFolded);
    if (character === "(") {
      const open = take(group)!;
      const inner = alternatives(isFolded || open === "(?i:");
      if (source[at] === ")") at++;
      return open === "(?>" ? atomic(inner) : `${open}${inner})`;
    }
    at++;
    const other = isFolded ? folded[character] : undefined;
    return other === undefined ? character : `[${character}${other}]`;
  }
  function bracket(isFolded: boolean): string {
    let text = source[at++]!;
    let letters = "";
    if (source[at] === "^") text += source[at++];
    if (source[at] === "]") text += source[at++];
    while (at < source.length && source[at] !== "]") {
      if (source[at] === "[") {
        const posix = /\[:\^?\w+:\]/y;
        text += take(posix) ?? bracket(isFolded);
      } else if (source[at] === "\\") text += take(escaped) ?? source[at++];
      else {
        const character = source[at++]!;
        text += character;
        if (isFolded && source[at] !== "-" && source[at - 2] !== "-") letters += folded[character] ?? "";
      }
    }
    at++;
    return `${text}${letters}]`;
  }

  let text = "";
  // A closing bracket without its opening stays, for the library to refuse.
  while (at < source.length) text += source[at] === ")" ? source[at++] : alternatives(false);
  return text;
}
