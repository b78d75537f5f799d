/**
 * Writes files that belong together into a folder that holds other things too: all of them or none. They are written into
 * `.saving` in it, which becomes `.saved` once complete; then the files are moved into place one by one, and after a crash
 * the next process does the rest (`finishTogether`).
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { syncFolder, syncTree, writeFileAtomic } from "../files/atomic.ts";
import { writeFailure } from "../files/refusals.ts";

const saving = ".saving";
const saved = ".saved";
/** Which files belong together: if a crash left some, the others are already in place. */
const listName = "files.json";

export const togetherNames: readonly string[] = [saving, saved];

const indexEnding = ".index.json";
/** Weights as this program and transformers write them. */
const ownWeights =
  /^(model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|adapter_model\.safetensors|adapter_config\.json)$/;

/**
 * The caller has the folder's lock.
 *
 * @throws RunError if they cannot be written, and whatever `fill` throws; the previous files are then untouched
 */
export async function writeTogether(folder: string, fill: (temporary: string) => Promise<void> | void): Promise<void> {
  const [temporary, whole] = [join(folder, saving), join(folder, saved)];
  try {
    finishTogether(folder);
    mkdirSync(temporary, { recursive: true });
    await fill(temporary);
    const files = readdirSync(temporary, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name).slice(temporary.length + 1));
    writeFileAtomic(join(temporary, listName), JSON.stringify(files));
    await syncTree(temporary);
    renameSync(temporary, whole);
    syncFolder(folder);
  } catch (error) {
    try {
      rmSync(temporary, { recursive: true, force: true });
    } catch {
      // Report the write's own failure; the next save removes the rest.
    }
    throw writeFailure(error, folder);
  }
  try {
    finishTogether(folder);
  } catch (error) {
    throw writeFailure(error, folder);
  }
}

/** Moves into place what `writeTogether` wrote completely, and removes what it did not. */
export function finishTogether(folder: string): void {
  rmSync(join(folder, saving), { recursive: true, force: true });
  const whole = join(folder, saved);
  if (!existsSync(whole)) return;
  const list = join(whole, listName);
  const files = existsSync(list) ? (JSON.parse(readFileSync(list, "utf8")) as string[]) : [];
  // Shards of two models beside an index would be taken for one model: the index is removed first and written last.
  const isIndex = (name: string) => name.endsWith(indexEnding);
  const present = files.filter((name) => existsSync(join(whole, name)));
  const indices = present.filter(isIndex);
  for (const name of indices) if (present.length > indices.length) rmSync(join(folder, name), { force: true });
  for (const name of [...present.filter((name) => !isIndex(name)), ...indices]) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    renameSync(join(whole, name), join(folder, name));
  }
  if (files.some((name) => ownWeights.test(name)))
    for (const name of readdirSync(folder)
      .filter((there) => ownWeights.test(there) && !files.includes(there))
      .sort(indexFirst))
      rmSync(join(folder, name));
  syncFolder(folder);
  rmSync(whole, { recursive: true, force: true });
}

/** Without its index, no reader takes shards for a model. */
const indexFirst = (a: string, b: string): number => Number(b.endsWith(indexEnding)) - Number(a.endsWith(indexEnding));
