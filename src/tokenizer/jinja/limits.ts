/**
 * Limits on what a template may create and execute: a damaged or hostile one ends with a clear error, not by exhausting
 * the memory or by never ending. Far beyond any real template on any real conversation.
 */
import { TemplateFault } from "./fault.ts";

/** Characters of one text, items of one list, characters of a rendered prompt. */
const longest = 10_000_000;
/** Statements executed in one rendering. */
const most = 1_000_000;

/** Characters of a template: the longest public ones have some twenty thousand. */
const longestTemplate = 1_000_000;

/** @throws TemplateFault if the template itself is too long */
export function requireTemplateLength(length: number): void {
  if (length > longestTemplate) throw new TemplateFault(`a template of more than ${longestTemplate} characters`);
}

/** @throws TemplateFault if a text or list may not be that long */
export function requireLength(length: number): void {
  if (!(length <= longest)) throw new TemplateFault(`a value of more than ${longest} characters or items`);
}

/** `text` repeated. */
export function repeatText(text: string, times: number): string {
  requireLength(text.length * Math.max(0, times));
  return text.repeat(Math.max(0, times));
}

/** Joined texts. */
export function concatenated(texts: readonly string[]): string {
  requireLength(texts.reduce((sum, { length }) => sum + length, 0));
  return texts.join("");
}

let statements = 0;
let printed = 0;

/** Before a rendering. */
export function resetLimits(): void {
  [statements, printed] = [0, 0];
}

/** @throws TemplateFault at the first statement over the limit */
export function countStatement(): void {
  if (++statements > most) throw new TemplateFault(`more than ${most} statements executed`);
}

/** @throws TemplateFault at the text that makes the output too long */
export function countPrinted(text: string): string {
  printed += text.length;
  if (printed > longest) throw new TemplateFault(`an output of more than ${longest} characters`);
  return text;
}
