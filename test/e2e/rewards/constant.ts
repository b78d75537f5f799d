/** The same reward for everything: no group has signal. */
export default ({ completions }: { completions: string[] }): number[] => completions.map(() => 1);
