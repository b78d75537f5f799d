/**
 * The minimum an op must move and compute, given its operands: every operand read once from memory, every result written once,
 * the floating-point operations of the formula. Kernels may do more; the roofline says how much. The costs themselves are
 * beside the ops (cases/).
 */
import type { Ops, Weight } from "../../src/device/device.ts";
import { bytesPerElement } from "../../src/tensor/dtype.ts";
import { elementCount, type Tensor } from "../../src/tensor/tensor.ts";

export interface Cost {
  readonly bytes: number;
  /** Multiplications, additions, divisions and roots; exponentials are counted separately. */
  readonly flops: number;
  readonly exponentials?: number;
  /** On tensor cores: cuBLAS products, or this project's own `mma.sync`. */
  readonly unit: "cublas" | "mma" | "float32";
  /** Bytes beyond the minimum: what one kernel of an op writes and a later one reads. */
  readonly between?: number;
  /** Bytes that this project's kernels move, if a cuBLAS product moves the rest. */
  readonly own?: number;
}

/** What the costs of attention need beyond shapes: the lengths of the sequences. */
export interface Lengths {
  /** (start, length, prefix start, prefix length) of the packed batch with this segment table. */
  segments(table: Tensor): ArrayLike<number>;
  /** Tokens in the cache of each decoded sequence, and prompt tokens counted once per group. */
  cache(
    pageTable: Tensor,
    promptLengths: Tensor,
    completionLengths: Tensor,
  ): { readonly tokens: number; readonly distinct: number };
}

export type CostOf<Op extends keyof Ops> = (lengths: Lengths, ...args: Parameters<Ops[Op]>) => Cost;

/** Multiplications and additions of the polynomial by which a processor computes an exponential. */
export const EXPONENTIAL = 22;

/** All bytes that an op's kernels move, including those between kernels. */
export const movedBytes = ({ bytes, between = 0 }: Cost): number => bytes + between;

export const bytesOf = (t: Tensor): number => elementCount(t.shape) * bytesPerElement(t.dtype);
export const weightBytes = (w: Weight): number => w.elements * (w.quantized ? 1 : bytesPerElement(w.dtype));
export const optional = (t: Tensor | null): number => (t ? bytesOf(t) : 0);
export const rowsOf = (t: Tensor): number => t.shape[0] ?? 1;

/** A product of m rows with a weight. */
export function product(m: number, w: Weight, bytes: number): Cost {
  const [n = 1, k = 1] = w.shape;
  return { bytes, flops: 2 * m * n * k, unit: w.dtype === "bfloat16" ? "cublas" : "float32" };
}

/** An op that does little more than move memory. */
export function memory(bytes: number, flops = 0, exponentials = 0): Cost {
  return { bytes, flops, exponentials, unit: "float32" };
}
