/**
 * The worker that owns the reward processes: starts them when there is work, distributes the work, and kills (SIGKILL)
 * and replaces a process that exceeds its deadline or its memory. It needs its own thread because the trainer's spends
 * long times in native calls, during which no timer fires.
 *
 * When a process dies, a list of answers loses only the current one, and the rest goes to another process. A call of a
 * reward function is repeated with one completion at a time, so that only the culprit gets no reward.
 */
import { existsSync, readFileSync } from "node:fs";
import { parentPort } from "node:worker_threads";
import type { Subprocess } from "bun";
import { errorText } from "../../errors.ts";
import { joinLogs } from "../results.ts";
import {
  type Arguments,
  type Called,
  type Failure,
  type FromSupervisor,
  isFatal,
  type Logs,
  type Progress,
  type RewardTrainerState,
  type SupervisorSettings,
  type ToSupervisor,
  type Work,
} from "./protocol.ts";

/** How often deadlines and memory are checked while something runs, in milliseconds. */
const TICK_MS = 10;
/** Longest start of a process, or import of a reward function, in milliseconds. */
const START_MS = 30_000;
/** Answers per message to a process. */
const CHUNK = 64;
/** After this many completions in a row that a function could not score, and none that it could, the rest are abandoned. */
const GIVE_UP_AFTER = 3;

interface Task {
  readonly work: Work;
  /** Called for each item of a verify task as its verdicts arrive. */
  readonly onVerdicts?: (progress: Extract<Progress, { kind: "verdicts" }>) => void;
  readonly onDone: (rewards: readonly (number | null)[] | undefined, logs?: Logs) => void;
  readonly onFailure: (failure: Failure) => void;
}

interface Slot {
  readonly process: Subprocess;
  ready: boolean;
  task: Task | null;
  /** Whether the task is importing a module, which may take longer. */
  loading: boolean;
  /** When it last showed progress, by performance.now(). */
  since: number;
  /** Resident KiB just after the start. */
  baseline: number;
  killed: Failure | null;
}

const port = parentPort;
if (port === null) throw new Error("supervisor.ts is a worker; use createRewardPool");
const reply = (message: FromSupervisor): void => port.postMessage(message);

let settings: SupervisorSettings;
const slots = new Set<Slot>();
const queue: Task[] = [];
let timer: ReturnType<typeof setInterval> | null = null;
let failedStarts = 0;

// Processes

function startProcess(): void {
  const slot: Slot = {
    // A kernel limit on private memory backs up the sampled one, in case this thread gets no time to look.
    process: Bun.spawn(limited(settings.command, settings.memoryLimitMiB * 2 + 2048), {
      env: { ...process.env, BUN_GRPO_CHILD: "reward", BUN_FEATURE_FLAG_NO_ORPHANS: "1" },
      stdin: "ignore",
      stdout: 2,
      stderr: 2,
      serialization: "advanced",
      ipc: (message: Progress) => onProgress(slot, message),
      onExit: (_process, code, signal) => onExit(slot, code, signal),
    }),
    ready: false,
    task: null,
    loading: false,
    since: performance.now(),
    baseline: 0,
    killed: null,
  };
  slots.add(slot);
}

/** The command under a limit of `mib` MiB of writable memory, without core files; unchanged if there is no shell. */
const limited = (command: readonly string[], mib: number): string[] =>
  existsSync("/bin/sh")
    ? ["/bin/sh", "-c", `ulimit -c 0; ulimit -d ${mib * 1024} 2>/dev/null; exec "$@"`, "sh", ...command]
    : [...command];

/** KiB in memory, 0 if the system does not say. */
function residentKiB(pid: number): number {
  try {
    return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0);
  } catch {
    return 0;
  }
}

function kill(slot: Slot, failure: Failure): void {
  if (slot.killed !== null) return;
  slot.killed = failure;
  slot.process.kill("SIGKILL");
}

function onProgress(slot: Slot, progress: Progress): void {
  slot.since = performance.now();
  const { task } = slot;
  if (progress.kind === "ready") {
    slot.ready = true;
    slot.baseline = residentKiB(slot.process.pid);
    failedStarts = 0;
    dispatch();
  } else if (task === null || slot.killed !== null) return;
  else if (progress.kind === "verdicts") task.onVerdicts?.(progress);
  else if (progress.kind === "loaded") slot.loading = false;
  else {
    slot.task = null;
    if (progress.kind === "done") task.onDone(progress.rewards, progress.logs);
    else task.onFailure(progress.failure);
    dispatch();
  }
}

function onExit(slot: Slot, code: number | null, signal: number | string | null): void {
  slots.delete(slot);
  const { task } = slot;
  slot.task = null;
  const ended = signal === null ? `exit status ${code}` : `signal ${signal}`;
  if (!slot.ready && ++failedStarts >= 3) {
    const message = `reward processes do not start (${ended}): ${settings.command.join(" ")}`;
    for (const waiting of queue.splice(0)) waiting.onFailure({ cause: "start", message });
    failedStarts = 0;
  }
  if (slot.loading) {
    const why = slot.killed?.message ?? `ended its process while loading (${ended})`;
    task?.onFailure({ cause: "load", message: why });
  } else task?.onFailure(slot.killed ?? { cause: "exit", message: `ended its process (${ended})` });
  dispatch();
}

/** Gives waiting tasks to idle processes, and starts more processes if tasks remain. */
function dispatch(): void {
  for (const slot of slots) {
    if (queue.length === 0) break;
    if (!slot.ready || slot.task !== null || slot.killed !== null) continue;
    const task = queue.shift()!;
    slot.task = task;
    slot.loading = task.work.kind !== "verify";
    slot.since = performance.now();
    slot.process.send(task.work);
  }
  let starting = [...slots].filter((slot) => !slot.ready).length;
  try {
    for (; starting < queue.length && slots.size < settings.size; starting++) startProcess();
  } catch (error) {
    const message = `reward processes do not start: ${errorText(error)}`;
    for (const waiting of queue.splice(0)) waiting.onFailure({ cause: "start", message });
  }
  const running = [...slots].some((slot) => slot.task !== null || !slot.ready);
  if (running && timer === null) timer = setInterval(watch, TICK_MS);
  if (!running && timer !== null) {
    clearInterval(timer);
    timer = null;
  }
}

function watch(): void {
  const now = performance.now();
  for (const slot of slots) {
    if (slot.killed !== null || (slot.task === null && slot.ready)) continue;
    const limit = slot.ready && !slot.loading ? settings.timeoutMs : Math.max(START_MS, settings.timeoutMs);
    if (now - slot.since > limit) {
      kill(slot, { cause: "timeout", message: `did not ${slot.loading ? "load" : "finish"} within ${limit / 1000} s` });
    } else if (slot.ready && residentKiB(slot.process.pid) - slot.baseline > settings.memoryLimitMiB * 1024) {
      kill(slot, { cause: "memory", message: `used more than ${settings.memoryLimitMiB} MiB` });
    }
  }
}

// Work

const run = (task: Task, first = false): void => {
  if (first) queue.unshift(task);
  else queue.push(task);
  dispatch();
};

function verifyAll(id: number, work: Extract<Work, { kind: "verify" }>): void {
  type Result = Extract<FromSupervisor, { kind: "verdicts" }>["results"][number];
  const results: Result[] = [];
  let open = work.items.length;
  const settle = (index: number, result: Result): void => {
    results[index] = result;
    if (--open === 0) reply({ kind: "verdicts", id, results });
  };
  if (open === 0) reply({ kind: "verdicts", id, results });
  const chunk = (from: number, to: number, first: boolean): void => {
    let next = from;
    const task: Task = {
      work: { ...work, items: work.items.slice(from, to) },
      onVerdicts: ({ index, verdicts }) => {
        next = from + index + 1;
        settle(from + index, verdicts);
      },
      onDone: () => {},
      onFailure: (failure) => {
        if (isFatal(failure)) for (let i = next; i < to; i++) settle(i, failure);
        else {
          settle(next, failure);
          if (next + 1 < to) chunk(next + 1, to, true);
        }
      },
    };
    run(task, first);
  };
  for (let from = 0; from < work.items.length; from += CHUNK) {
    chunk(from, Math.min(from + CHUNK, work.items.length), false);
  }
}

function callAll(id: number, path: string, args: Arguments, state: RewardTrainerState): void {
  const count = args.completions.length;
  const call = (part: Arguments): Promise<Called | Failure> =>
    new Promise((resolve) =>
      run({
        work: { kind: "call", path, args: part, state },
        onDone: (rewards = [], logs) => resolve({ rewards, logs }),
        onFailure: resolve,
      }),
    );
  const isFailure = (outcome: Called | Failure): outcome is Failure => "cause" in outcome;

  const oneByOne = async (whole: Failure): Promise<FromSupervisor> => {
    const rewards: (number | null)[] = new Array(count).fill(null);
    const logs: (Logs | undefined)[] = new Array(count).fill(undefined);
    const failures: { index: number; failure: Failure }[] = [];
    let next = 0;
    let scored = 0;
    let fatal: Failure | null = null;
    const lane = async (): Promise<void> => {
      while (next < count && fatal === null) {
        const index = next++;
        const hopeless = scored === 0 && failures.length >= GIVE_UP_AFTER;
        const outcome = hopeless || count === 1 ? whole : await call(pick(args, index));
        if (!isFailure(outcome)) {
          rewards[index] = outcome.rewards[0] ?? null;
          logs[index] = outcome.logs;
          scored++;
        } else if (isFatal(outcome)) fatal = outcome.index === undefined ? outcome : { ...outcome, index };
        else failures.push({ index, failure: outcome });
      }
    };
    await Promise.all(Array.from({ length: settings.size }, lane));
    if (fatal !== null) return { kind: "failed", id, failure: fatal };
    failures.sort((a, b) => a.index - b.index);
    const joined = joinLogs(logs.map((one) => ({ logs: one, count: 1 })));
    return { kind: "rewards", id, rewards, failures, ...(joined && { logs: joined }) };
  };

  void call(args).then(async (outcome) => {
    if (!isFailure(outcome)) {
      const { rewards, logs } = outcome;
      reply({ kind: "rewards", id, rewards, failures: [], ...(logs && { logs }) });
    } else reply(isFatal(outcome) ? { kind: "failed", id, failure: outcome } : await oneByOne(outcome));
  });
}

/** The arguments for completion `index` alone. */
const pick = (args: Arguments, index: number): Arguments =>
  Object.fromEntries(Object.entries(args).map(([key, values]) => [key, [values[index]]])) as unknown as Arguments;

port.on("message", (message: ToSupervisor) => {
  if (message.kind === "start") settings = message.settings;
  else if (message.kind === "close") {
    queue.length = 0;
    for (const slot of slots) kill(slot, { cause: "exit", message: "closed" });
    process.exit(0);
  } else if (message.work.kind === "verify") verifyAll(message.id, message.work);
  else if (message.work.kind === "call") callAll(message.id, message.work.path, message.work.args, message.work.state);
  else {
    const { id, work } = message;
    run({
      work,
      onDone: () => reply({ kind: "rewards", id, rewards: [], failures: [] }),
      onFailure: (failure) => reply({ kind: "failed", id, failure }),
    });
  }
});
