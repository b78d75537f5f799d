/**
 * npx, npm and their like start a program through shells, and die of a signal without passing it on: the program would run
 * on, known to nobody. So a program that they started watches the processes between itself and them. Who detaches it on
 * purpose (nohup, setsid, `&` in a script of package.json) is taken at their word: then nothing is watched.
 * Where there is no /proc, only the direct parent is.
 */
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { statOf } from "../files/temporary.ts";

const LOOK_EVERY_MS = 500;
const SIGHUP = 1;
const SIGINT = 2;

/** Whether a signal was ignored when the program started, as nohup does with SIGHUP and a script's `&` with SIGINT. */
export function wasIgnored(signal: number, status = statusAtStart): boolean {
  const mask = /^SigIgn:\s*([0-9a-f]+)$/m.exec(status)?.[1];
  return mask !== undefined && ((BigInt(`0x${mask}`) >> BigInt(signal - 1)) & 1n) === 1n;
}

/** Read before any handler is set: a handler takes the signal out of the mask. */
const statusAtStart = ((): string => {
  try {
    return readFileSync("/proc/self/status", "utf8");
  } catch {
    return "";
  }
})();

interface Ancestor {
  readonly pid: number;
  readonly started: string;
  readonly name: string;
}

export interface ProcessView {
  /** Fields 3 and on of /proc/PID/stat; null: no such process. */
  readonly stat: (pid: number) => readonly string[] | null;
  /** The command line; what npm puts in its place is one argument with spaces. */
  readonly command: (pid: number) => readonly string[];
}

const system: ProcessView = {
  stat: statOf,
  command(pid) {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "utf8")
        .split("\0")
        .filter((part) => part !== "");
    } catch {
      return [];
    }
  },
};

const isShell = ([program = "", flag]: readonly string[]): boolean =>
  /^(sh|dash|bash|ash|zsh)$/.test(basename(program)) && flag === "-c";

function isLauncher([program = "", ...rest]: readonly string[]): boolean {
  const name = basename(program);
  if (/^(npm|npx|pnpm|pnpx|yarn|bunx)\b/.test(program) || /^(npm|npx|pnpm|pnpx|yarn|bunx)$/.test(name)) return true;
  if (/^node(js)?$/.test(name)) return rest.some((part) => /^(npm|npx|pnpm|yarn)\b/.test(basename(part)));
  return /^bun(\.exe|-\S+)?$/.test(name);
}

/** From the parent upwards, the processes by way of which a launcher started `pid`; none where none did. */
export function launchersOf(pid: number, { stat, command }: ProcessView = system): Ancestor[] {
  const found: Ancestor[] = [];
  let launchers = 0;
  const [, parent = "0", , session] = stat(pid) ?? [];
  for (let at = Number(parent); at > 1; ) {
    const fields = stat(at);
    const words = command(at);
    // Another session: setsid.
    if (fields === null || fields[3] !== session || !(isShell(words) || isLauncher(words))) break;
    found.push({ pid: at, started: fields[19]!, name: basename(words[0]!.split(" ")[0]!) });
    if (isLauncher(words)) launchers = found.length;
    at = Number(fields[1]);
  }
  return found.slice(0, launchers);
}

const isGone = ({ pid, started }: Ancestor, { stat }: ProcessView): boolean => {
  const fields = stat(pid);
  return fields === null || fields[19] !== started || fields[0] === "Z" || fields[0] === "X";
};

/**
 * @param onGone is told once what ended
 * @returns ends the watch
 */
export function watchLauncher(onGone: (what: string) => void, view: ProcessView = system): () => void {
  const { npm_execpath, npm_lifecycle_event, npm_config_user_agent } = process.env;
  const launched = npm_execpath ?? npm_lifecycle_event ?? npm_config_user_agent;
  if (launched === undefined || wasIgnored(SIGHUP) || wasIgnored(SIGINT)) return () => {};
  const chain = launchersOf(process.pid, view);
  const firstParent = process.ppid;
  const hasProc = view.stat(process.pid) !== null;
  if (hasProc ? chain.length === 0 : firstParent <= 1) return () => {};
  const timer = setInterval(() => {
    const gone = chain.find((ancestor) => isGone(ancestor, view));
    if (gone === undefined && (hasProc || process.ppid === firstParent)) return;
    clearInterval(timer);
    const who = gone === undefined ? `process ${firstParent}` : `${gone.name}, process ${gone.pid}`;
    onGone(`what started this program has ended (${who})`);
  }, LOOK_EVERY_MS);
  timer.unref();
  return () => clearInterval(timer);
}
