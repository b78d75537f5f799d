/**
 * What an op must move and compute at least, by the operands it is called with: every operand once from memory, every
 * result once to it, the floating-point operations of the formula. Kernels may do more; the roofline says how much. The
 * costs themselves stand beside the ops (cases/).
 */
import type { Ops, Weight } from "../../src/device/device.ts";
import { bytesPerElement } from "../../src/tensor/dtype.ts";
import { elementCount, type Tensor } from "../../src/tensor/tensor.ts";

export interface Cost {
  readonly bytes: number;
  /** Multiplications, additions, divisions and roots; exponentials are counted apart. */
  readonly flops: number;
  readonly exponentials?: number;
  /** On tensor cores: cuBLAS's products, or our own `mma.sync`. */
  readonly unit: "cublas" | "mma" | "float32";
  /** Bytes beyond the least: what an op that is several kernels writes in one and reads in the next. */
  readonly between?: number;
  /** Bytes that kernels of our own move, where a product moves the rest. */
  readonly own?: number;
}

/** What the costs of attention need beside shapes: how long the sequences are. */
export interface Lengths {
  /** (start, length, prefix start, prefix length) of the packed batch whose segment table this is. */
  segments(table: Tensor): ArrayLike<number>;
  /** Tokens in the cache of each sequence decoded, and tokens of prompts counted once a group. */
  cache(
    pageTable: Tensor,
    promptLengths: Tensor,
    completionLengths: Tensor,
  ): { readonly tokens: number; readonly distinct: number };
}

export type CostOf<Op extends keyof Ops> = (lengths: Lengths, ...args: Parameters<Ops[Op]>) => Cost;

/** Multiplications and additions of an exponential as a polynomial, which a processor computes it by. */
export const EXPONENTIAL = 22;

/** Bytes that kernels move, those between them included. */
export const movedBytes = ({ bytes, between = 0 }: Cost): number => bytes + between;

export const bytesOf = (t: Tensor): number => elementCount(t.shape) * bytesPerElement(t.dtype);
export const weightBytes = (w: Weight): number => w.elements * bytesPerElement(w.dtype);
export const optional = (t: Tensor | null): number => (t ? bytesOf(t) : 0);
export const rowsOf = (t: Tensor): number => t.shape[0] ?? 1;

/** A product of m rows with a weight. */
export function product(m: number, w: Weight, bytes: number): Cost {
  const [n = 1, k = 1] = w.shape;
  return { bytes, flops: 2 * m * n * k, unit: w.dtype === "bfloat16" ? "cublas" : "float32" };
}

/** What does little more than move memory. */
export function memory(bytes: number, flops = 0, exponentials = 0): Cost {
  return { bytes, flops, exponentials, unit: "float32" };
}
