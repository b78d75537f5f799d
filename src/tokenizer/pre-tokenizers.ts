/**
 * Splitting and normalizing as the original tokenizers do, where `@huggingface/tokenizers` deviates: white space and words
 * are Rust's, `Split` has all its behaviors, lower case works character by character. The steps in a tokenizer.json are
 * first rewritten to kinds on which both agree; then the opened library's own steps are corrected.
 */
import type { Tokenizer } from "@huggingface/tokenizers";
import { isObject } from "../config/json-file.ts";
import { InputError } from "../errors.ts";
import { rewriteOniguruma } from "./oniguruma.ts";
import { isSpaceAt, wordCharacter } from "./unicode.ts";

type Json = Record<string, unknown>;

const punctuation = "[\\p{P}!-\\/:-@\\[-`\\{-~]";
const behaviors = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"];

function split(regex: string, behavior: unknown, invert = false): Json {
  return { type: "Split", pattern: { Regex: regex }, behavior, invert };
}

/**
 * A pre-tokenizer of tokenizer.json, in kinds that the library and the original treat alike.
 *
 * @param path tokenizer.json's path, for messages
 */
export function rewritten(given: unknown, path: string): unknown {
  if (!isObject(given)) return given;
  switch (given.type) {
    case "Sequence":
      if (!Array.isArray(given.pretokenizers)) return given;
      return { ...given, pretokenizers: given.pretokenizers.map((step) => rewritten(step, path)) };
    // The library's digits are 0 to 9; the original's are all numerals, "½" among them.
    case "Digits":
      return split("\\p{N}", given.individual_digits === true ? "Isolated" : "Contiguous");
    case "Whitespace":
      return split(`${wordCharacter}+|[^${wordCharacter.slice(1, -1)}\\p{White_Space}]+`, "Removed", true);
    case "WhitespaceSplit":
      return split("\\p{White_Space}", "Removed");
    case "Punctuation":
      return split(punctuation, given.behavior ?? "Isolated");
    case "BertPreTokenizer":
      return {
        type: "Sequence",
        pretokenizers: [split("\\p{White_Space}", "Removed"), split(punctuation, "Isolated")],
      };
    case "FixedLength":
      return split(`[\\s\\S]{1,${Number(given.length) || 5}}`, "Isolated");
    case "Split": {
      const named = behaviors.find((name) => name.toLowerCase() === String(given.behavior).toLowerCase());
      if (named === undefined)
        throw new InputError(
          `${path}: pre_tokenizer: Split with behavior ${JSON.stringify(given.behavior)} is not supported; use another model`,
        );
      return { ...given, pattern: rewrittenPattern(given.pattern), behavior: named, invert: given.invert === true };
    }
    default:
      return given;
  }
}

function rewrittenPattern(pattern: unknown): unknown {
  return isObject(pattern) && typeof pattern.Regex === "string" ? { Regex: rewriteOniguruma(pattern.Regex) } : pattern;
}

/** A normalizer of tokenizer.json, likewise. */
export function rewrittenNormalizer(given: unknown): unknown {
  if (!isObject(given)) return given;
  if (given.type === "Sequence" && Array.isArray(given.normalizers))
    return { ...given, normalizers: given.normalizers.map(rewrittenNormalizer) };
  if (given.type === "Replace") return { ...given, pattern: rewrittenPattern(given.pattern) };
  if (given.type !== "BertNormalizer" || given.lowercase !== true) return given;
  const steps = { ...given, lowercase: false, strip_accents: given.strip_accents ?? true };
  return { type: "Sequence", normalizers: [steps, { type: "Lowercase" }] };
}

/** Fields of the library's steps that are set here. */
interface Step {
  readonly tokenizers?: readonly (Step | null)[];
  readonly normalizers?: readonly (Step | null)[];
  readonly config?: Json;
  pattern?: RegExp | string | null;
  pre_tokenize_text?(text: string): string[];
  normalize?(text: string): string;
}

/** Corrects how an opened library splits and normalizes. */
export function mendSteps(library: Tokenizer): void {
  mendPreTokenizer(library.pre_tokenizer as unknown as Step | null);
  mendNormalizer(library.normalizer as unknown as Step | null);
}

function mendPreTokenizer(step: Step | null): void {
  if (step === null) return;
  for (const inner of step.tokenizers ?? []) mendPreTokenizer(inner);
  const { config, pattern } = step;
  if (!(pattern instanceof RegExp)) return;
  if (config?.type === "Split") {
    const { behavior, invert } = config;
    step.pre_tokenize_text = (text) => pieces(text, pattern, invert === true, String(behavior));
  } else
    step.pattern = new RegExp(
      pattern.source.replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}"),
      pattern.flags,
    );
}

/** `Split`: matches and the text between them, combined as the behavior says. */
function pieces(text: string, pattern: RegExp, invert: boolean, behavior: string): string[] {
  const parts: { text: string; isMatch: boolean }[] = [];
  let end = 0;
  const push = (stop: number, isMatch: boolean) => {
    if (stop > end) parts.push({ text: text.slice(end, stop), isMatch: isMatch !== invert });
    end = stop;
  };
  for (const match of text.matchAll(pattern)) {
    push(match.index, false);
    push(match.index + match[0].length, true);
  }
  push(text.length, false);
  if (behavior === "Isolated") return parts.map((part) => part.text);
  if (behavior === "Removed") return parts.flatMap((part) => (part.isMatch ? [] : [part.text]));
  const joined: { text: string; isMatch: boolean }[] = [];
  for (const part of behavior === "MergedWithNext" ? parts.reverse() : parts) {
    const last = joined.at(-1);
    // A match joins the piece beside it, unless that is itself a match; with "contiguous", adjacent matches join.
    const joins =
      last !== undefined && (behavior === "Contiguous" ? last.isMatch === part.isMatch : part.isMatch && !last.isMatch);
    if (!joins) joined.push({ ...part });
    else {
      last.text = behavior === "MergedWithNext" ? part.text + last.text : last.text + part.text;
      last.isMatch = part.isMatch;
    }
  }
  const texts = joined.map((part) => part.text);
  return behavior === "MergedWithNext" ? texts.reverse() : texts;
}

function mendNormalizer(step: Step | null): void {
  if (step === null) return;
  for (const inner of step.normalizers ?? []) mendNormalizer(inner);
  const { config, pattern } = step;
  if (config?.type === "Strip")
    step.normalize = (text) => stripped(text, config.strip_left === true, config.strip_right === true);
  // A Greek sigma at the end of a word stays σ.
  if (config?.type === "Lowercase") step.normalize = (text) => Array.from(text, (c) => c.toLowerCase()).join("");
  if (config?.type === "Replace" && (pattern instanceof RegExp || typeof pattern === "string"))
    step.normalize = (text) => text.replaceAll(pattern, () => String(config.content ?? ""));
}

function stripped(text: string, left: boolean, right: boolean): string {
  let [start, end] = [0, text.length];
  if (left) while (start < end && isSpaceAt(text, start)) start++;
  if (right) while (end > start && isSpaceAt(text, end - 1)) end--;
  return text.slice(start, end);
}
