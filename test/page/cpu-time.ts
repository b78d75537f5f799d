/**
 * CPU time by process and thread, from /proc: far steadier than the wall-clock time of a run beside which a browser draws, since
 * it counts what ran and not how the rest of the machine was.
 */
import { readdirSync, readFileSync } from "node:fs";

/** Seconds of CPU time of each thread, by process: "renderer", "gpu-process", …, and by thread name. */
export interface CpuTimes {
  /** Of each process, ended threads included. Key: process id and kind. */
  readonly processes: ReadonlyMap<string, number>;
  /** Of the threads that there are. Key: kind of process and name of the thread. */
  readonly threads: ReadonlyMap<string, number>;
}

/** USER_HZ, which Linux has at 100 on every architecture that Bun runs on. */
const TICKS_PER_SECOND = 100;

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // It has ended meanwhile.
    return "";
  }
}

/** The fields of /proc/…/stat after the name, which may have blanks and brackets in it; proc_pid_stat(5) counts from 3 there. */
const fieldsOf = (stat: string): string[] => stat.slice(stat.lastIndexOf(")") + 2).split(" ");

const cpuSeconds = (stat: string): number => {
  const fields = fieldsOf(stat);
  return (Number(fields[14 - 3]) + Number(fields[15 - 3])) / TICKS_PER_SECOND;
};

/** All processes that `root` started, and those that these started. */
export function descendants(root: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const stat = read(`/proc/${name}/stat`);
    if (stat === "") continue;
    const parent = Number(fieldsOf(stat)[4 - 3]);
    children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
  }
  const below = (pid: number): number[] => (children.get(pid) ?? []).flatMap((each) => [each, ...below(each)]);
  return below(root);
}

/** What a process is: Chromium says it itself, the page's own process is a child of the trainer. */
function kindOf(pid: number): string {
  const words = read(`/proc/${pid}/cmdline`).split(/[\0 ]/);
  const type = words.find((word) => word.startsWith("--type="))?.slice(7);
  const service = words.find((word) => word.startsWith("--utility-sub-type="))?.slice(19);
  if (type !== undefined) return service === undefined ? type : service;
  if (words.some((word) => /chrom/.test(word)) && words.some((word) => word.startsWith("--headless"))) return "browser";
  if (words.some((word) => word.endsWith("dashboard/child.ts"))) return "page's server";
  if (words.some((word) => word.endsWith("pool/child.ts"))) return "rewards";
  if (words.includes("train")) return "training";
  return words[0]?.replace(/^.*\//, "") ?? "";
}

export function cpuTimes(pids: readonly number[]): CpuTimes {
  const processes = new Map<string, number>();
  const threads = new Map<string, number>();
  for (const pid of pids) {
    const stat = read(`/proc/${pid}/stat`);
    if (stat === "") continue;
    const kind = kindOf(pid);
    processes.set(`${pid} ${kind}`, cpuSeconds(stat));
    let names: string[] = [];
    try {
      names = readdirSync(`/proc/${pid}/task`);
    } catch {
      continue;
    }
    for (const tid of names) {
      const folder = `/proc/${pid}/task/${tid}`;
      // In nanoseconds, where the kernel has it.
      const exact = Number(read(`${folder}/schedstat`).split(" ")[0]) / 1e9;
      const stat = read(`${folder}/stat`);
      if (stat === "") continue;
      const name = stat.slice(stat.indexOf("(") + 1, stat.lastIndexOf(")")).replace(/\d+$/, "");
      const key = `${kind}: ${name}`;
      threads.set(key, (threads.get(key) ?? 0) + (exact > 0 ? exact : cpuSeconds(stat)));
    }
  }
  return { processes, threads };
}

/** What was spent between two looks, largest first. */
export function spent(
  before: CpuTimes,
  after: CpuTimes,
): { readonly byKind: [string, number][]; readonly byThread: [string, number][] } {
  const byKind = new Map<string, number>();
  for (const [key, seconds] of after.processes) {
    const kind = key.slice(key.indexOf(" ") + 1);
    byKind.set(kind, (byKind.get(kind) ?? 0) + seconds - (before.processes.get(key) ?? 0));
  }
  const byThread = new Map([...after.threads].map(([key, seconds]) => [key, seconds - (before.threads.get(key) ?? 0)]));
  const sorted = (all: ReadonlyMap<string, number>) => [...all].sort((a, b) => b[1] - a[1]);
  return { byKind: sorted(byKind), byThread: sorted(byThread) };
}
