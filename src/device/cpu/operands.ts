/** What the CPU's launchers ask of their operands: the codes of types. */
import type { DType } from "../../tensor/dtype.ts";

/** A type as WITH_DTYPE of ffi/cpu/simd.h tells it; float16 is a source only. */
export function typeCode({ dtype }: { readonly dtype: DType }): number {
  if (dtype === "float32") return 0;
  if (dtype === "bfloat16") return 1;
  if (dtype === "float16") return 2;
  throw new TypeError(`kernels do not take ${dtype}`);
}

/** An optional operand: 0 for none. */
export function addressOf(operand: { readonly address: number } | null): number {
  return operand?.address ?? 0;
}
