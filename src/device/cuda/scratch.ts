/** Upper bounds of the scratch memory for ops of given sizes, by slot. */
import type { ScratchSizes } from "../device.ts";
import { attentionScratch } from "./ops/attention.ts";
import { attentionBackwardScratch } from "./ops/attention-backward.ts";
import { biasScratch } from "./ops/bias.ts";
import { flatScratch } from "./ops/flat.ts";
import { lmHeadScratch } from "./ops/lm-head.ts";
import { matmulScratch } from "./ops/matmul.ts";
import { nf4Scratch } from "./ops/nf4.ts";
import { rmsnormScratch } from "./ops/rmsnorm.ts";
import { parameterScratchBytes } from "./parameters.ts";
import type { CudaLimits } from "./runtime.ts";

/** Bytes of each scratch slot that suffice for models of all these sizes, one after the other. */
export function largestSlots(sizes: readonly ScratchSizes[], limits: CudaLimits): number[] {
  const slots = sizes.map((each) => scratchSlots(each, limits));
  return [0, 1, 2].map((slot) => Math.max(...slots.map((bytes) => bytes[slot]!)));
}

/** Maximum bytes of each scratch slot for ops of these sizes. */
function scratchSlots(sizes: ScratchSizes, limits: CudaLimits): [number, number, number] {
  const bounds = [attentionScratch, attentionBackwardScratch, biasScratch, flatScratch, rmsnormScratch];
  return [
    Math.max(...bounds.map((bound) => bound(sizes, limits))),
    Math.max(matmulScratch(sizes, limits), parameterScratchBytes),
    Math.max(matmulScratch(sizes, limits), lmHeadScratch(sizes, limits), nf4Scratch(sizes, limits)),
  ];
}
