/**
 * Opens `@huggingface/tokenizers` on a tokenizer.json so that it gives the ids and texts that transformers 5 gives: adds
 * the special tokens that only tokenizer_config.json names, corrects where the library departs from the original, and
 * refuses by name what it would silently do otherwise.
 */
import { ByteFallbackDecoder, SequenceDecoder, Tokenizer } from "@huggingface/tokenizers";
import { isObject } from "../config/json_file.ts";
import { errorText, InputError } from "../errors.ts";

type Json = Record<string, unknown>;

/**
 * @param json tokenizer.json
 * @param config tokenizer_config.json
 * @param specialTokens the tokens it names (`<s>`, `</s>`, …)
 * @param path tokenizer.json's path, for messages
 * @throws InputError where the file is torn or of a kind that is not supported
 */
export function openLibrary(json: Json, config: Json, specialTokens: readonly string[], path: string): Tokenizer {
  const { model, added_tokens: added = [] } = json;
  if (!isObject(model) || !isObject(model.vocab ?? null) !== Array.isArray(model.vocab) || !Array.isArray(added))
    throw new InputError(`${path}: holds no model with a vocabulary; download or copy the file again`);
  if (model.type === "BPE" && !Array.isArray(model.merges))
    throw new InputError(`${path}: model.merges: missing; download or copy the file again`);
  if (model.type === "BPE" && model.continuing_subword_prefix)
    throw new InputError(`${path}: model.continuing_subword_prefix: not supported for BPE; use another model`);
  for (const [i, token] of added.entries()) {
    if (!isObject(token) || typeof token.content !== "string" || !Number.isInteger(token.id))
      throw new InputError(`${path}: added_tokens.${i}: has no content or no id; download or copy the file again`);
    if (token.single_word === true)
      throw new InputError(
        `${path}: added_tokens.${i}: single_word is not supported (${JSON.stringify(token.content)}); use another model`,
      );
  }
  const known = new Set(added.map((token: Json) => token.content));
  const vocab = isObject(model.vocab) ? model.vocab : {};
  const missing = specialTokens.filter((content) => !known.has(content) && Object.hasOwn(vocab, content));
  const complete = {
    normalizer: null,
    post_processor: null,
    decoder: null,
    ...json,
    pre_tokenizer: preTokenizer(json.pre_tokenizer ?? null, path),
    added_tokens: [
      ...added,
      ...[...new Set(missing)].map((content) => ({ id: vocab[content], content, special: true, normalized: false })),
    ],
  };
  try {
    const library = new Tokenizer(complete, config);
    const { decoder } = library;
    if (decoder instanceof SequenceDecoder)
      decoder.decoders = decoder.decoders.map((step) =>
        step instanceof ByteFallbackDecoder ? new WholeRunByteFallback({ type: "ByteFallback" }) : step,
      );
    return library;
  } catch (error) {
    throw new InputError(`${path}: ${errorText(error)}; download the file again, or use another model`);
  }
}

function preTokenizer(given: unknown, path: string): unknown {
  if (!isObject(given)) return given;
  if (given.type === "Sequence" && Array.isArray(given.pretokenizers))
    return { ...given, pretokenizers: given.pretokenizers.map((step) => preTokenizer(step, path)) };
  // The library's digits are 0 to 9; the original's are all numerals, "½" among them.
  if (given.type === "Digits") {
    const pattern = { Regex: given.individual_digits === true ? "\\p{N}" : "\\p{N}+" };
    return { type: "Split", pattern, behavior: "Isolated", invert: false };
  }
  // The library knows these two and takes any other for the first.
  const isKnown = given.behavior === "Removed" || (given.behavior === "Isolated" && given.invert !== true);
  if (given.type === "Split" && !isKnown)
    throw new InputError(
      `${path}: pre_tokenizer: Split with behavior ${JSON.stringify(given.behavior)}, invert ${given.invert === true} ` +
        "is not supported; use another model",
    );
  return given;
}

/** The byte that a token such as `<0xE4>` stands for, or null. */
export function fallbackByte(token: string): number | null {
  return /^<0x[0-9A-Fa-f]{2}>$/.test(token) ? Number.parseInt(token.slice(3, 5), 16) : null;
}

/** A run of byte tokens that is not UTF-8 as a whole becomes one U+FFFD a byte; the library decodes its valid parts. */
class WholeRunByteFallback extends ByteFallbackDecoder {
  override decode_chain(tokens: string[]): string[] {
    const texts: string[] = [];
    let run: number[] = [];
    const flush = () => {
      if (run.length > 0) texts.push(decodeRun(run));
      run = [];
    };
    for (const token of tokens) {
      const byte = fallbackByte(token);
      if (byte !== null) {
        run.push(byte);
        continue;
      }
      flush();
      texts.push(token);
    }
    flush();
    return texts;
  }
}

function decodeRun(bytes: readonly number[]): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
  } catch {
    return "\ufffd".repeat(bytes.length);
  }
}
