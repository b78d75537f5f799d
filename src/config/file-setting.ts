/** A setting as a configuration file of any syntax has it. */
export interface FileSetting {
  readonly key: string;
  readonly value: unknown;
  /** From 1; undefined where the key was not found in the text (a list of maps, a map in braces). */
  readonly line: number | undefined;
  /** The same for what lies within it, by the keys with dots between. */
  readonly lineOf?: (path: string) => number | undefined;
}
