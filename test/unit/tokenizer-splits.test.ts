/**
 * Text is normalized and split, and added tokens extracted, as in the tokenizers library: recorded by
 * test/golden/make_tokenizer_splits.py.
 */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { openLibrary } from "../../src/tokenizer/library.ts";

interface Recorded {
  readonly name: string;
  readonly pre_tokenizer: unknown;
  readonly normalizer: unknown;
  readonly added_tokens: readonly unknown[];
  /** For each text, the pieces passed to the vocabulary, and the ids. */
  readonly expected: readonly (readonly [string[], number[]])[];
}

const { vocabulary, texts, tokenizers } = JSON.parse(
  readFileSync(join(import.meta.dir, "../golden/tokenizer-splits.json"), "utf8"),
) as {
  readonly vocabulary: Readonly<Record<string, number>>;
  readonly texts: readonly string[];
  readonly tokenizers: readonly Recorded[];
};

test.each(tokenizers.map((recorded) => [recorded.name, recorded] as const))("%s", (_, recorded) => {
  const { pre_tokenizer, normalizer, added_tokens } = recorded;
  const model = { type: "BPE", unk_token: null, ignore_merges: true, vocab: vocabulary, merges: [] };
  const library = openLibrary({ pre_tokenizer, normalizer, added_tokens, model }, {}, [], "tokenizer.json");
  const ours = texts.map((text) => [
    library.pre_tokenizer!.pre_tokenize(library.normalizer?.normalize(text) ?? text, { section_index: 0 }),
    library.encode(text, { add_special_tokens: false }).ids,
  ]);
  expect(ours).toEqual(recorded.expected.map(([pieces, ids]) => [pieces, ids]));
});
