/**
 * The families by `model_type`, and config.json → `ModelConfig`: chooses the family and the head. The family reads the
 * fields; weights are read in `checkpoint/`.
 */
import { isObject } from "../config/json-file.ts";
import { InputError } from "../errors.ts";
import { architectureOf, type Family, type ModelConfig, type ModelHead } from "./config.ts";
import { gemma3 } from "./gemma3.ts";
import { llama } from "./llama.ts";
import { mistral } from "./mistral.ts";
import { olmo2 } from "./olmo2.ts";
import { phi3 } from "./phi3.ts";
import { qwen2 } from "./qwen2.ts";
import { qwen3 } from "./qwen3.ts";
import { qwen3Moe } from "./qwen3-moe.ts";
import { smollm3 } from "./smollm3.ts";

export const families = new Map<string, Family>([
  ["llama", llama],
  ["qwen2", qwen2],
  ["qwen3", qwen3],
  ["smollm3", smollm3],
  ["olmo2", olmo2],
  ["mistral", mistral],
  ["phi3", phi3],
  ["gemma3_text", gemma3],
  ["qwen3_moe", qwen3Moe],
]);

/**
 * @param json config.json, parsed
 * @param path its path, for messages
 * @param wanted the head that the caller needs; "either" accepts both
 * @throws InputError naming the file, the field and the cure: a missing or bad field, an unsupported model, the wrong
 * head
 */
export function parseModelConfig(json: unknown, path: string, wanted: ModelHead | "either" = "lm"): ModelConfig {
  if (!isObject(json)) throw new InputError(`${path}: is not a JSON object ({…}); download or copy the file again`);
  const family = familyOf(json, path);
  const head = headOf(json, path, family);
  requireHead(json, path, head, wanted);
  return { family: family.name, head, ...family.read(json, path) };
}

function familyOf({ model_type: type }: Record<string, unknown>, path: string): Family {
  if (type === undefined) throw new InputError(`${path}: model_type: missing; is this a model's config.json?`);
  const family = typeof type === "string" ? families.get(type) : undefined;
  if (family !== undefined) return family;
  const known = [...families.keys()].join(", ");
  throw new InputError(
    `${path}: model_type: ${JSON.stringify(type)} is not supported (${known} are); use another model`,
  );
}

function headOf(json: Record<string, unknown>, path: string, { name }: Family): ModelHead {
  const named = json.architectures ?? [architectureOf(name)];
  for (const head of ["lm", "score"] as const)
    if (Array.isArray(named) && named.length > 0 && named.every((one) => one === architectureOf(name, head)))
      return head;
  throw new InputError(
    `${path}: architectures: ${JSON.stringify(named)} is not supported for model_type "${json.model_type}", only ` +
      `["${architectureOf(name)}"] and, as reward model and critic, ["${architectureOf(name, "score")}"]; use another model`,
  );
}

/** A model with an LM head cannot score; one with a scalar head cannot generate. */
function requireHead(json: Record<string, unknown>, path: string, head: ModelHead, wanted: ModelHead | "either"): void {
  if (wanted === "lm" && head === "score")
    throw new InputError(
      `${path}: architectures: ${JSON.stringify(json.architectures)} scores text and cannot generate it; give a causal language model here, and this one in reward_funcs or critic_model`,
    );
  if (wanted === "score" && head === "lm")
    throw new InputError(
      `${path}: architectures: ${JSON.stringify(json.architectures ?? "missing")} is a language model without a head that scores; give a sequence classification model with one label`,
    );
  if (head === "lm") return;
  // like transformers: the number of labels, else num_labels, else 2
  const labels = isObject(json.id2label) ? Object.keys(json.id2label).length : (json.num_labels ?? 2);
  if (labels !== 1)
    throw new InputError(
      `${path}: num_labels: ${JSON.stringify(labels)} is not supported, a reward model or critic has 1; use a model trained to score`,
    );
}
