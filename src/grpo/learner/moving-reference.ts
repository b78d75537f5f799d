/**
 * A reference that follows the policy: TRL's `sync_ref_model`, the soft update of TR-DPO (Gorbatovski et al. 2024,
 * arXiv 2404.09656, eq. 3). learner.ts decides when it moves.
 */
import { breathe } from "../../device/breathe.ts";
import type { Model } from "../../model/model.ts";
import type { OptimizerState } from "../../optim/adamw.ts";
import { afterPieces, forEachPiece } from "../../optim/offload.ts";
import type { GradientShards } from "../../session/gradient-shards.ts";
import { rows, tensor } from "../../tensor/tensor.ts";

/**
 * π_ref ← α·π + (1 − α)·π_ref, weight by weight, on the device. Computed in float32 from the policy's masters and
 * rounded once to the reference's type: in bfloat16 an α below about 1/256 moves nothing. Uses the gradients as
 * scratch, so call it between updates.
 *
 * @param policy the optimizer of the policy's weights
 * @param alpha `ref_model_mixup_alpha`, 0 ≤ α ≤ 1
 * @param shards gives other ranks what this one has moved
 */
export async function mixReference(
  reference: Model,
  policy: OptimizerState,
  alpha: number,
  shards: Pick<GradientShards, "division" | "share"> | null = null,
): Promise<void> {
  if (alpha === 0) return;
  const { ops } = reference.device;
  const targets = new Map(
    reference.weights.all.map(({ name, address, dtype, elements }) => [name, tensor(name, address, dtype, [elements])]),
  );
  for (const part of policy.parts) {
    const { name, from, weight, master, gradient: scratch } = part;
    const whole = targets.get(name);
    if (!whole) throw new Error(`the reference has no ${name}`);
    const target = rows(whole, from, weight.elements);
    if (target.dtype === "float32") {
      ops.cast(scratch, master!);
      ops.scale(scratch, alpha);
      ops.scale(target, 1 - alpha);
      ops.add(target, scratch);
    } else {
      // α·(π + π_ref·(1 − α)/α): one buffer is enough
      ops.cast(scratch, target);
      ops.scale(scratch, (1 - alpha) / alpha);
      forEachPiece(reference.device, policy.ring, part, { master: "in" }, (piece) =>
        ops.addMasters(piece.gradient, piece.weight, piece.master),
      );
      ops.scale(scratch, alpha);
      ops.cast(target, scratch);
    }
    await breathe();
  }
  afterPieces(reference.device, policy.ring);
  if (shards?.division.zero) await shards.share(targets);
}
