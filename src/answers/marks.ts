/**
 * Where a text marks its answer: MATH's `\boxed{…}` and GSM8K's `#### …`. Plain text in, plain text out, in time linear
 * in the length. Leaves out what an answer means (src/rewards) and which column holds it (src/data).
 */

const BOX = /\\(?:boxed|fbox)(?![A-Za-z])/y;

/** What a `\boxed` without braces takes: up to a blank, a `$`, another box or a brace that it did not open. */
const BARE = /(?:(?!\\boxed|\\fbox)[^\s${}]|\{[^{}\s$]*\})+/y;

/**
 * The content of the last complete `\boxed{…}` or `\fbox{…}`: braces nest, `\{` and `\}` are characters; of a box within a
 * box it is the inner one. `\boxed 5` gives "5". Null where there is none, or where every one is left open.
 */
export function lastBoxed(text: string): string | null {
  const first = firstBox(text);
  if (first < 0) return null;
  const open: number[] = []; // where braces opened that are not closed yet: the index behind the brace
  let boxAt = -1; // the index behind the brace of a box just seen
  let bestStart = -1;
  let bestEnd = -1;
  for (let i = first; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 0x5c) {
      BOX.lastIndex = i;
      if (!BOX.test(text)) {
        // An escaped character; but "\\boxed", a backslash written twice, is still a box.
        BOX.lastIndex = i + 1;
        if (!BOX.test(text)) i++;
        continue;
      }
      let next = BOX.lastIndex;
      while (text[next] === " " || text[next] === "\t") next++;
      if (text[next] === "{") {
        boxAt = next + 1;
        i = next - 1;
      } else {
        BARE.lastIndex = next;
        const bare = BARE.exec(text)?.[0] ?? "";
        const end = next + bare.length - /[.,;:]*$/.exec(bare)![0].length;
        if (end > next) [bestStart, bestEnd] = [next, end];
        i = next + bare.length - 1;
      }
    } else if (code === 0x7b) {
      open.push(i + 1 === boxAt ? boxAt : -1);
    } else if (code === 0x7d) {
      const start = open.pop() ?? -1;
      if (start > bestStart) [bestStart, bestEnd] = [start, i];
    }
  }
  return bestStart < 0 ? null : text.slice(bestStart, bestEnd);
}

function firstBox(text: string): number {
  const places = [text.indexOf("\\boxed"), text.indexOf("\\fbox")].filter((place) => place >= 0);
  return places.length === 0 ? -1 : Math.min(...places);
}

/** The first line with text after the last `####`, trimmed; "" where nothing follows, null without `####`. */
export function afterHashes(text: string): string | null {
  const place = text.lastIndexOf("####");
  if (place < 0) return null;
  const rest = text.slice(place + 4).trimStart();
  const end = rest.search(/[\r\n]/);
  return (end < 0 ? rest : rest.slice(0, end)).trim();
}
