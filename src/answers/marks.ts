/**
 * The marks of an answer in a text: MATH's `\boxed{…}` and GSM8K's `#### …`, in time linear in the text's length. Leaves
 * out how joined boxes are read (marked.ts), what an answer means (compare.ts) and which column holds it (src/data).
 */

const BOX = /\\(?:boxed|fbox)(?![A-Za-z])/y;

/** The argument of a `\boxed` without braces: up to a blank, a `$`, another box or a closing brace from outside. */
const BARE = /(?:(?!\\boxed|\\fbox)[^\s${}]|\{[^{}\s$]*\})+/y;

export interface Box {
  /** Index of the backslash. */
  readonly start: number;
  /** Index after the box. */
  readonly end: number;
  readonly content: string;
}

/**
 * The complete boxes of a text, in order: `\boxed{…}`, `\fbox{…}` and `\boxed 5`. Braces nest, `\{` and `\}` are
 * characters; of nested boxes only the inner one counts.
 */
export function boxesOf(text: string): readonly Box[] {
  const first = firstBox(text);
  if (first < 0) return [];
  const boxes: Box[] = [];
  // The open braces: where the box that each belongs to starts (-1: none), and where the content starts.
  const open: { readonly box: number; readonly content: number }[] = [];
  for (let i = first; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 0x5c) {
      BOX.lastIndex = i;
      if (!BOX.test(text)) {
        // An escaped character; but "\\boxed", with the backslash doubled, is still a box.
        BOX.lastIndex = i + 1;
        if (!BOX.test(text)) i++;
        continue;
      }
      let next = BOX.lastIndex;
      while (text[next] === " " || text[next] === "\t") next++;
      if (text[next] === "{") {
        open.push({ box: i, content: next + 1 });
        i = next;
      } else {
        BARE.lastIndex = next;
        const bare = BARE.exec(text)?.[0] ?? "";
        const content = bare.slice(0, bare.length - /[.,;:]*$/.exec(bare)![0].length);
        if (content !== "") boxes.push({ start: i, end: next + content.length, content });
        i = next + bare.length - 1;
      }
    } else if (code === 0x7b) {
      open.push({ box: -1, content: i + 1 });
    } else if (code === 0x7d) {
      const opened = open.pop();
      if (opened !== undefined && opened.box > (boxes.at(-1)?.start ?? -1))
        boxes.push({ start: opened.box, end: i + 1, content: text.slice(opened.content, i) });
    }
  }
  return boxes;
}

function firstBox(text: string): number {
  const places = [text.indexOf("\\boxed"), text.indexOf("\\fbox")].filter((place) => place >= 0);
  return places.length === 0 ? -1 : Math.min(...places);
}

/** The content of the last complete box; null if there is none. */
export const lastBoxed = (text: string): string | null => boxesOf(text).at(-1)?.content ?? null;

/** The first line with text after the last `####`, trimmed; "" if nothing follows, null without `####`. */
export function afterHashes(text: string): string | null {
  const place = text.lastIndexOf("####");
  if (place < 0) return null;
  const rest = text.slice(place + 4).trimStart();
  const end = rest.search(/[\r\n]/);
  return (end < 0 ? rest : rest.slice(0, end)).trim();
}

/** The mark that counts is the later one: `hashes` is null unless a `####` follows the last complete box. */
export function lastMark(text: string): { readonly boxes: readonly Box[]; readonly hashes: string | null } {
  const boxes = boxesOf(text);
  const isLater = text.lastIndexOf("####") > (boxes.at(-1)?.start ?? -1);
  return { boxes, hashes: isLater ? afterHashes(text) : null };
}
