/**
 * Opens `@huggingface/tokenizers` on a tokenizer.json so that it gives the same ids and texts as transformers 5: adds the
 * special tokens that only tokenizer_config.json names, corrects the library's deviations from the original, and refuses
 * by name what it would silently do differently.
 */
import { ByteFallbackDecoder, SequenceDecoder, Tokenizer } from "@huggingface/tokenizers";
import { isObject } from "../config/json-file.ts";
import { errorText, InputError } from "../errors.ts";
import { type AddedToken, addedTokenSplitter } from "./added-tokens.ts";
import { mendSteps, rewritten, rewrittenNormalizer } from "./pre-tokenizers.ts";

type Json = Record<string, unknown>;

/**
 * @param json tokenizer.json
 * @param config tokenizer_config.json
 * @param specialTokens the tokens it names (`<s>`, `</s>`, …)
 * @param path tokenizer.json's path, for messages
 * @throws InputError if the file is incomplete or of an unsupported kind
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
  }
  const known = new Set(added.map((token: Json) => token.content));
  const vocab = isObject(model.vocab) ? model.vocab : {};
  const missing = specialTokens.filter((content) => !known.has(content) && Object.hasOwn(vocab, content));
  const complete = {
    post_processor: null,
    decoder: null,
    ...json,
    normalizer: rewrittenNormalizer(json.normalizer ?? null),
    pre_tokenizer: rewritten(json.pre_tokenizer ?? null, path),
    added_tokens: [
      ...added,
      ...[...new Set(missing)].map((content) => ({ id: vocab[content], content, special: true, normalized: false })),
    ],
  };
  try {
    const library = new Tokenizer(complete, config);
    mendSteps(library);
    mendAddedTokens(library);
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

/** The library's own step from text to tokens, which is private. */
interface Inner {
  encode_text(text: string | null): string[] | null;
}

/** Makes the library split off added tokens as the original does. */
function mendAddedTokens(library: Tokenizer): void {
  const plain = new Map<string, AddedToken>();
  const normalized = new Map<string, AddedToken>();
  const { normalizer, pre_tokenizer: preTokenizer, model } = library;
  for (const token of library.get_added_tokens_decoder().values())
    if (token.normalized)
      normalized.set(normalizer === null ? token.content : normalizer.normalize(token.content), token);
    else plain.set(token.content, token);
  // The library would take such a word for the token with the same spelling, though it is part of a longer word.
  for (const token of [...plain.values(), ...normalized.values()])
    if (token.single_word) model?.tokens_to_ids.delete(token.content);
  const splitPlain = addedTokenSplitter(plain);
  const splitNormalized = addedTokenSplitter(normalized);
  const encodeText = (text: string): string[] =>
    splitPlain(text).flatMap((outer) => {
      if (outer.token !== null) return [outer.token.content];
      return splitNormalized(normalizer === null ? outer.text : normalizer.normalize(outer.text)).flatMap((inner) => {
        if (inner.token !== null) return [inner.token.content];
        // Some vocabularies put a space only before the text's first word.
        const options = { section_index: outer.at + inner.at };
        const words = preTokenizer === null ? [inner.text] : preTokenizer.pre_tokenize(inner.text, options);
        return model === null ? words : (model as unknown as (words: string[]) => string[])(words);
      });
    });
  (library as unknown as Inner).encode_text = (text) => (text === null ? null : encodeText(text));
}

/** The byte that a token such as `<0xE4>` stands for, or null. */
export function fallbackByte(token: string): number | null {
  return /^<0x[0-9A-Fa-f]{2}>$/.test(token) ? Number.parseInt(token.slice(3, 5), 16) : null;
}

/** A run of byte tokens that is not valid UTF-8 becomes one U+FFFD per byte; the library decodes its valid parts. */
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
