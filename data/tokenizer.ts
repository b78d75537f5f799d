/**
 * The bundled model's tokenizer as the files that `tokenizers` and transformers read: byte-level, with a token for every
 * byte, every common word of the problems and every digit. So any text can be encoded, and a problem has about as many
 * tokens as words and digits.
 *
 * There are no merges: a word is either in the vocabulary (`ignore_merges` looks it up whole) or falls into its bytes.
 */

/** Special tokens; a token's id is its index in this list. */
export const specialTokens = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"] as const;

const endToken = "<|end|>";
export const endTokenId = specialTokens.indexOf(endToken);
const padToken = "<|pad|>";
export const padTokenId = specialTokens.indexOf(padToken);

/** Cuts text before the byte level: words with the space before them, single digits, signs, white space. */
const pieces = " ?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

const chatTemplate =
  "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/**
 * Tokens in the order of their ids: the special ones, the 256 bytes, then the commonest pieces of `texts` of more than
 * one byte, up to `size` tokens.
 * @throws RangeError if `size` has no room for the special tokens and the bytes
 */
export function buildVocabulary(texts: Iterable<string>, size: number): string[] {
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const [piece] of text.matchAll(new RegExp(pieces, "gu"))) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  }
  const base = [...specialTokens, ...byteLetters];
  if (size < base.length) throw new RangeError(`a vocabulary has at least ${base.length} tokens, not ${size}`);
  const words = [...counts]
    .filter(([piece]) => new TextEncoder().encode(piece).length > 1)
    .sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))
    .slice(0, size - base.length);
  return [...base, ...words.map(([piece]) => byteLevel(piece))];
}

/** The contents of tokenizer.json, tokenizer_config.json and special_tokens_map.json, by file name. */
export function tokenizerFiles(vocabulary: readonly string[], modelMaxLength: number): Record<string, unknown> {
  const special = specialTokens.map((content, id) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  }));
  return {
    "tokenizer.json": {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: special,
      normalizer: null,
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [
          { type: "Split", pattern: { Regex: pieces }, behavior: "Isolated", invert: false },
          { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
        ],
      },
      post_processor: null,
      decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
      model: {
        type: "BPE",
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: true,
        vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
        merges: [],
      },
    },
    "tokenizer_config.json": {
      tokenizer_class: "PreTrainedTokenizerFast",
      model_max_length: modelMaxLength,
      eos_token: endToken,
      pad_token: padToken,
      clean_up_tokenization_spaces: false,
      added_tokens_decoder: Object.fromEntries(special.map(({ id, ...token }) => [id, token])),
      chat_template: chatTemplate,
    },
    "special_tokens_map.json": { eos_token: endToken, pad_token: padToken },
  };
}

/**
 * The letter that stands for each byte in a byte-level vocabulary (GPT-2's table): printable bytes stand for themselves,
 * the others for U+0100 and on.
 */
const byteLetters: readonly string[] = (() => {
  let stand = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCodePoint(printable ? byte : stand++);
  });
})();

function byteLevel(text: string): string {
  return [...new TextEncoder().encode(text)].map((byte) => byteLetters[byte]!).join("");
}
