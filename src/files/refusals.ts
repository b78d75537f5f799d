/** What it means when the system refuses to write a file, and what to do, by the error's code: one table for all writers. */
import { errorText, InputError, RunError } from "../errors.ts";

/** What to do where there is no space, or where nothing may be written. */
export interface Cures {
  readonly space: string;
  readonly place: string;
}

export const anyFile: Cures = { space: "free some space or write to another disk", place: "write to another folder" };
/** Of a file in a run's output folder: a checkpoint holds what the run has reached. */
export const runFile: Cures = {
  space: "free some space and go on with --resume_from_checkpoint true",
  place: "choose another --output_dir or change its permissions",
};

const refusals: Readonly<Record<string, (cures: Cures) => string>> = {
  ENOSPC: ({ space }) => `the disk is full; ${space}`,
  EDQUOT: ({ space }) => `the disk quota is used up; ${space}`,
  EFBIG: () => "the file would exceed the size limit; raise it (ulimit -f) or write to another disk",
  EACCES: ({ place }) => `permission is denied; ${place}`,
  EPERM: ({ place }) => `permission is denied; ${place}`,
  EROFS: ({ place }) => `the file system is read-only; ${place}`,
  ENOENT: () => "its folder is missing; create it, and keep it while it is written to",
  ENOTDIR: ({ place }) => `a file is in the way of a folder; ${place}`,
  EEXIST: ({ place }) => `a file is in the way of a folder; ${place}`,
  EISDIR: () => "a folder is in the way of the file; remove it or write to another folder",
};

function message(path: string, error: unknown, cures: Cures): string {
  const { code = "" } = error as NodeJS.ErrnoException;
  const refusal = refusals[code]?.(cures) ?? `${errorText(error)}; check the disk`;
  return `${path}: cannot be written: ${refusal}${code === "" ? "" : ` (${code})`}`;
}

/** A failed write of a file that is replaced in one step as a RunError with its cure; anything else stays what it is. */
export function writeFailure(error: unknown, path: string, cures = anyFile): unknown {
  const { code, syscall } = (error ?? {}) as NodeJS.ErrnoException;
  if (typeof code !== "string" || syscall === undefined) return error;
  return new RunError(`${message(path, error, cures)}; what was there before is untouched`);
}

/** Why a run cannot write into its output folder, or go on with a file in it. */
export const runWriteFailure = (error: unknown, path: string): RunError =>
  new RunError(message(path, error, runFile), { cause: error });

/** Why a tracker cannot write into its folder. The run itself could go on without it, so it is for the user to decide. */
export const trackerWriteFailure = (error: unknown, path: string, tracker: string): InputError => {
  const without = `, or leave ${tracker} out of --report_to`;
  return new InputError(
    message(path, error, { space: `${runFile.space}${without}`, place: `${runFile.place}${without}` }),
  );
};

/**
 * Runs one write of a run's own file or folder.
 * @throws RunError naming it and the cure where the system refuses
 */
export function writingForRun<T>(path: string, write: () => T): T {
  try {
    return write();
  } catch (error) {
    throw runWriteFailure(error, path);
  }
}
