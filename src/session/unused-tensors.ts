/**
 * What a model's weights hold beside what its config.json asks for: layers beyond its count, heads and adapters of other
 * models. Nothing of it is computed with, so whoever runs the model is told once. What every loader passes over in silence
 * is passed over here too.
 */
import type { Checkpoint } from "../checkpoint/checkpoint.ts";
import type { ModelConfig } from "../families/config.ts";
import { parameterSpecs } from "../families/parameters.ts";

const NAMED = 3;

/** Buffers that transformers 4 saved and computes anew, and a head that is the embedding or gives way to a scalar one. */
function isKnown(name: string, config: ModelConfig): boolean {
  if (/(^|\.)rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)$/.test(name)) return true;
  return name === config.lmHead.name && (config.tieWordEmbeddings || config.head === "score");
}

/** Names in the weights that no parameter of the model has, in the order of the files. */
function unusedTensors(config: ModelConfig, { names, unlisted }: Checkpoint): string[] {
  const used = new Set(parameterSpecs(config).map(({ name }) => name));
  return [...names, ...unlisted].filter((name) => !used.has(name) && !isKnown(name, config));
}

/** The remark on them, one line; null where there is nothing to say. */
export function unusedRemark(config: ModelConfig, checkpoint: Checkpoint): string | null {
  const unused = unusedTensors(config, checkpoint);
  if (unused.length === 0) return null;
  const some = unused.slice(0, NAMED).map((name) => (/^[\w.-]{1,120}$/.test(name) ? name : shortened(name)));
  const what = unused.length === 1 ? "1 tensor" : `${unused.length} tensors`;
  return (
    `${checkpoint.folder}: the weights hold ${what} that this model does not use (${some.join(", ")}` +
    `${unused.length > NAMED ? ", …" : ""}); where that is not meant, take the config.json that belongs to them`
  );
}

const shortened = (name: string): string => JSON.stringify(name.length > 60 ? `${name.slice(0, 60)}…` : name);
