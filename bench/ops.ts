/**
 * `bench ops`: every op of the device interface at the sizes of a real model. Each is first compared with float64, then timed
 * and shown beside the peak of this machine that bounds it. Not measured here: work whose shape varies, such as a whole
 * training step or a rollout.
 */
import type { Ops } from "../src/device/device.ts";
import { errorText } from "../src/errors.ts";
import type { ComputeDType } from "../src/tensor/dtype.ts";
import { type Bound, boundOf, type Meter, type Patience, type Peak, type Timing } from "./measure.ts";
import type { OpBench, Use } from "./ops/case.ts";
import { opTable } from "./ops/cases/all.ts";
import { type OpenBench, openBench, WrongResult } from "./ops/real-sizes.ts";
import type { Shapes } from "./ops/shapes.ts";

/** Every op with its benchmarks. */
export function opBenches(shapes: Shapes): Readonly<Record<keyof Ops, readonly OpBench[]>> {
  const entries = Object.entries(opTable).map(([op, { real }]) => [op, real(shapes)]);
  return Object.fromEntries(entries) as Record<keyof Ops, readonly OpBench[]>;
}

/** rate and peak are in GFLOP/s if arithmetic bounds the op, else in GB/s. */
export interface OpResult extends Timing {
  readonly op: keyof Ops;
  readonly use: Use;
  readonly dtype: ComputeDType;
  readonly sizes: string;
  readonly flops: number;
  readonly bytes: number;
  readonly bound: Bound;
}

export interface OpsReport {
  readonly suite: "ops";
  readonly device: string;
  /** What the peaks belong to: an instruction path with its threads, or a GPU. */
  readonly measuredOn: string;
  /** Each share uses the peak measured between its own samples, else the first peak. */
  readonly sharedMachine: boolean;
  /** Before the first op and after the last. */
  readonly peaks: { readonly first: Peak; readonly last: Peak };
  readonly results: readonly OpResult[];
}

const products: readonly (keyof Ops)[] = ["matmulForward", "matmulBackwardInput", "matmulBackwardWeight"];
/** Ops that do nearly all of their arithmetic in products with a weight. */
const multiplying: readonly (keyof Ops)[] = [...products, "lmHeadForward", "lmHeadBackward"];
/** Ops that do so in products of activations, if the device rounds those to bfloat16 too. */
const attending: readonly (keyof Ops)[] = ["attentionForward", "attentionBackward"];

/**
 * Runs the op once and compares some elements of its output with float64.
 *
 * @throws WrongResult naming the op, its sizes and the element if the result is wrong
 */
export function checkBench(on: Pick<Meter, "device" | "rounding" | "name">, bench: OpBench): void {
  opened(on, bench).free();
}

function opened({ device, rounding, name }: Pick<Meter, "device" | "rounding" | "name">, bench: OpBench): OpenBench {
  const { op, sizes, dtype } = bench;
  try {
    return openBench(device, rounding, bench);
  } catch (error) {
    if (!(error instanceof WrongResult)) throw error;
    throw new WrongResult(`${op} ${sizes} ${dtype} on ${name}: wrong result: ${errorText(error)}`);
  }
}

/** Checks the op, then times it. @throws WrongResult as checkBench does */
export async function runBench(meter: Meter, bench: OpBench, peak: Peak, patience: Patience): Promise<OpResult> {
  const { op, use, dtype, sizes } = bench;
  const { run, flops, bytes, free } = opened(meter, bench);
  try {
    // A device may have two peaks: one for products with bfloat16 weights, and one for all other work, which is float32.
    const multiplies = multiplying.includes(op) || (meter.rounding.tensorCores && attending.includes(op));
    const wide = peak.products !== undefined && dtype === "bfloat16" && multiplies;
    const bound = boundOf(flops, bytes, wide ? { ...peak, compute: peak.products! } : peak);
    const timing = await meter.time(run, { flops, bytes, bound, wide }, patience);
    return { op, use, dtype, sizes, flops, bytes, bound, ...timing };
  } finally {
    free();
  }
}

/** Runs the benchmarks in turn and calls `onResult` after each. */
export async function runOps(
  meter: Meter,
  benches: readonly OpBench[],
  patience: Patience,
  onResult: (result: OpResult) => void = () => {},
): Promise<OpsReport> {
  const first = await meter.peak();
  const results: OpResult[] = [];
  for (const bench of benches) {
    const result = await runBench(meter, bench, first, patience);
    results.push(result);
    onResult(result);
  }
  const peaks = { first, last: await meter.peak() };
  return {
    suite: "ops",
    device: meter.device.description,
    measuredOn: meter.name,
    sharedMachine: meter.shared,
    peaks,
    results,
  };
}

/** The share of peak that products should reach at training shapes. */
export const PRODUCT_SHARE = 0.7;

/** Products at training shapes: the share of the slowest, and those below `PRODUCT_SHARE`. */
export function productShares(results: readonly OpResult[]) {
  const measured = results.filter(({ op, use }) => products.includes(op) && (use === "training" || use === "large"));
  const slowest = measured.toSorted((a, b) => a.share - b.share)[0];
  return { measured, slowest, below: measured.filter(({ share }) => share < PRODUCT_SHARE) };
}
