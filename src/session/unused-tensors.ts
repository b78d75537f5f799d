/**
 * Tensors that a model's config.json does not ask for: layers beyond its count, heads and adapters of other models.
 * They are not used, and the user is told once. Tensors that every loader silently skips are skipped here too.
 */
import type { Checkpoint } from "../checkpoint/checkpoint.ts";
import { nf4Parts } from "../checkpoint/nf4.ts";
import type { ModelConfig } from "../families/config.ts";
import { parameterSpecs } from "../families/parameters.ts";

const NAMED = 3;

/** Buffers that transformers 4 saved but recomputes, and an LM head that is tied or replaced by a scalar one. */
function isKnown(name: string, config: ModelConfig): boolean {
  if (/(^|\.)rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)$/.test(name)) return true;
  return name === config.lmHead.name && (config.tieWordEmbeddings || config.head === "score");
}

/** Names of tensors that are not parameters of the model, in file order. */
function unusedTensors(config: ModelConfig, { names, unlisted }: Checkpoint): string[] {
  const used = new Set(
    parameterSpecs(config).flatMap(({ name, quantized }) => [name, ...(quantized ? nf4Parts(name) : [])]),
  );
  return [...names, ...unlisted].filter((name) => !used.has(name) && !isKnown(name, config));
}

/** A one-line remark on them; null if there are none. */
export function unusedRemark(config: ModelConfig, checkpoint: Checkpoint): string | null {
  const unused = unusedTensors(config, checkpoint);
  if (unused.length === 0) return null;
  const some = unused.slice(0, NAMED).map((name) => (/^[\w.-]{1,120}$/.test(name) ? name : shortened(name)));
  const what = unused.length === 1 ? "1 tensor" : `${unused.length} tensors`;
  return (
    `${checkpoint.folder}: the weights hold ${what} that this model does not use (${some.join(", ")}` +
    `${unused.length > NAMED ? ", …" : ""}); if that is not intended, use the config.json that belongs to them`
  );
}

const shortened = (name: string): string => JSON.stringify(name.length > 60 ? `${name.slice(0, 60)}…` : name);
