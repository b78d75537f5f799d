/**
 * Qwen3's mixtures of experts (arXiv 2505.09388): Qwen3's layers, most of them with experts of which each token takes a few
 * (num_experts_per_tok).
 */
import { z } from "zod";
import { InputError } from "../errors.ts";
import type { Family } from "./config.ts";
import { type Defaults, parseFields, readDecoderFields } from "./fields.ts";
import { type ExpertSizes, llamaParameters } from "./llama.ts";

const defaults: Defaults = {
  ...{ kvHeads: 4, headDim: null, maxPositions: 32768, bos: null, eos: null, experts: true },
  windows: {
    size: ({ use_sliding_window: used, sliding_window: window }) => (used ? (window ?? 4096) : null),
    slides: () => true,
    fixed: true,
  },
};

const size = z.int().positive();
const fields = z.looseObject({
  num_experts: size.nullish(),
  num_local_experts: size.nullish(),
  num_experts_per_tok: size.default(8),
  moe_intermediate_size: size.default(768),
  norm_topk_prob: z.boolean().default(false),
  decoder_sparse_step: size.default(1),
  router_aux_loss_coef: z.number().min(0).default(0.001),
  mlp_only_layers: z.array(z.int().min(0)).nullish(),
});

export const qwen3Moe: Family = {
  name: "Qwen3Moe",
  read(json, path) {
    const own = readDecoderFields(json, path, defaults);
    const attentionBias = own.given.attention_bias ?? false;
    const biases = { inputBias: attentionBias, outputBias: attentionBias };
    const given = parseFields(fields, json, path);
    const parts = { ...biases, headNorms: "each head" as const, experts: expertLayers(given, path) };
    return {
      ...{ ...own.common, ...llamaParameters(own, parts) },
      routerAuxLossCoef: given.router_aux_loss_coef,
    };
  },
};

/** The experts of each layer, null for a dense one. */
function expertLayers(
  { num_experts, num_local_experts, num_experts_per_tok: perToken, ...given }: z.output<typeof fields>,
  path: string,
): (layer: number) => ExpertSizes | null {
  const count = num_experts ?? num_local_experts ?? 128;
  if (perToken > count)
    throw new InputError(
      `${path}: num_experts_per_tok: ${perToken} is more than the ${count} experts of num_experts; take the values of the original model`,
    );
  if (count > MOST_EXPERTS)
    throw new InputError(
      `${path}: num_experts: ${count} experts of a layer are more than ${MOST_EXPERTS}; use another model`,
    );
  const sizes: ExpertSizes = {
    ...{ count, perToken, intermediateSize: given.moe_intermediate_size, normalized: given.norm_topk_prob },
  };
  const dense = new Set(given.mlp_only_layers ?? []);
  return (layer) => (!dense.has(layer) && (layer + 1) % given.decoder_sparse_step === 0 ? sizes : null);
}

/** Their numbers are recorded as 16 bits; far more than any model has. */
const MOST_EXPERTS = 4096;
