/** Which runs a user means by the folders given: each run's own, or one that holds several. */
import { existsSync, readdirSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { metricsFile, runFile } from "../checkpoint/held.ts";
import { InputError } from "../errors.ts";

export interface NamedRun {
  readonly folder: string;
  readonly name: string;
}

/** Most runs of one page. */
const MOST = 32;

const isRun = (folder: string): boolean => existsSync(join(folder, metricsFile)) || existsSync(join(folder, runFile));

/** @throws InputError for a folder without a run, or too many of them */
export function runsIn(given: readonly string[]): NamedRun[] {
  const found = new Set(given.flatMap((folder) => runsOf(folder)).map((folder) => resolve(folder)));
  if (found.size > MOST)
    throw new InputError(`these are ${found.size} runs, and a page compares at most ${MOST}; name those that you mean`);
  return named([...found]);
}

function runsOf(folder: string): string[] {
  if (!existsSync(folder)) throw new InputError(`${folder}: no such folder; give a run's output folder`);
  if (isRun(folder)) return [folder];
  const inner = foldersIn(folder).filter(isRun);
  if (inner.length > 0) return inner;
  throw new InputError(
    `${folder}: there is no run in it (no ${metricsFile}); give a run's output folder, or one of several`,
  );
}

/** Links are left out: what they lead to can be named itself. */
function foldersIn(folder: string): string[] {
  try {
    const entries = readdirSync(folder, { withFileTypes: true });
    return entries
      .filter((entry) => entry.isDirectory() && !entry.name.startsWith("."))
      .map(({ name }) => join(folder, name))
      .sort();
  } catch {
    throw new InputError(`${folder}: cannot be read as a folder; give a run's output folder`);
  }
}

/** By the last part of the path that tells them apart. */
export function named(folders: readonly string[]): NamedRun[] {
  const names = folders.map((folder) => basename(folder));
  for (let round = 0; round < 8 && new Set(names).size < names.length; round++) {
    const same = new Set(names.filter((name, i) => names.indexOf(name) !== i));
    for (const [i, folder] of folders.entries()) {
      if (!same.has(names[i]!)) continue;
      const parent = names[i]!.split("/").reduce((path) => dirname(path), folder);
      if (parent !== "/") names[i] = `${basename(parent)}/${names[i]}`;
    }
  }
  return folders.map((folder, i) => ({ folder, name: names[i]! }));
}
