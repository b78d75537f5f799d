/** The buffers of an optimizer's state by parameter, whether a process has them whole or ranks have them in parts. */
import type { Weight } from "../device/device.ts";
import { type StateBuffer, stateBuffer, stateBuffers } from "../optim/adamw.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { GradientShards } from "./gradient-shards.ts";
import type { TrainedModel } from "./policy.ts";

/** A model with its optimizer, whatever its head. */
export type Optimized = Pick<TrainedModel, "model" | "optimizer" | "shards">;

/** Moments under their names in a checkpoint. */
export const momentNames = { m: "exp_avg", v: "exp_avg_sq" } as const;

/** The ranks that have an optimizer in parts; null: it is whole. */
export const partsOf = ({ shards }: Optimized): GradientShards | null =>
  shards?.division.zero && shards.division.ranks.size > 1 ? shards : null;

export interface ParameterState {
  readonly weight: Weight;
  readonly kind: StateBuffer;
  /** Of the whole parameter: where it is or, if ranks have it in parts, where they put it together. */
  readonly buffer: Tensor;
}

/** All buffers of the state, in the order of the parameters. */
export function stateOf(trained: Optimized): ParameterState[] {
  const { optimizer } = trained;
  const among = partsOf(trained);
  const whole = new Map(optimizer.parts.map((part) => [part.name, part]));
  return optimizer.parameters.flatMap(({ weight }) =>
    stateBuffers(optimizer.form, weight).map((kind) => ({
      ...{ weight, kind },
      buffer: among?.whole(weight.name, kind) ?? stateBuffer(whole.get(weight.name)!, kind)!,
    })),
  );
}
