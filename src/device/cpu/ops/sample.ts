/** Calls of ffi/cpu/sample.cpp. */
import type { Kernels } from "../../../../ffi/bindings/cpu.ts";
import { type Ops, SAMPLE_COUNTERS } from "../../device.ts";
import { dim, expectShape, penalizedAddress, samplingScalars } from "../../operands.ts";

export function sampleOps(kernels: Kernels): Pick<Ops, "sample"> {
  return {
    sample(ids, logprob, samplingLogprob, logits, logitRow, counters, seen, settings) {
      expectShape(counters.rowStride === SAMPLE_COUNTERS, `${counters.name}: rows of ${SAMPLE_COUNTERS}`);
      const buffers = [ids, logprob, samplingLogprob, logits, logitRow, counters].map((t) => t.address);
      const sizes = [dim(ids, 0), dim(logits, 1)];
      kernels.sample(...buffers, penalizedAddress(seen, settings), ...sizes, ...samplingScalars(settings));
    },
  };
}
