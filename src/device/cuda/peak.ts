/**
 * Peak rate of dense bfloat16 products with float32 sums, for MFU. Cards in the table have their published peak, so
 * that MFU compares with others'; for any other card it is computed from the driver's data: multiprocessors × clock ×
 * operations per cycle and multiprocessor. Nothing is measured: a product of 8192³ reached 770 to 798 TFLOP/s on an
 * H100 SXM and an H200, of 989 published.
 *
 * The driver reports the highest boost clock, which is above the clock of published figures: 1980 MHz on an H100 SXM,
 * whose 989.4 TFLOP/s are at 1830 MHz. So the computed peak of a card outside the table is a few percent too high.
 */
import type { GpuFacts } from "./gpu.ts";

interface Card {
  /** Matches the driver's name without vendor and MIG suffix. */
  readonly name: RegExp;
  readonly teraflops: number;
  /** Of the whole card; a MIG slice has its share of the peak. */
  readonly multiprocessors: number;
}

/**
 * Sources: NVIDIA's data sheets, halved where they give the rate with sparsity; for GeForce and RTX cards, the
 * appendices of the architecture papers GA102, Ada and RTX Blackwell ("BF16 with FP32 accumulate").
 */
const cards: readonly Card[] = [
  { name: /^A(100|800)\b/, teraflops: 312, multiprocessors: 108 },
  { name: /^A30$/, teraflops: 165, multiprocessors: 56 },
  { name: /^A40$/, teraflops: 149.7, multiprocessors: 84 },
  { name: /^A10$/, teraflops: 125, multiprocessors: 72 },
  { name: /^RTX A6000$/, teraflops: 154.8, multiprocessors: 84 },
  { name: /^GeForce RTX 3090$/, teraflops: 71, multiprocessors: 82 },
  { name: /^L40S$/, teraflops: 362.05, multiprocessors: 142 },
  { name: /^L40$/, teraflops: 181.05, multiprocessors: 142 },
  { name: /^L20$/, teraflops: 119.5, multiprocessors: 92 },
  { name: /^L4$/, teraflops: 121, multiprocessors: 58 },
  { name: /^RTX 6000 Ada/, teraflops: 364.2, multiprocessors: 142 },
  { name: /^GeForce RTX 4090$/, teraflops: 165.2, multiprocessors: 128 },
  { name: /^H[18]00 PCIe$/, teraflops: 756, multiprocessors: 114 },
  { name: /^H[12]00 NVL$/, teraflops: 835, multiprocessors: 132 },
  { name: /^(H100|H800|H200|GH200)\b/, teraflops: 989.4, multiprocessors: 132 },
  { name: /^H20\b/, teraflops: 148, multiprocessors: 78 },
  { name: /^B200$/, teraflops: 2250, multiprocessors: 148 },
  { name: /^GeForce RTX 5090$/, teraflops: 209.5, multiprocessors: 170 },
];

/** Operations per cycle and multiprocessor, by compute capability, from the published peaks of its fastest cards. */
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

/** GeForce cards accumulate in float32 at half the rate of professional cards with the same chip. */
const halved = /GeForce/;

/** FLOP/s; for a GPU newer than both tables, from the newest entry below it. */
export function peakFlops({ name, limits, clockKilohertz }: GpuFacts): number {
  const product = name.replace(/^NVIDIA /, "").replace(/ MIG .*$/, "");
  const card = cards.find((each) => each.name.test(product));
  if (card) return 1e12 * card.teraflops * (limits.multiprocessors / card.multiprocessors);
  const known = operationsPerCycle.filter(([capability]) => capability <= limits.computeCapability);
  const operations = known.at(-1)?.[1] ?? 1024;
  return limits.multiprocessors * clockKilohertz * 1000 * (halved.test(name) ? operations / 2 : operations);
}
