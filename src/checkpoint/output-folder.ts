/**
 * The folder that a command writes into, from the first check to the end: one writer at a time (`lock.ts`), nothing
 * replaced without permission (`held.ts`), and replaced files kept until there is something in their place
 * (`earlier.ts`). A folder that the command itself reads from is never replaced.
 */

import { existsSync, readdirSync, statSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { InputError } from "../errors.ts";
import { followLink, writeFileAtomic } from "../files/atomic.ts";
import { runWriteFailure } from "../files/refusals.ts";
import { afterStep, isUnsettled, setAside, settleEarlier, unfinished } from "./earlier.ts";
import { describeHeld, evaluationFiles, type Held, heldIn, type RunRecord, runFile } from "./held.ts";
import { type FolderLock, lockFolder, lockName } from "./lock.ts";
import { damageOf, listCheckpoints } from "./state.ts";

export interface OutputRequest {
  readonly folder: string;
  /** "train": for messages. */
  readonly command: string;
  readonly note: (text: string) => void;
}

export interface Permission {
  readonly overwrite: boolean;
  /** Whether the command can resume from checkpoints. */
  readonly resumes: boolean;
  /** The checkpoint to resume from, and its step. */
  readonly resume?: { readonly folder: string; readonly step: number } | null;
  /** Told to resume from the newest checkpoint, or to start from scratch if there is none. */
  readonly newest?: boolean;
  /** The command's inputs, by the names of their settings; null: not given. */
  readonly inputs: Readonly<Record<string, string | null>>;
  /** Whether the folder's contents may be replaced without permission. */
  readonly mayReplace?: ((folder: string, held: Held) => boolean) | undefined;
  /** The command adds files and replaces only its own, so it may write beside its inputs. */
  readonly addsOnly?: boolean;
}

export interface OutputFolder {
  /** @throws InputError if the folder holds something without permission to replace it, or an input of the command */
  permit(permission: Permission): void;
  /**
   * From here on the command writes: files to be replaced are moved out of the way, and removed once replaced.
   *
   * @param settings of the run, for `run.json`
   */
  begin(settings: RunRecord): void;
  /** Releases the folder. Files that were to be replaced but were not are restored. */
  release(): void;
}

/** @throws InputError if another process writes there; RunError if it cannot be written */
export function openOutputFolder({ folder, command, note }: OutputRequest): OutputFolder {
  let lock: FolderLock | null = null;
  let keptStep = -1;
  let begun = false;
  const mustSettle = (): boolean => {
    try {
      return isUnsettled(folder);
    } catch (error) {
      throw runWriteFailure(error, folder);
    }
  };
  const settle = (): void => {
    if (!mustSettle()) return;
    const settled = settleEarlier(folder);
    if (settled === null) return;
    const left = settled === "put back" ? "" : `; what the new one wrote is in ${join(folder, unfinished)}`;
    note(`note: ${folder}: the new run ended before it saved anything, so the earlier one was restored${left}`);
  };
  const notePassedOver = (): void => {
    const later = keptStep < 0 ? [] : listCheckpoints(folder).filter(({ step }) => step > keptStep);
    for (const damage of later.map((checkpoint) => damageOf(checkpoint.folder)))
      if (damage !== null) note(`note: a later checkpoint is damaged and was skipped: ${damage}`);
  };
  const open: OutputFolder = {
    permit(permission) {
      const { resume = null } = permission;
      // A checkpoint may be named by a link, or be on another disk behind one.
      const places = resume === null ? [] : [resolve(resume.folder), followLink(resume.folder)];
      const goesOn = places.some((place) => isSamePlace(dirname(place), folder));
      keptStep = goesOn ? (resume?.step ?? -1) : -1;
      requireFree(folder, permission, goesOn);
      if (lock !== null) {
        notePassedOver();
        return;
      }
      lock = lockFolder(folder, `grpo ${command}`);
      // Another process may have come and gone, or died, meanwhile.
      settle();
      requireFree(folder, permission, goesOn);
      notePassedOver();
    },
    begin(record) {
      begun = true;
      const aside = setAside(folder, keptStep);
      if (aside.length > 0) note(`note: ${folder}: ${asideNote(folder, keptStep, aside)}`);
      writeFileAtomic(join(folder, runFile), `${JSON.stringify(record, null, 2)}\n`);
    },
    release() {
      try {
        if (begun) settle();
      } finally {
        lock?.release();
      }
    },
  };
  // A refusal touches nothing, so the lock is taken after the permission, unless there is something to repair or wait for.
  if (!existsSync(join(folder, lockName)) && !mustSettle()) return open;
  lock = lockFolder(folder, `grpo ${command}`);
  try {
    settle();
  } catch (error) {
    lock.release();
    throw error;
  }
  return open;
}

function asideNote(folder: string, keptStep: number, names: readonly string[]): string {
  const shown = 6;
  const list = [...names.slice(0, shown), ...(names.length > shown ? [`${names.length - shown} more`] : [])].join(", ");
  if (keptStep < 0) return `the replaced files (${list}) are kept until this run has saved something`;
  return `everything after step ${keptStep} (${list}) moves to ${afterStep(folder, keptStep)} once this run has saved something`;
}

function requireFree(folder: string, permission: Permission, goesOn: boolean): void {
  let held: Held | null;
  try {
    held = heldIn(folder);
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw runWriteFailure(error, folder);
  }
  requireInputsKept(folder, permission, held);
  if (held === null || permission.overwrite || goesOn || permission.mayReplace?.(folder, held)) return;
  const { isRun, checkpoints, model, evaluation, foreign } = held;
  const onlyLogs = isRun && checkpoints.length === 0 && model === null && evaluation === null && foreign === null;
  if (permission.newest && onlyLogs) return;
  const resume = permission.resumes && held.checkpoints.length > 0 ? "go on with --resume_from_checkpoint true, " : "";
  const adds = held.evaluation === null ? "write into it anyway" : "replace the evaluation";
  const replaces = held.names.length === 0 ? "write beside it" : "replace it";
  const replace = `${permission.addsOnly ? adds : replaces} with --overwrite`;
  throw new InputError(
    `output_dir ${folder} holds ${describeHeld(held)}; ${resume}name another --output_dir, or ${replace}`,
  );
}

/** @throws InputError if an input of the command is where it would write */
function requireInputsKept(folder: string, { inputs, addsOnly }: Permission, held: Held | null): void {
  const target = followLink(folder);
  for (const [name, path] of Object.entries(inputs)) {
    if (path === null || !existsSync(path)) continue;
    for (const real of realPaths(path)) {
      const inside = relative(target, real);
      const [first = ""] = inside.split("/");
      const isReplaced = addsOnly ? evaluationFiles.includes(inside) : inside === "" || held?.names.includes(first);
      if (first === ".." || !isReplaced) continue;
      const what = held === null ? "files" : describeHeld(held);
      throw new InputError(
        `output_dir ${folder} holds ${what}, and ${name} ${path} is read from there, so it must not be replaced; name another --output_dir`,
      );
    }
  }
}

/** Where a path leads, and, if it is a folder, the files in it, which may be links. */
function realPaths(path: string): string[] {
  const inner = statSync(path).isDirectory() ? namesIn(path).map((name) => join(path, name)) : [];
  return [path, ...inner.filter((file) => statSync(file, { throwIfNoEntry: false })?.isFile())].map(followLink);
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // Unreadable: opening it will report that.
  }
}

const isSamePlace = (a: string, b: string): boolean => followLink(a) === followLink(b);

/**
 * Checks a single file that a command is to write.
 *
 * @param inputs the command's inputs, by name
 * @throws InputError if it exists, is not empty and may not be replaced, or is an input of the command
 */
export function requireFreeFile(
  path: string | null,
  overwrite: boolean,
  inputs: Readonly<Record<string, string | null>>,
  label = "--output",
): void {
  if (path === null || !existsSync(path)) return;
  const found = statSync(path);
  if (!found.isFile()) return;
  for (const [name, input] of Object.entries(inputs))
    if (input !== null && existsSync(input) && realPaths(input).includes(followLink(path)))
      throw new InputError(`${label} ${path} is read as ${name}; name another file`);
  if (found.size > 0 && !overwrite)
    throw new InputError(`${label} ${path} exists; name another file, or replace it with --overwrite`);
}
