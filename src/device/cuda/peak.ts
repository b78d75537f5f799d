/**
 * Peak rate of bfloat16 products with float32 sums, from what the driver says of a GPU: multiprocessors × clock × operations a
 * multiprocessor does in a cycle. Dense, at the highest clock; nothing is measured.
 *
 * Operations a cycle are those behind the published peaks, by compute capability. Sources: NVIDIA's architecture papers of
 * A100 (312 TFLOP/s, 108 multiprocessors, 1410 MHz), GA102, H100 (989, 132, 1830 MHz), Ada and Blackwell.
 */
import type { GpuFacts } from "./gpu.ts";

const operationsPerCycle: readonly (readonly [capability: number, operations: number])[] = [
  [80, 2048],
  [86, 1024],
  [87, 1024],
  [89, 1024],
  [90, 4096],
  [100, 8192],
  [103, 8192],
  [110, 8192],
  [120, 1024],
];

/** GeForce cards add up in float32 at half the rate of the professional cards with the same chip. */
const halved = /GeForce/;

/** FLOP/s; for a GPU newer than the table, by the newest entry below it. */
export function peakFlops({ name, limits, clockKilohertz }: GpuFacts): number {
  const known = operationsPerCycle.filter(([capability]) => capability <= limits.computeCapability);
  const operations = known.at(-1)?.[1] ?? 1024;
  return limits.multiprocessors * clockKilohertz * 1000 * (halved.test(name) ? operations / 2 : operations);
}
