/** Every op of the interface on the kernels of ffi/cuda and on cuBLAS, and the table of those kernels. */
import type { Ops } from "../device.ts";
import { adamwKernels, adamwOps } from "./ops/adamw.ts";
import { attentionKernels, attentionOps } from "./ops/attention.ts";
import { attentionBackwardKernels, attentionBackwardOps } from "./ops/attention-backward.ts";
import { attentionBackwardWarpgroupKernels } from "./ops/attention-backward-warpgroup.ts";
import { attentionWarpgroupKernels } from "./ops/attention-warpgroup.ts";
import { biasKernels, biasOps } from "./ops/bias.ts";
import { embeddingKernels, embeddingOps } from "./ops/embedding.ts";
import { expertKernels, expertOps } from "./ops/experts.ts";
import { flatKernels, flatOps } from "./ops/flat.ts";
import { gluKernels, gluOps } from "./ops/glu.ts";
import { lmHeadOps } from "./ops/lm-head.ts";
import { logSoftmaxKernels } from "./ops/log-softmax.ts";
import { matmulOps } from "./ops/matmul.ts";
import { nf4Kernels } from "./ops/nf4.ts";
import { rmsnormKernels, rmsnormOps } from "./ops/rmsnorm.ts";
import { ropeKernels, ropeOps } from "./ops/rope.ts";
import { sampleKernels, sampleOps } from "./ops/sample.ts";
import type { Products } from "./products.ts";
import type { CudaRuntime, KernelDefinition } from "./runtime.ts";

/** Every kernel of the device, for the checks that compare each with its source. */
export const kernelDefinitions: readonly KernelDefinition[] = [
  adamwKernels,
  attentionKernels,
  attentionBackwardKernels,
  attentionBackwardWarpgroupKernels,
  attentionWarpgroupKernels,
  biasKernels,
  embeddingKernels,
  expertKernels,
  flatKernels,
  gluKernels,
  logSoftmaxKernels,
  nf4Kernels,
  rmsnormKernels,
  ropeKernels,
  sampleKernels,
].flatMap((kernels): KernelDefinition[] => Object.values(kernels));

/** Every op of the interface; a missing one is a type error. */
export function cudaOps(runtime: CudaRuntime, products: Products): Ops {
  const matmul = matmulOps(runtime, products);
  const flat = flatOps(runtime);
  return {
    ...matmul,
    ...lmHeadOps(runtime, { ...matmul, ...flat }),
    ...adamwOps(runtime, flat.add),
    ...attentionOps(runtime),
    ...attentionBackwardOps(runtime),
    ...biasOps(runtime),
    ...embeddingOps(runtime),
    ...expertOps(runtime),
    ...flat,
    ...gluOps(runtime),
    ...rmsnormOps(runtime),
    ...ropeOps(runtime),
    ...sampleOps(runtime),
  };
}
