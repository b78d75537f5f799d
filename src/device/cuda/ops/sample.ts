/** Launches of ffi/cuda/sample.cu. */
import type { Ops } from "../../device.ts";
import { SAMPLE_COUNTERS } from "../../device.ts";
import { dim, inverseTemperature, require } from "../operands.ts";
import type { CudaRuntime, KernelDefinition } from "../runtime.ts";
import { logSoftmaxKernels, rowThreads } from "./log-softmax.ts";

/** The kernel adds masses of 2⁴⁴ at most in 64 bits, and tells ids apart by 20. */
const VOCABULARY = 2 ** 19;

export const sampleKernels = {
  sample: {
    file: "sample.cu",
    name: "sample",
    parameters:
      "ids:ptr logprob:ptr sampling_logprob:ptr logits:ptr logit_row:ptr counters:ptr seen:ptr vocabulary:i32 seed:u32 stream:u32 greedy:i32 inverse_temperature:f32 top_k:i32 top_p:f32 min_p:f32 repetition_penalty:f32",
    threads: logSoftmaxKernels.forward.threads,
    variants: [{}],
  },
} as const satisfies Record<string, KernelDefinition>;

export function sampleOps(runtime: CudaRuntime): Pick<Ops, "sample"> {
  return {
    sample(ids, logprob, samplingLogprob, logits, logitRow, counters, seen, settings) {
      const [B, V] = [dim(ids, 0), dim(logits, 1)];
      require(counters.rowStride === SAMPLE_COUNTERS, `${counters.name}: rows of ${SAMPLE_COUNTERS}`);
      require(logits.rowStride === V && logits.dtype === "float32", `${logits.name}: not packed float32`);
      require(V <= VOCABULARY, `${logits.name}: a vocabulary of ${V}, above ${VOCABULARY}`);
      const penalize = seen !== null && settings.repetitionPenalty !== 1;
      const buffers = [ids, logprob, samplingLogprob, logits, logitRow, counters].map((t) => t.address);
      runtime.launch(
        runtime.kernel(sampleKernels.sample, {}),
        [B, 1, 1],
        rowThreads(V),
        0,
        ...buffers,
        penalize ? seen.address : 0,
        V,
        settings.seed >>> 0,
        settings.stream >>> 0,
        settings.temperature > 0 ? 0 : 1,
        inverseTemperature(settings.temperature),
        settings.topK,
        settings.topP,
        settings.minP,
        settings.repetitionPenalty,
      );
    },
  };
}
