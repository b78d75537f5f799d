/** A failed write as one line with the cure. */
import { errorText, RunError } from "../errors.ts";

const cures: Readonly<Record<string, string>> = {
  ENOSPC: "the disk is full: free some space and go on with --resume_from_checkpoint true",
  EDQUOT: "the disk quota is used up: free some space and go on with --resume_from_checkpoint true",
  EACCES: "not permitted: choose another --output_dir or change its permissions",
  EPERM: "not permitted: choose another --output_dir or change its permissions",
  EROFS: "the file system is read-only: choose another --output_dir",
  ENOENT: "the folder is gone: it must stay while the run writes to it",
  ENOTDIR: "a file is in the way of a folder: choose another --output_dir",
  EEXIST: "a file is in the way of a folder: choose another --output_dir",
  EISDIR: "a folder is in the way of the file: remove it or choose another --output_dir",
};

/**
 * Runs one write.
 * @throws RunError naming the file and the cure where the system refuses
 */
export function writing<T>(path: string, write: () => T): T {
  try {
    return write();
  } catch (error) {
    const cure = cures[(error as NodeJS.ErrnoException).code ?? ""] ?? errorText(error);
    throw new RunError(`${path} cannot be written: ${cure}`, { cause: error });
  }
}
