/** What one benchmark of an op is, and how its result is checked before it is timed. */
import type { Ops } from "../../src/device/device.ts";
import { RunError } from "../../src/errors.ts";
import type { ComputeDType, DType } from "../../src/tensor/dtype.ts";
import type { Workspace } from "./workspace.ts";

/** Where the sizes come from: a training step, a prompt before sampling, decoding, or a larger model. */
export type Use = "training" | "prefill" | "decode" | "large";

export interface OpBench {
  readonly op: keyof Ops;
  readonly use: Use;
  /** Of the model; float32 where the op knows no other. */
  readonly dtype: ComputeDType;
  /** As printed, such as "M=2048 N=576 K=576". */
  readonly sizes: string;
  /** Multiplications and additions of one call; an exponential counts as its polynomial. */
  readonly flops: number;
  /** Bytes that one call must move: every input read once, every output written once. */
  readonly bytes: number;
  open(w: Workspace): OpenBench;
}

export interface OpenBench {
  /** What is timed; one call of the op. */
  run(): void;
  /**
   * Compares the outputs of the first `run` with float64 at some places.
   * @throws WrongResult for a result that is off
   */
  verify(): void;
}

export type Benches<Name extends keyof Ops> = Readonly<Record<Name, readonly OpBench[]>>;

/** Multiplications and additions in the kernels' exponential. */
export const EXPONENTIAL = 22;

export const computeDTypes: readonly ComputeDType[] = ["float32", "bfloat16"];

export function sizesText(sizes: Readonly<Record<string, number | string | boolean>>): string {
  return Object.entries(sizes)
    .flatMap(([name, value]) => (value === true ? [name] : value === false ? [] : [`${name}=${value}`]))
    .join(" ");
}

/** A result that is not what float64 says; other errors of a check are the device's own. */
export class WrongResult extends RunError {}

/** @throws WrongResult unless |got − want| ≤ allowed */
export function near(what: string, got: number | undefined, want: number, allowed: number): void {
  if (got !== undefined && Math.abs(got - want) <= allowed) return;
  throw new WrongResult(`${what} is ${got}, wanted ${want} within ${allowed.toPrecision(2)}`);
}

/** Half a unit in the last place of bfloat16's 8 bits, at most, and a little for a value that lies near a tie. */
const BFLOAT16_ROUNDING = 2 ** -8 * 1.01;

/**
 * What a sum of products may be off by in float32, given the sum of the products' magnitudes, and what storing it as
 * `dtype` adds.
 */
export function slack(magnitude: number, want: number, dtype: DType = "float32"): number {
  return 2 ** -19 * magnitude + (dtype === "bfloat16" ? BFLOAT16_ROUNDING * Math.abs(want) : 0) + 1e-30;
}

/** Roundings that a sum may be off by, in standard deviations: 1e-9 of all sums would be, were they normal. */
const DEVIATIONS = 6;

/**
 * What a sum of products may be off by beside where one factor of each is a float32 rounded to bfloat16: by up to 2⁻⁸ of
 * the product, evenly, and each for itself. So it grows with the root of the products' squares; it is never more than
 * all of them rounded to one side.
 */
export function operandRounding(products: Float64Array): number {
  let [squares, magnitude] = [0, 0];
  for (const product of products) {
    squares += product * product;
    magnitude += Math.abs(product);
  }
  return BFLOAT16_ROUNDING * Math.min(magnitude, DEVIATIONS * Math.sqrt(squares / 3));
}

/** Up to `wanted` of 0 … count − 1: both ends, and others spread between them. */
export function picks(count: number, wanted: number): number[] {
  if (count <= wanted) return Array.from({ length: count }, (_, i) => i);
  const step = (count - 1) / (wanted - 1);
  return Array.from({ length: wanted }, (_, i) => Math.round(i * step));
}

/** Σ a(i) · b(i), and Σ |a(i) · b(i)|. */
export function sumOfProducts(count: number, a: (i: number) => number, b: (i: number) => number) {
  let [sum, magnitude] = [0, 0];
  for (let i = 0; i < count; i++) {
    const term = a(i) * b(i);
    sum += term;
    magnitude += Math.abs(term);
  }
  return { sum, magnitude };
}
