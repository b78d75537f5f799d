/**
 * What a result may differ by from its float64 reference: one rule for the op suite and for benchmarks, on every path. The
 * tolerances themselves stand beside the ops (cases/).
 */
import type { CpuDevice } from "../../src/device/cpu/device.ts";
import { bfloat16Paths } from "../../src/device/cpu/path.ts";
import type { DType } from "../../src/tensor/dtype.ts";

/** A wanted value; for a sum of products also Σ|ab|, and Σ(ab)². */
export interface Sum {
  readonly value: number;
  readonly magnitude: number;
  readonly squares: number;
}

/** A value that is no sum of products has none of these. */
export function sumOf(want: number | Sum): Sum {
  return typeof want === "number" ? { value: want, magnitude: 0, squares: 0 } : want;
}

/** absolute + relative · |wanted| + magnitude · Σ|ab|, and what rounding one factor of each product of the sum adds. */
export interface Allowance {
  readonly absolute?: number;
  readonly relative?: number;
  readonly magnitude?: number;
  /** By how much of itself a product may be off, evenly, and each for itself. */
  readonly products?: number;
}

/** What holds everywhere, and what paths that round in between are allowed in addition. */
export interface Tolerance extends Allowance {
  /** Where the float32 operands of a product with a bfloat16 weight are rounded to bfloat16. */
  readonly operands?: Allowance;
  /** Where attention over bfloat16 rounds its probabilities and their gradients to bfloat16. */
  readonly tensorCores?: Allowance;
  /** Where the sums of a product are formed by tensor cores, which cut them off toward zero. */
  readonly truncating?: Allowance;
}

/** How a path computes, as far as the tolerance of a result depends on it. */
export interface Rounding {
  /** Products with a bfloat16 weight round their float32 operands to bfloat16. */
  readonly roundsOperands: boolean;
  /** Attention over bfloat16 multiplies in bfloat16 throughout, and sums of products are cut off toward zero. */
  readonly tensorCores: boolean;
}

export function cpuRounding({ path }: Pick<CpuDevice, "path">): Rounding {
  return { roundsOperands: bfloat16Paths.includes(path), tensorCores: false };
}

export const gpuRounding: Rounding = { roundsOperands: true, tensorCores: true };

export const exactly: Tolerance = {};
/** Half a unit in the last place of bfloat16's 8 bits, at most, and a little for a value that lies near a tie. */
export const bfloat16Rounding = 2 ** -8 * 1.01;
/** Float32 operands rounded to bfloat16: each product is off by up to that, either way. */
export const roundedOperands: Allowance = { products: bfloat16Rounding };

/** The tolerance of a result that is rounded to `dtype` after having been computed as the float32 one is. */
export function rounded(tolerance: Tolerance, dtype: DType): Tolerance {
  if (dtype !== "bfloat16") return tolerance;
  return { ...tolerance, relative: (tolerance.relative ?? 0) + bfloat16Rounding };
}

/** The tolerance on a path: what holds everywhere, and what the path rounds in addition. */
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

/** Roundings that a sum may be off by, in standard deviations: 1e-9 of all sums would be, were they normal. */
const DEVIATIONS = 6;

/**
 * The difference that is allowed. Errors of products that are even and each for itself grow with the root of the products'
 * squares; together they are never more than all of them to one side.
 */
export function allowed(a: Required<Allowance>, { value, magnitude, squares }: Sum): number {
  const evenly = Math.min(magnitude, DEVIATIONS * Math.sqrt(squares / 3));
  return a.absolute + a.relative * Math.abs(value) + a.magnitude * magnitude + a.products * evenly;
}

/** The difference as a multiple of the allowed one; NaN and infinities are right only where they are wanted. */
export function excess(got: number, want: Sum, allowance: Required<Allowance>): number {
  if (Object.is(got, want.value) || got === want.value) return 0;
  if (!Number.isFinite(got) || !Number.isFinite(want.value)) return Number.POSITIVE_INFINITY;
  return Math.abs(got - want.value) / allowed(allowance, want);
}
