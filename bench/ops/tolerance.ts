/**
 * How far a result may be from its float64 reference: one rule for the op suite and for benchmarks, on every path. The
 * tolerances themselves are beside the ops (cases/).
 */
import type { CpuDevice } from "../../src/device/cpu/device.ts";
import { bfloat16Paths } from "../../src/device/cpu/path.ts";
import type { DType } from "../../src/tensor/dtype.ts";

/** An expected value; for a sum of products also Σ|ab| and Σ(ab)². */
export interface Sum {
  readonly value: number;
  readonly magnitude: number;
  readonly squares: number;
}

/** Absent for a value that is not a sum of products. */
export function sumOf(want: number | Sum): Sum {
  return typeof want === "number" ? { value: want, magnitude: 0, squares: 0 } : want;
}

/** absolute + relative · |wanted| + magnitude · Σ|ab|, plus the effect of rounding one factor of each product of the sum. */
export interface Allowance {
  readonly absolute?: number;
  readonly relative?: number;
  readonly magnitude?: number;
  /** Maximum relative error of each product, evenly distributed and independent. */
  readonly products?: number;
}

/** The tolerance on all paths, and the allowance for paths that round intermediate values. */
export interface Tolerance extends Allowance {
  /** On paths that round the float32 operands of a product with a bfloat16 weight to bfloat16. */
  readonly operands?: Allowance;
  /** On paths whose attention over bfloat16 rounds its probabilities and their gradients to bfloat16. */
  readonly tensorCores?: Allowance;
  /** On paths whose tensor cores form the sums of a product, truncating them toward zero. */
  readonly truncating?: Allowance;
}

/** How a path computes, as far as it affects the tolerance of a result. */
export interface Rounding {
  /** Products with a bfloat16 weight round their float32 operands to bfloat16. */
  readonly roundsOperands: boolean;
  /** Attention over bfloat16 multiplies in bfloat16 throughout, and sums of products are truncated toward zero. */
  readonly tensorCores: boolean;
}

export function cpuRounding({ path }: Pick<CpuDevice, "path">): Rounding {
  return { roundsOperands: bfloat16Paths.includes(path), tensorCores: false };
}

export const gpuRounding: Rounding = { roundsOperands: true, tensorCores: true };

export const exactly: Tolerance = {};
/** At most half a unit in the last place of bfloat16's 8 bits, plus a margin for values near a tie. */
export const bfloat16Rounding = 2 ** -8 * 1.01;
/** Float32 operands rounded to bfloat16: each product is off by up to that, in either direction. */
export const roundedOperands: Allowance = { products: bfloat16Rounding };

/** The tolerance of a result computed as the float32 one and then rounded to `dtype`. */
export function rounded(tolerance: Tolerance, dtype: DType): Tolerance {
  if (dtype !== "bfloat16") return tolerance;
  return { ...tolerance, relative: (tolerance.relative ?? 0) + bfloat16Rounding };
}

/** The tolerance on a path: the general one, plus the path's own roundings. */
export function allowanceOn(tolerance: Tolerance, path: Rounding): Required<Allowance> {
  const { operands, tensorCores, truncating, ...everywhere } = tolerance;
  const cores = path.tensorCores ? [tensorCores, truncating] : [];
  const parts = [everywhere, path.roundsOperands ? operands : null, ...cores];
  const sum = (key: keyof Allowance) => parts.reduce((total, part) => total + (part?.[key] ?? 0), 0);
  return {
    absolute: sum("absolute"),
    relative: sum("relative"),
    magnitude: sum("magnitude"),
    products: sum("products"),
  };
}

/** Allowed rounding error of a sum, in standard deviations: under a normal distribution 1e-9 of all sums would exceed it. */
const DEVIATIONS = 6;

/**
 * The allowed difference. Independent errors of products grow with the root of the sum of their squares; the total never
 * exceeds all of them in one direction.
 */
export function allowed(a: Required<Allowance>, { value, magnitude, squares }: Sum): number {
  const evenly = Math.min(magnitude, DEVIATIONS * Math.sqrt(squares / 3));
  return a.absolute + a.relative * Math.abs(value) + a.magnitude * magnitude + a.products * evenly;
}

/** The difference as a multiple of the allowed one; NaN and infinities are right only where they are expected. */
export function excess(got: number, want: Sum, allowance: Required<Allowance>): number {
  if (Object.is(got, want.value) || got === want.value) return 0;
  if (!Number.isFinite(got) || !Number.isFinite(want.value)) return Number.POSITIVE_INFINITY;
  return Math.abs(got - want.value) / allowed(allowance, want);
}
