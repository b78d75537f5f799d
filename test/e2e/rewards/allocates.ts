/** Allocates memory until it is stopped. */
export default ({ completions }: { completions: string[] }) => {
  const kept: Uint8Array[] = [];
  for (;;) {
    kept.push(new Uint8Array(2 ** 24).fill(1));
    if (kept.length < 0) return completions.map(() => 0);
  }
};
