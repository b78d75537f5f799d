/**
 * The folder that a command writes into, from the first look to the end: one writer at a time (`lock.ts`), nothing that is
 * there replaced unless asked (`held.ts`), and what is replaced kept until there is something in its place (`earlier.ts`).
 * A folder that the command itself reads from is never replaced.
 */
import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { InputError } from "../errors.ts";
import { writeFileAtomic } from "./atomic.ts";
import { isUnsettled, setAside, settleEarlier, unfinished } from "./earlier.ts";
import { describeHeld, type Held, heldIn, runFile } from "./held.ts";
import { type FolderLock, lockFolder, lockName, unwritable } from "./lock.ts";

export interface OutputRequest {
  readonly folder: string;
  /** "train": for messages. */
  readonly command: string;
  readonly note: (text: string) => void;
}

export interface Permission {
  readonly overwrite: boolean;
  /** Whether the command goes on from checkpoints at all. */
  readonly resumes: boolean;
  /** Where the run goes on from, and the step reached there. */
  readonly resume?: { readonly folder: string; readonly step: number } | null;
  /** Asked to go on from the newest checkpoint, or anew where there is none. */
  readonly newest?: boolean;
  /** What the command reads, by the names of its settings; null: not given. */
  readonly inputs: Readonly<Record<string, string | null>>;
  /** Says of what is held that it may be replaced unasked. */
  readonly mayReplace?: ((folder: string, held: Held) => boolean) | undefined;
  /** The command adds files and replaces none but its own, so it may write beside what it reads. */
  readonly addsOnly?: boolean;
}

export interface OutputFolder {
  /** @throws InputError where the folder holds something that nothing was said about, or what the command reads */
  permit(permission: Permission): void;
  /**
   * From here on the command writes: what it replaces is moved out of the way, to go once there is something in its place.
   *
   * @param settings of the run, for `run.json`
   */
  begin(settings: RunRecord): void;
  /** Gives the folder free. What was to be replaced, and was not, is put back. */
  release(): void;
}

export interface RunRecord {
  readonly command: string;
  /** The bundled model on the bundled problems. */
  readonly bundled: boolean;
  readonly settings: Readonly<Record<string, unknown>>;
}

/** @throws InputError where another process writes there; RunError where it cannot be written */
export function openOutputFolder({ folder, command, note }: OutputRequest): OutputFolder {
  let lock: FolderLock | null = null;
  let keptStep = -1;
  let begun = false;
  let replaces = false;
  const settle = (): void => {
    if (!isUnsettled(folder) || settleEarlier(folder) !== "put back") return;
    const left = existsSync(join(folder, unfinished))
      ? `; what the new one wrote is in ${join(folder, unfinished)}`
      : "";
    note(`note: ${folder}: the new run ended before it saved anything, so the earlier one is back${left}`);
  };
  const open: OutputFolder = {
    permit(permission) {
      const { resume = null } = permission;
      const goesOn = resume !== null && isSamePlace(dirname(resolve(resume.folder)), folder);
      keptStep = goesOn ? resume.step : -1;
      replaces = permission.addsOnly !== true;
      requireFree(folder, permission, goesOn);
      if (lock !== null) return;
      lock = lockFolder(folder, `grpo ${command}`);
      requireFree(folder, permission, goesOn); // Another process may have come and gone meanwhile.
    },
    begin(record) {
      begun = true;
      if (replaces && setAside(folder, keptStep))
        note(
          `note: ${folder}: ${keptStep < 0 ? "what it held" : `what came after step ${keptStep}`} is kept until this run has saved something`,
        );
      if (replaces) writeFileAtomic(join(folder, runFile), `${JSON.stringify(record, null, 2)}\n`);
    },
    release() {
      try {
        if (begun) settle();
      } finally {
        lock?.release();
      }
    },
  };
  // A refusal touches nothing: the lock waits for the permission, unless there is something to mend or to wait for.
  if (!existsSync(join(folder, lockName)) && !isUnsettled(folder)) return open;
  lock = lockFolder(folder, `grpo ${command}`);
  try {
    settle();
  } catch (error) {
    lock.release();
    throw error;
  }
  return open;
}

/** What the last run in a folder recorded; null: nothing that can be read. */
export function runRecord(folder: string): RunRecord | null {
  try {
    return JSON.parse(readFileSync(join(folder, runFile), "utf8")) as RunRecord;
  } catch {
    return null;
  }
}

function requireFree(folder: string, permission: Permission, goesOn: boolean): void {
  let held: Held | null;
  try {
    held = heldIn(folder);
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw unwritable(error, folder);
  }
  requireInputsKept(folder, permission, held);
  if (held === null || permission.overwrite || goesOn || permission.mayReplace?.(folder, held)) return;
  const onlyLogs = held.isRun && held.checkpoints.length === 0 && held.model === null && held.evaluation === null;
  if (permission.newest && onlyLogs) return;
  const resume = permission.resumes && held.checkpoints.length > 0 ? "go on with --resume_from_checkpoint true, " : "";
  const adds = held.evaluation === null ? "write into it all the same" : "replace the evaluation";
  const replace = `${permission.addsOnly ? adds : "replace it"} with --overwrite`;
  throw new InputError(
    `output_dir ${folder} holds ${describeHeld(held)}; ${resume}name another --output_dir, or ${replace}`,
  );
}

/** @throws InputError where what the command reads lies where it would write */
function requireInputsKept(folder: string, { inputs, addsOnly }: Permission, held: Held | null): void {
  if (addsOnly) return;
  const target = realPath(folder);
  for (const [name, path] of Object.entries(inputs)) {
    if (path === null || !existsSync(path)) continue;
    for (const real of realPaths(path)) {
      const inside = relative(target, real);
      const [first = ""] = inside.split("/");
      if (first === ".." || !(inside === "" || held?.names.includes(first))) continue;
      const what = held === null ? "files" : describeHeld(held);
      throw new InputError(
        `output_dir ${folder} holds ${what}, and ${name} ${path} is read from there, so it must stay; name another --output_dir`,
      );
    }
  }
}

/** Where a path leads, and the files in it, if it is a folder: they may be links. */
function realPaths(path: string): string[] {
  const inner = statSync(path).isDirectory() ? readdirSync(path).map((name) => join(path, name)) : [];
  return [path, ...inner.filter((file) => statSync(file, { throwIfNoEntry: false })?.isFile())].map(realPath);
}

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return resolve(path);
  }
}

const isSamePlace = (a: string, b: string): boolean => realPath(a) === realPath(b);

/**
 * Checks a single file that a command is to write.
 *
 * @param inputs what it reads, by name
 * @throws InputError where there is one with something in it that nothing was said about, or that the command reads
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
    if (input !== null && existsSync(input) && realPaths(input).includes(realPath(path)))
      throw new InputError(`${label} ${path} is read as ${name}; name another file`);
  if (found.size > 0 && !overwrite)
    throw new InputError(`${label} ${path} exists; name another file, or replace it with --overwrite`);
}
