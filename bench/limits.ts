/** The least time for an amount of work on a machine with given peaks, and the share of it that was reached. */
import type { Limit } from "./figures.ts";
import type { Peak } from "./measure.ts";

/** @param flops of products in the model's type */
export interface Amount {
  readonly flops: number;
  readonly bytes: number;
}

/**
 * The share of the tighter limit: the roofline of Williams, Waterman & Patterson 2009.
 *
 * @param wide the products use the instructions that `Peak.products` measures
 */
export function limitOf({ flops, bytes }: Amount, milliseconds: number, peaks: readonly Peak[], wide: boolean): Limit {
  const mean = (of: (peak: Peak) => number) => peaks.reduce((sum, peak) => sum + of(peak), 0) / peaks.length;
  const arithmetic = flops / mean((peak) => (wide ? (peak.products ?? peak.compute) : peak.compute));
  const memory = bytes / mean((peak) => peak.memory);
  const [least, of] = arithmetic >= memory ? [arithmetic, "peak arithmetic"] : [memory, "peak memory"];
  return { share: least / 1e6 / milliseconds, of };
}
