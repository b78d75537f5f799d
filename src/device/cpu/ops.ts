/** Every op of the interface on the kernels of ffi/cpu, which run on all threads and return when done. */
import type { Kernels } from "../../../ffi/bindings/cpu.ts";
import type { Device, Ops } from "../device.ts";
import { attentionOps } from "./ops/attention.ts";
import { embeddingOps } from "./ops/embedding.ts";
import { expertOps } from "./ops/experts.ts";
import { flatOps } from "./ops/flat.ts";
import { gluOps } from "./ops/glu.ts";
import { lmHeadOps } from "./ops/lm-head.ts";
import { matmulOps } from "./ops/matmul.ts";
import { rmsnormOps } from "./ops/rmsnorm.ts";
import { ropeOps } from "./ops/rope.ts";
import { sampleOps } from "./ops/sample.ts";

export function cpuOps(kernels: Kernels, device: Pick<Device, "gradientDType" | "rowBlock">): Ops {
  const flat = flatOps(kernels);
  const matmul = matmulOps(kernels, device);
  const rope = ropeOps(kernels);
  return {
    ...matmul,
    ...lmHeadOps(kernels, { ...matmul, ...flat }, device),
    ...attentionOps(kernels, rope),
    ...embeddingOps(kernels),
    ...expertOps(kernels),
    ...flat,
    ...gluOps(kernels),
    ...rmsnormOps(kernels),
    ...rope,
    ...sampleOps(kernels),
  };
}
