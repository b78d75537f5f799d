/** Launches of ffi/cuda/log_softmax.cu, for the LM head's ops. */
import type { Tensor } from "../../../tensor/tensor.ts";
import { dim, expectShape, inverseTemperature } from "../../operands.ts";
import { type CudaRuntime, type KernelDefinition, macroType } from "../runtime.ts";
import { ceilDiv, powerOfTwo } from "../threads.ts";

const THREADS = 512;

export const logSoftmaxKernels = {
  forward: {
    file: "log_softmax.cu",
    name: "log_softmax_forward",
    parameters:
      "logprob:ptr entropy:ptr lse:ptr logits:ptr entry_start:ptr targets:ptr vocabulary:i32 inverse_temperature:f32",
    threads: THREADS,
    sizes: () => ({ THREADS }),
    variants: [{}],
  },
  backward: {
    file: "log_softmax.cu",
    name: "log_softmax_backward",
    parameters:
      "dlogits:ptr logits:ptr dlogprob:ptr dentropy:ptr entry_start:ptr targets:ptr lse:ptr entropy:ptr vocabulary:i32 inverse_temperature:f32",
    threads: THREADS,
    sizes: () => ({ THREADS }),
    variants: [{ OUT_TYPE: "float" }, { OUT_TYPE: "bf16" }],
  },
} as const satisfies Record<string, KernelDefinition>;

/**
 * Threads of the block for a row of logits. They set the order of the sums, so they depend only on the vocabulary:
 * training and sampling are then bit-identical.
 */
export function rowThreads(vocabulary: number): number {
  return powerOfTwo(ceilDiv(vocabulary, 16), 32, THREADS);
}

/** logprob (entries), entropy (N), lse (N) = of softmax(logits / temperature); logits (N, V) float32. */
export function logSoftmaxForward(
  runtime: CudaRuntime,
  logprob: Tensor,
  entropy: Tensor,
  lse: Tensor,
  logits: Tensor,
  entryStart: Tensor,
  targets: Tensor,
  temperature: number,
): void {
  const [rows, V] = [dim(logits, 0), dim(logits, 1)];
  expectShape(logits.rowStride === V && logits.dtype === "float32", `${logits.name}: not packed float32`);
  const buffers = [logprob, entropy, lse, logits, entryStart, targets].map((t) => t.address);
  const kernel = runtime.kernel(logSoftmaxKernels.forward, {});
  runtime.launch(kernel, [rows, 1, 1], rowThreads(V), 0, ...buffers, V, inverseTemperature(temperature));
}

/** dlogits (N, V) =, float32 (it may be `logits`) or bfloat16, from dlogprob (entries) and dentropy (N). */
export function logSoftmaxBackward(
  runtime: CudaRuntime,
  dlogits: Tensor,
  logits: Tensor,
  dlogprob: Tensor,
  dentropy: Tensor,
  entryStart: Tensor,
  targets: Tensor,
  lse: Tensor,
  entropy: Tensor,
  temperature: number,
): void {
  const [rows, V] = [dim(logits, 0), dim(logits, 1)];
  expectShape(logits.rowStride === V && logits.dtype === "float32", `${logits.name}: not packed float32`);
  expectShape(
    dlogits.rowStride === V && (dlogits.dtype === "float32" || dlogits.address !== logits.address),
    `${dlogits.name}: packed, and beside the logits unless float32`,
  );
  const buffers = [dlogits, logits, dlogprob, dentropy, entryStart, targets, lse, entropy].map((t) => t.address);
  const kernel = runtime.kernel(logSoftmaxKernels.backward, { OUT_TYPE: macroType(dlogits.dtype) });
  runtime.launch(kernel, [rows, 1, 1], rowThreads(V), 0, ...buffers, V, inverseTemperature(temperature));
}
