/**
 * Names of temporary files: which process writes one, and whether it still does. A process id alone does not say: it is
 * used again after a while, and containers that share a disk share their numbers. So a name also has the process's start,
 * the machine's boot and the place (machine and namespace of process ids), and a random part for the threads of a process.
 */
import { lstatSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { hostname } from "node:os";
import { basename, dirname, join } from "node:path";

/** How old a temporary file of a process elsewhere must be to count as left, in milliseconds: a day. */
const leftAfter = 24 * 3600 * 1000;

const short = (text: string): string => Bun.hash.crc32(text).toString(36);

function read(from: () => string): string {
  try {
    return from();
  } catch {
    return ""; // Not Linux: the process id must do.
  }
}

/** Fields 3 and on of /proc/PID/stat: state, parent, …; the name before them may hold anything. */
export function statOf(pid: number): readonly string[] | null {
  const text = read(() => readFileSync(`/proc/${pid}/stat`, "utf8"));
  return text === "" ? null : text.slice(text.lastIndexOf(")") + 2).split(" ");
}

/** When a process started, in clock ticks since boot; "0" where the system does not say. */
export const startOf = (pid: number): string => statOf(pid)?.[19] ?? "0";

/** What tells this process from every other: `PID-START-BOOT-PLACE`. */
const identity = ((): string => {
  const boot = read(() => readFileSync("/proc/sys/kernel/random/boot_id", "utf8"));
  const place = `${hostname()} ${read(() => readlinkSync("/proc/self/ns/pid"))}`;
  return [process.pid, Number(startOf(process.pid)).toString(36), short(boot), short(place)].join("-");
})();

/** The end of a temporary file's name, another one at each call. */
export const temporarySuffix = (): string => `${identity}-${crypto.randomUUID().slice(0, 8)}`;

/** Matches what `temporarySuffix` gives, and the bare process id of earlier versions. */
export const suffixPattern = "\\d+(?:-[0-9a-z]+-[0-9a-z]+-[0-9a-z]+-[0-9a-f]{8})?";

/** Whether a process of this id runs, and is the one that started then ("0": not known). */
export function isRunning(pid: number, started = "0"): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return false;
  }
  const now = startOf(pid);
  return started === "0" || now === "0" || now === started;
}

/**
 * Whether nobody writes to a temporary file any more.
 *
 * @param suffix the end of its name
 * @param changedAt its last change, by Date.now(): all there is to go by where the writer is on another machine
 */
export function isLeft(suffix: string, changedAt: number): boolean {
  const [pid = "", start = "0", boot, place] = suffix.split("-");
  const [, , ownBoot, ownPlace] = identity.split("-");
  if (place !== undefined && place !== ownPlace) return Date.now() - changedAt > leftAfter;
  if (boot !== undefined && boot !== ownBoot) return true;
  return !isRunning(Number(pid), String(Number.parseInt(start, 36)));
}

/** When a file last changed; now where it has just gone. */
export const changedAt = (path: string): number => lstatSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now();

/** A name to write `path` under before it is renamed into place. What dead processes left under such names is removed. */
export function temporaryBeside(path: string): string {
  const parent = dirname(path);
  const pattern = new RegExp(`^(${suffixPattern})(?:-\\d+)?\\.tmp$`);
  try {
    for (const name of readdirSync(parent)) {
      const suffix = name.startsWith(`${basename(path)}.`) ? pattern.exec(name.slice(basename(path).length + 1)) : null;
      if (suffix !== null && isLeft(suffix[1]!, changedAt(join(parent, name))))
        rmSync(join(parent, name), { recursive: true, force: true });
    }
  } catch {
    // A folder that cannot be read, or not written: the write itself will say so.
  }
  return `${path}.${temporarySuffix()}.tmp`;
}
