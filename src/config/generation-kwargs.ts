/**
 * TRL's `generation_kwargs` (trl#2820): one object with what transformers' GenerationConfig or vLLM's SamplingParams call
 * the ways to draw tokens. Each key is taken as our setting of that meaning; a value that changes nothing here is accepted,
 * everything else is refused by name.
 */

import { InputError } from "../errors.ts";
import { entryOf } from "./entry.ts";
import { isObject } from "./json-file.ts";
import { parseJson } from "./values.ts";

/** Their names, and the setting each is. */
const settings: Readonly<Record<string, string>> = {
  temperature: "temperature",
  top_k: "top_k",
  top_p: "top_p",
  min_p: "min_p",
  repetition_penalty: "repetition_penalty",
  max_new_tokens: "max_completion_length",
  max_tokens: "max_completion_length",
  stop: "stop",
  stop_strings: "stop",
};

/** Keys with the values that say what happens anyway, and what to do for another. */
const idle: Readonly<Record<string, readonly [values: readonly unknown[], cure: string]>> = {
  do_sample: [[true], "use temperature 0 for the most likely tokens, in eval and generate"],
  num_beams: [[1], "there is no beam search: leave it out"],
  num_return_sequences: [[1], "use num_generations"],
  n: [[1], "use num_generations"],
  use_cache: [[true], "keys and values are always cached: leave it out"],
  skip_special_tokens: [
    [true],
    "reward functions receive text without special tokens, and completion_ids: leave it out",
  ],
  // Whichever it is, TRL takes the tokens, which end with the stop string's.
  include_stop_str_in_output: [[true, false], "leave it out"],
  detokenize: [[true], "leave it out"],
  ignore_eos: [[false], "leave it out"],
  frequency_penalty: [[0], "use repetition_penalty"],
  presence_penalty: [[0], "use repetition_penalty"],
  length_penalty: [[1], "use the reward soft_overlong"],
  no_repeat_ngram_size: [[0], "use repetition_penalty, or the reward repetition"],
  min_new_tokens: [[0], "reward a length instead"],
  min_tokens: [[0], "reward a length instead"],
  typical_p: [[1], "use top_p or min_p"],
  epsilon_cutoff: [[0], "use min_p"],
  eta_cutoff: [[0], "use min_p"],
};

/** Keys without a value that could be meant. */
const refused: Readonly<Record<string, string>> = {
  max_length: "use max_new_tokens, which does not count the prompt",
  seed: "use the setting seed",
  eos_token_id: "the ids that end a completion come from the model's generation_config.json: add it there",
  stop_token_ids: "the ids that end a completion come from the model's generation_config.json: add it there",
  pad_token_id: "nothing is padded: leave it out",
};

/**
 * @param value the object, or a flag's JSON text
 * @param label where it stands
 * @returns settings by their own names, with where each stands
 * @throws InputError for a key or value that has no counterpart, naming it
 */
export function generationKwargs(
  value: unknown,
  label: string,
): { readonly key: string; readonly value: unknown; readonly label: string }[] {
  const given = typeof value === "string" ? parseJson(value, label) : value;
  if (!isObject(given))
    throw new InputError(`${label}: must be an object such as {"top_k": 50, "stop_strings": ["</answer>"]}`);
  return Object.entries(given).flatMap(([name, wanted]) => {
    const place = `${label}: ${name}`;
    const key = entryOf(settings, name);
    if (key !== undefined) return wanted === null ? [] : [{ key, value: wanted, label: place }];
    const [harmless, cure]: readonly [readonly unknown[], string | undefined] = entryOf(idle, name) ?? [
      [],
      entryOf(refused, name),
    ];
    if (cure !== undefined && (wanted === null || harmless.includes(wanted))) return [];
    const known = Object.keys(settings).join(", ");
    throw new InputError(`${place} ${JSON.stringify(wanted)}: not supported; ${cure ?? `there are ${known}`}`);
  });
}
