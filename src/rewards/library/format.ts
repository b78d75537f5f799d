/**
 * Rewards for the form of a completion: tags around thought and answer, and signs of step-by-step reasoning. Each is a
 * pure function of one text, in time linear in its length: a model wrote the text, and could find one that makes a
 * backtracking pattern slow.
 */

/**
 * The opening tag that a completion lacks: `<think>` and the white space after it, if the chat template opens the thought
 * in the prompt (DeepSeek-R1's, QwQ's). Prepended to the completion, it gives the whole thought.
 *
 * @returns "" if the prompt does not end in an open thought
 */
export function openedThought(promptEnd: string): string {
  const at = promptEnd.lastIndexOf("<think>");
  return at >= 0 && promptEnd.slice(at + "<think>".length).trim() === "" ? promptEnd.slice(at) : "";
}

/**
 * 1 if the text begins with `<think>`, closes it with `</think>` and opens no second one; else 0. As TRL's
 * `think_format_reward`.
 */
export function thinkFormat(text: string): 0 | 1 {
  const open = "<think>";
  return text.startsWith(open) && text.lastIndexOf(open) === 0 && text.includes("</think>", open.length) ? 1 : 0;
}

/**
 * 1 if the text is `<think>`, thought, `</think>`, `<answer>`, answer, `</answer>`, each tag on its own line; else 0.
 * As open-r1's `format_reward` (the template of DeepSeek-R1, arXiv 2501.12948, table 1), which allows more lines after it.
 */
export function answerFormat(text: string): 0 | 1 {
  const open = "<think>\n";
  const middle = "\n</think>\n<answer>\n";
  const close = "\n</answer>";
  if (!text.startsWith(open)) return 0;
  // The first middle leaves the most room for a close after it, so no other needs to be tried.
  const at = text.indexOf(middle, open.length);
  if (at < 0) return 0;
  for (let end = text.indexOf(close, at + middle.length); end >= 0; end = text.indexOf(close, end + close.length)) {
    const after = end + close.length;
    if (after === text.length || text[after] === "\n") return 1;
  }
  return 0;
}

/** A quarter for each of the four tags of `answerFormat` that occurs exactly once, with its line breaks. As in open-r1. */
export function tagCount(text: string): number {
  const once = ["<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>"].filter((tag) => occursOnce(text, tag));
  return once.length / 4;
}

/** Overlapping occurrences count as one. */
function occursOnce(text: string, tag: string): boolean {
  const first = text.indexOf(tag);
  return first >= 0 && text.indexOf(tag, first + tag.length) < 0;
}

/** Number of steps for the full reward. */
const ENOUGH_STEPS = 3;

/**
 * A third for each sign of a step, at most 1: `Step 1:`, a bullet (`-`, `*`) at the start of any line but the first, `1.`
 * at the start of the text, or one of `First,` `Second,` `Next,` `Finally,`. As open-r1's `reasoning_steps_reward`.
 */
export function reasoningSteps(text: string): number {
  const signs = /Step \d+:|^\d+\.|\n[-*]|First,|Second,|Next,|Finally,/g;
  let count = 0;
  while (count < ENOUGH_STEPS && signs.exec(text) !== null) count++;
  return count / ENOUGH_STEPS;
}
