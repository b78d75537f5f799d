/** Which of a model's weights are in 4 bits: projections of its layers, as bitsandbytes has them; never embeddings and head. */
import type { ModelConfig } from "./config.ts";
import { mapLayer } from "./layer.ts";
import { parameterSpecs } from "./parameters.ts";

/** The same model with those projections in NF4 whose weight's name `is`. */
export function withFourBits(config: ModelConfig, is: (name: string) => boolean): ModelConfig {
  return {
    ...config,
    layer: (index) =>
      mapLayer(
        config.layer(index),
        (spec) => spec,
        ({ weight }, mapped) => (is(weight.name) ? { ...mapped, weight: { ...weight, quantized: true } } : mapped),
      ),
  };
}

/** The first weight in 4 bits that would be trained; undefined: there is none. */
export function trainedFourBits(config: ModelConfig): string | undefined {
  return parameterSpecs(config).find(({ quantized, trainable }) => quantized && trainable)?.name;
}
