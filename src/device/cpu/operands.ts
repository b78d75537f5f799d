/** Operands as the CPU's kernels take them: type codes and addresses. */
import type { DType } from "../../tensor/dtype.ts";
import type { Weight } from "../device.ts";

/** The type codes of WITH_DTYPE in ffi/cpu/simd.h; float16 is only a source. */
export function typeCode({ dtype }: { readonly dtype: DType }): number {
  if (dtype === "float32") return 0;
  if (dtype === "bfloat16") return 1;
  if (dtype === "float16") return 2;
  throw new TypeError(`kernels do not take ${dtype}`);
}

/** The code of a weight in products: NF4 has two, by what belongs to it (ffi/cpu/matmul.cpp). */
export function weightCode(w: Weight): number {
  return w.quantized ? 3 + typeCode(w) : typeCode(w);
}

/** An optional operand: 0 for none. */
export function addressOf(operand: { readonly address: number } | null): number {
  return operand?.address ?? 0;
}
