/** Which token ids end a completion: the union of what config.json, generation_config.json and the tokenizer name. */
import { join } from "node:path";
import { readJsonObject } from "../config/json-file.ts";
import { InputError } from "../errors.ts";
import { isThere } from "../files/paths.ts";

/**
 * @param modelConfig config.json's object, {} if there is none
 * @param ofTokenizer the id of the tokenizer's eos_token
 * @returns ascending ids, each once; empty if nothing names any
 * @throws InputError if a file holds anything but ids
 */
export function readStopTokens(
  folder: string,
  modelConfig: Readonly<Record<string, unknown>>,
  ofTokenizer: number | undefined,
): number[] {
  const ids = eosIds(modelConfig, join(folder, "config.json"));
  const generation = join(folder, "generation_config.json");
  if (isThere(generation)) ids.push(...eosIds(readJsonObject(generation), generation));
  if (ofTokenizer !== undefined) ids.push(ofTokenizer);
  return [...new Set(ids)].sort((a, b) => a - b);
}

function eosIds(json: Readonly<Record<string, unknown>>, path: string): number[] {
  const given = json.eos_token_id ?? [];
  const ids: unknown[] = Array.isArray(given) ? given : [given];
  const bad = ids.find((id) => !Number.isInteger(id) || (id as number) < 0);
  if (bad !== undefined)
    throw new InputError(`${path}: eos_token_id: ${JSON.stringify(bad)} is not a token id; correct the field`);
  return ids as number[];
}
