/** Bytes in MiB, as memory plans and refusals print them: one decimal below 100. Without the unit. */
export function mebibytes(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(bytes < 100 * 2 ** 20 ? 1 : 0);
}
