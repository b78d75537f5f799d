/**
 * Text of a model made safe and short enough for a terminal: nothing that it contains can move the cursor, and what is
 * too long keeps its beginning and its end, where the answer stands.
 */

/**
 * Controls, format characters such as direction overrides, line and paragraph separators, lone surrogates. Left alone are
 * the line break and the joiner of emoji.
 */
const unsafe = /(?![\n\u200d])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

/** Everything but line breaks that a terminal would act on, written as an escape: `\t`, `\u{1b}`. */
export function escapeControls(text: string): string {
  return text.replace(unsafe, (character) => {
    if (character === "\t") return "\\t";
    if (character === "\r") return "\\r";
    return `\\u{${character.codePointAt(0)!.toString(16)}}`;
  });
}

const graphemes = new Intl.Segmenter(undefined, { granularity: "grapheme" });

/** Cuts one line into pieces of at most `columns` terminal cells, between whole characters. */
export function wrapLine(line: string, columns: number): string[] {
  if (Bun.stringWidth(line) <= columns) return [line];
  const pieces: string[] = [];
  let piece = "";
  let used = 0;
  for (const { segment } of graphemes.segment(line)) {
    const cells = Bun.stringWidth(segment);
    if (used + cells > columns && piece !== "") {
      pieces.push(piece);
      piece = "";
      used = 0;
    }
    piece += segment;
    used += cells;
  }
  pieces.push(piece);
  return pieces;
}

/** One line cut to the width, with an ellipsis where something is missing. */
export function truncateLine(line: string, columns: number): string {
  if (Bun.stringWidth(line) <= columns) return line;
  return `${wrapLine(line, Math.max(1, columns - 1))[0] ?? ""}…`;
}

/**
 * A text as at most `maxLines` lines of `columns` cells: escaped, wrapped, the middle left out where it is too long.
 */
export function excerpt(text: string, columns: number, maxLines: number): string[] {
  // Beyond this no line of it could be shown, and wrapping a whole book would take its time.
  const room = columns * maxLines * 4;
  const short = text.length > 2 * room ? `${text.slice(0, room)}\n${text.slice(-room)}` : text;
  const lines = escapeControls(short)
    .split("\n")
    .flatMap((line) => wrapLine(line, columns));
  if (lines.length <= maxLines && short === text) return lines;
  const head = Math.ceil((maxLines - 1) / 2);
  const tail = maxLines - 1 - head;
  const last = tail > 0 ? lines.slice(-tail) : [];
  const shown = [...lines.slice(0, head), ...last].reduce((sum, line) => sum + line.length, 0);
  return [...lines.slice(0, head), `… ${Math.max(1, text.length - shown)} characters more …`, ...last];
}
