/** Launches of ffi/cuda/sample.cu. */
import { type Ops, SAMPLE_COUNTERS } from "../../device.ts";
import { dim, expectShape, penalizedAddress, samplingScalars } from "../../operands.ts";
import type { CudaRuntime, KernelDefinition } from "../runtime.ts";
import { logSoftmaxKernels, rowThreads } from "./log-softmax.ts";

/** The largest vocabulary: the kernel adds masses of up to 2⁴⁴ in 64 bits, and stores ids in 20 bits. */
const VOCABULARY = 2 ** 19;

export const sampleKernels = {
  sample: {
    file: "sample.cu",
    name: "sample",
    parameters:
      "ids:ptr logprob:ptr sampling_logprob:ptr logits:ptr logit_row:ptr counters:ptr seen:ptr vocabulary:i32 seed:u32 stream:u32 greedy:i32 inverse_temperature:f32 top_k:i32 top_p:f32 min_p:f32 repetition_penalty:f32",
    threads: logSoftmaxKernels.forward.threads,
    sizes: logSoftmaxKernels.forward.sizes,
    variants: [{}],
  },
} as const satisfies Record<string, KernelDefinition>;

export function sampleOps(runtime: CudaRuntime): Pick<Ops, "sample"> {
  return {
    sample(ids, logprob, samplingLogprob, logits, logitRow, counters, seen, settings) {
      const [B, V] = [dim(ids, 0), dim(logits, 1)];
      expectShape(counters.rowStride === SAMPLE_COUNTERS, `${counters.name}: rows of ${SAMPLE_COUNTERS}`);
      expectShape(logits.rowStride === V && logits.dtype === "float32", `${logits.name}: not packed float32`);
      expectShape(V <= VOCABULARY, `${logits.name}: a vocabulary of ${V}, above ${VOCABULARY}`);
      const buffers = [ids, logprob, samplingLogprob, logits, logitRow, counters].map((t) => t.address);
      const args = [...buffers, penalizedAddress(seen, settings), V, ...samplingScalars(settings)];
      runtime.launch(runtime.kernel(sampleKernels.sample, {}), [B, 1, 1], rowThreads(V), 0, ...args);
    },
  };
}
