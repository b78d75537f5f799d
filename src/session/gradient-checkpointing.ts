/**
 * `gradient_checkpointing`: of how many layers the forward pass keeps the activations, and of how many the backward
 * pass recomputes them. The results are the same bits; memory and time differ. What is kept of a layer is in
 * ../model/layer-buffers.ts.
 */
import type { MemoryPlan, OptionalBuffers, PlanBuilder } from "../tensor/plan.ts";
import { type PlanDevice, planBytes } from "./memory.ts";
import type { SessionPlan } from "./tenant.ts";

/** true: every layer is recomputed; false: none; auto or null: those whose activations there is no room for. */
export type GradientCheckpointing = boolean | "auto" | null;

/** Receives the layers that a model's passes can keep. */
export function keepLayers(
  plan: Pick<SessionPlan, "offers">,
  checkpointing: GradientCheckpointing,
): (layers: OptionalBuffers) => void {
  if (checkpointing === "auto" || checkpointing === null) return plan.offers;
  return checkpointing ? () => {} : (layers) => layers.plan(layers.bytes.length);
}

/**
 * The share of the free memory that a plan may take so that less is recomputed. A host's memory is also other
 * programs'; a GPU is mostly a run's own.
 */
const HOST_SHARE = 0.5;
const GPU_SHARE = 0.9;

/**
 * Completes a plan with as many of the optional buffers as there is room for: up to a share of the memory that is free,
 * or up to the end of what is planned anyway, if that is more.
 *
 * @param peakOf what a run with this plan takes in all
 */
export function planOptional(
  memory: PlanBuilder,
  optional: readonly OptionalBuffers[],
  peakOf: (plan: MemoryPlan) => number,
  device: PlanDevice,
): MemoryPlan {
  const needed = memory.build();
  if (optional.length === 0) return needed;
  const share = device.freeBytes() === null ? HOST_SHARE : GPU_SHARE;
  const besides = peakOf(needed) - needed.totalBytes;
  const room = Math.max(needed.totalBytes, Math.floor(share * planBytes(device)) - besides);
  for (const layers of optional) {
    let end = needed.phaseBytes.get(layers.phase) ?? 0;
    let count = 0;
    while (count < layers.bytes.length && end + layers.bytes[count]! <= room) end += layers.bytes[count++]!;
    layers.plan(count);
  }
  return memory.build();
}
