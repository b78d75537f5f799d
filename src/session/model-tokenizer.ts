/** The tokenizer of a model's folder; an adapter that brings none has its base's. */
import { placesOf } from "../checkpoint/huggingface.ts";
import { loadTokenizer, type Tokenizer } from "../tokenizer/tokenizer.ts";

/** @throws InputError as `loadTokenizer` does */
export function loadModelTokenizer(folder: string, chatTemplate: string | null = null): Tokenizer {
  const { config, tokenizer } = placesOf(folder);
  return loadTokenizer(tokenizer, chatTemplate, config);
}
