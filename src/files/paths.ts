/**
 * What is at a path, asked before it is opened: opening a pipe waits for whoever writes to it, and a device such as
 * /dev/zero never ends. Leaves out reading, whose own errors the readers tell.
 */
import { closeSync, lstatSync, openSync, type Stats, statSync } from "node:fs";
import { InputError } from "../errors.ts";

/** Whether something of that name exists, even a dangling link: a file that cannot be read is not a missing one. */
export function isThere(path: string): boolean {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch {
    return false; // a folder on the way is a file, or closed to us
  }
}

/** A pipe that the shell has opened for this process (`<(zcat F)`, `-` as /dev/stdin) is read like a file, once. */
const ownStream = /^\/dev\/stdin$|^\/(dev|proc\/self)\/fd\/\d+$/;

/**
 * @param options.once the file is read once from its start, so that a pipe opened by the shell will do
 * @throws InputError for a pipe, a device or a socket, for what the user may not read, and where a link leads round in a
 *   circle. A missing file and a folder pass
 */
export function requireFile(path: string, options: { readonly once?: boolean } = {}): void {
  let stat: Stats | undefined;
  try {
    stat = statSync(path, { throwIfNoEntry: false });
    if (stat?.isFile() || stat?.isDirectory()) closeSync(openSync(path, "r"));
    if (stat?.isDirectory()) statSync(`${path}/.`); // needs the right to enter it
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return;
    const what = stat?.isDirectory() ? "its permissions" : "that it is a readable file";
    throw new InputError(`${path}: cannot be read (${code}); check ${what}`);
  }
  if (stat === undefined || stat.isFile() || stat.isDirectory()) return;
  if (options.once && ownStream.test(path)) return;
  const kind = stat.isFIFO() ? "a pipe" : stat.isSocket() ? "a socket" : "a device";
  throw new InputError(`${path}: is ${kind}, not a file; give a regular file`);
}
