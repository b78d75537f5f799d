/** The first rows of the residual stream: the embedding's, scaled if the model says so. */
import { bfloat16ToNumber, numberToBfloat16 } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Model, ParameterGradients } from "./model.ts";
import { gradientOf } from "./model.ts";

/** Rounded to the type of the weights, as the models were trained; null: 1. */
function scaleOf({ config: { embeddingScale = 1 }, weights: { dtype } }: Model): number | null {
  if (embeddingScale === 1) return null;
  return dtype === "bfloat16" ? bfloat16ToNumber(numberToBfloat16(embeddingScale)) : Math.fround(embeddingScale);
}

/** residual (T, D) = the rows of tokens (T) */
export function embed(model: Model, residual: Tensor, tokens: Tensor): void {
  const { ops } = model.device;
  ops.embeddingForward(residual, tokens, model.weights.embedding);
  const scale = scaleOf(model);
  if (scale !== null) ops.scale(residual, scale);
}

/** The embedding's gradient += from dresidual (T, D), which may be scaled. */
export function backwardEmbedding(
  model: Model,
  gradients: ParameterGradients,
  dresidual: Tensor,
  tokens: Tensor,
): void {
  const { ops } = model.device;
  const { embedding } = model.weights;
  const gradient = gradientOf(gradients, embedding);
  if (!gradient) return;
  const scale = scaleOf(model);
  if (scale !== null) ops.scale(dresidual, scale);
  ops.embeddingBackward(gradient, dresidual, tokens, embedding);
}
