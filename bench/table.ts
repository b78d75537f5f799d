/** The output of the suites: table lines as results arrive, and the lines under the table. */
import type { Peak } from "./measure.ts";
import type { OpBench } from "./ops/case.ts";
import { type OpResult, type OpsReport, PRODUCT_SHARE, productShares } from "./ops.ts";

const heads = ["op", "sizes", "dtype", "ms", "rate", "bound", "share of peak"] as const;

/** A table whose first columns fit the longest of `benches`. */
export function opsTable(benches: readonly Pick<OpBench, "op" | "sizes">[]) {
  const width = (head: string, texts: readonly string[]) => Math.max(head.length, ...texts.map((text) => text.length));
  const [op, sizes] = [
    width(
      heads[0],
      benches.map((b) => b.op),
    ),
    width(
      heads[1],
      benches.map((b) => b.sizes),
    ),
  ];
  const line = (cells: readonly [string, string, string, string, string, string, string]) =>
    [
      cells[0].padEnd(op),
      cells[1].padEnd(sizes),
      cells[2].padEnd(8),
      cells[3].padStart(9),
      cells[4].padStart(14),
      cells[5].padEnd(7),
      cells[6].padStart(13),
    ].join("  ");
  return {
    head: line(heads),
    row(r: OpResult): string {
      const rate = `${r.rate.toFixed(1)} ${r.bound === "compute" ? "GFLOP/s" : "GB/s   "}`;
      return line([r.op, r.sizes, r.dtype, milliseconds(r.milliseconds), rate, r.bound, percent(r.share)]);
    },
  };
}

function milliseconds(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

const percent = (share: number) => `${(100 * share).toFixed(0)} %`;

function peakText({ compute, products, memory }: Peak): string {
  const beside = products === undefined ? "" : ` (${products.toFixed(0)} with bfloat16 weights)`;
  return `${compute.toFixed(0)} GFLOP/s${beside}, ${memory.toFixed(1)} GB/s`;
}

/** More than a fifth apart. */
function unsteady(a: number, b: number): boolean {
  return Math.min(a, b) < 0.8 * Math.max(a, b);
}

/** The lines under the table. */
export function opsSummary({ peaks, results, measuredOn, sharedMachine }: OpsReport): string[] {
  const { first, last } = peaks;
  const which = sharedMachine ? "the peak measured between its own samples" : "the peak before";
  const lines = [
    `peak of ${measuredOn}: ${peakText(first)} before, ${peakText(last)} after; each share is of ${which}`,
  ];
  if (unsteady(peaks.first.compute, peaks.last.compute) || unsteady(peaks.first.memory, peaks.last.memory))
    lines.push(
      "the peaks differ: something else runs on this machine, or it throttles; measure again when it is quiet",
    );
  if (results.some(({ share, bound }) => bound === "memory" && share > 1))
    lines.push(
      "shares above 100 %: the peak is that of reading memory; caches are faster, and writes overlap with reads",
    );
  const { measured, slowest, below } = productShares(results);
  if (slowest === undefined) return lines;
  const goal = percent(PRODUCT_SHARE);
  lines.push(
    `matmul at ≥ ${goal} of peak at training shapes: ${below.length === 0 ? "yes" : "no"} (${measured.length - below.length} of ${measured.length}; the slowest is ${slowest.op} ${slowest.sizes} ${slowest.dtype} at ${percent(slowest.share)})`,
  );
  return lines;
}
