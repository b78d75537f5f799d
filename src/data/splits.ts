/** Which files of a folder belong to which split, by their names: `train-00000-of-00002.parquet`, `gsm8k-test.arrow`. */

const knownSplits = ["train", "test", "validation", "valid", "val", "dev", "eval"];

export interface SplitFiles {
  /** The files of the requested split; all of them if no name mentions a split. */
  readonly files: readonly string[];
  /** The splits that the names mention. */
  readonly splits: readonly string[];
}

/** The split that a file's name, or else its folder, mentions: `data/train-00000-of-00001.parquet` → train. */
export function splitOf(path: string): string | undefined {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const numbered = /([^-]+)-\d{5}-of-\d{5}/.exec(name)?.[1];
  if (numbered !== undefined && numbered !== "data") return numbered;
  const folder = path.slice(0, -name.length - 1);
  return knownWord(name) ?? knownWord(folder.slice(folder.lastIndexOf("/") + 1));
}

function knownWord(name: string): string | undefined {
  const words = name.toLowerCase().split(/[^a-z0-9]+/);
  return words.findLast((word) => knownSplits.includes(word));
}

/** @param names file names, in the order of their rows */
export function chooseSplit(names: readonly string[], split: string): SplitFiles {
  const splits = [...new Set(names.flatMap((name) => splitOf(name) ?? []))];
  return { files: splits.length === 0 ? names : names.filter((name) => splitOf(name) === split), splits };
}

/** Whether a folder of this name holds one split. */
export const isSplitName = (folder: string): boolean => splitOf(`x/${folder}`) === folder;
