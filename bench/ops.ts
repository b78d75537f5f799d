/**
 * `bench ops`: every op of the device interface at the sizes of a real model. Each is compared with float64 first, then
 * timed, and stands beside the peak of this machine that bounds it. What has another shape each time (a whole training
 * step, a rollout) is not measured here.
 */
import type { CpuDevice } from "../src/device/cpu.ts";
import type { Ops } from "../src/device/device.ts";
import { errorText, RunError } from "../src/errors.ts";
import type { ComputeDType } from "../src/tensor/dtype.ts";
import {
  type Bound,
  boundOf,
  measure,
  openPeakMeter,
  type Patience,
  type Peak,
  type PeakMeter,
  type Timing,
} from "./measure.ts";
import { attentionBenches } from "./ops/attention.ts";
import { cacheBenches } from "./ops/cache.ts";
import type { OpBench, Use } from "./ops/case.ts";
import { flatBenches } from "./ops/flat.ts";
import { headBenches } from "./ops/head.ts";
import { matmulBenches } from "./ops/matmul.ts";
import { normBenches } from "./ops/norm.ts";
import { rowBenches } from "./ops/rows.ts";
import type { Shapes } from "./ops/shapes.ts";
import { openWorkspace } from "./ops/workspace.ts";

/** Every op with its benchmarks; the type asks for each op of the interface. */
export function opBenches(shapes: Shapes): Readonly<Record<keyof Ops, readonly OpBench[]>> {
  return {
    ...matmulBenches(shapes),
    ...attentionBenches(shapes),
    ...cacheBenches(shapes),
    ...headBenches(shapes),
    ...normBenches(shapes),
    ...rowBenches(shapes),
    ...flatBenches(shapes),
  };
}

/** rate and peak are GFLOP/s where arithmetic bounds the op, else GB/s. */
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
  readonly path: string;
  readonly threads: number;
  /** Before the first op and after the last. */
  readonly peaks: { readonly first: Peak; readonly last: Peak };
  readonly results: readonly OpResult[];
}

const products: readonly (keyof Ops)[] = ["matmulForward", "matmulBackwardInput", "matmulBackwardWeight"];
/** What does nearly all of its arithmetic in products with a weight. */
const multiplying: readonly (keyof Ops)[] = [...products, "lmHeadForward", "lmHeadBackward"];

/**
 * Checks the op, then times it.
 *
 * @throws RunError naming the op, its sizes and the element when the result is wrong
 */
export function runBench(
  device: CpuDevice,
  bench: OpBench,
  meter: PeakMeter,
  peak: Peak,
  patience: Patience,
): OpResult {
  const { op, use, dtype, sizes, flops, bytes } = bench;
  const workspace = openWorkspace(device);
  try {
    const { run, verify } = bench.open(workspace);
    run();
    try {
      verify();
    } catch (error) {
      throw new RunError(`${op} ${sizes} ${dtype} on ${device.path}: wrong result: ${errorText(error)}`);
    }
    // A bfloat16 path has two peaks: that of its products, and that of all else, which is float32 there, too.
    const wide = peak.products !== undefined && dtype === "bfloat16" && multiplying.includes(op);
    const bound = boundOf(flops, bytes, wide ? { ...peak, compute: peak.products! } : peak);
    const own = wide ? { ...meter, compute: meter.products } : meter;
    const timing = measure(run, { flops, bytes, bound }, own, patience);
    return { op, use, dtype, sizes, flops, bytes, bound, ...timing };
  } finally {
    workspace.free();
  }
}

/** Runs the benchmarks in turn; `onResult` is told of each as soon as it is there. */
export function runOps(
  device: CpuDevice,
  benches: readonly OpBench[],
  patience: Patience,
  onResult: (result: OpResult) => void = () => {},
): OpsReport {
  const meter = openPeakMeter(device);
  try {
    const first = meter.measure();
    const results = benches.map((bench) => {
      const result = runBench(device, bench, meter, first, patience);
      onResult(result);
      return result;
    });
    const { description, path, threads } = device;
    return { suite: "ops", device: description, path, threads, peaks: { first, last: meter.measure() }, results };
  } finally {
    meter.free();
  }
}

/** What the products are built to reach at the shapes of training. */
export const PRODUCT_SHARE = 0.7;

/** Products at the shapes of training: the share of the slowest, and those below `PRODUCT_SHARE`. */
export function productShares(results: readonly OpResult[]) {
  const measured = results.filter(({ op, use }) => products.includes(op) && (use === "training" || use === "large"));
  const slowest = measured.toSorted((a, b) => a.share - b.share)[0];
  return { measured, slowest, below: measured.filter(({ share }) => share < PRODUCT_SHARE) };
}
