/**
 * Runs a set of ops on the GPU, each to its end. A wrong result, a lost context or a hang is reported with the op's name and
 * the command that runs it alone; the next op runs in a new process if the old one has become unusable.
 */
import { appendFileSync, writeFileSync } from "node:fs";
import { endsWith, killGroup, runBounded } from "./bounded-process.ts";
import type { OpLine, OpTask } from "./op-task.ts";

export interface OpStageOptions {
  readonly task: Omit<OpTask, "from" | "count">;
  /** The command that runs this program. */
  readonly program: readonly string[];
  readonly cwd: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Limit of one op, and of the whole stage. An op that already hung at other sizes gets a quarter. */
  readonly opSeconds: number;
  /** Names of ops that hung, including earlier sets of the stage; this set's are added. */
  readonly hungBefore: Set<string>;
  readonly seconds: number;
  readonly log: string;
  /** compute-sanitizer's memcheck, if installed, as words of a command: an op that lost the context runs again under it. */
  readonly memcheck: readonly string[] | null;
  readonly print: (line: string) => void;
}

export interface OpStageResult {
  readonly passed: number;
  /** Each with its reason and the command that runs it alone. */
  readonly failures: readonly string[];
  readonly seconds: number;
  /** The stage's own limit ended it. */
  readonly timedOut: boolean;
  /** An op hung or lost the context: later stages that call it will too. */
  readonly spoilt: boolean;
}

/** Environment that a shell needs so that the executable runs the sources as Bun. */
const asBunText = process.env.BUN_BE_BUN ? "BUN_BE_BUN=1 " : "";

/** Ops to run again under memcheck. */
export const MOST_REPEATED = 3;

/** The words that run a task, after the program's own. */
export function taskWords(task: OpTask): string[] {
  return ["check:gpu", "--op-task", JSON.stringify(task)];
}

export async function runOpStage(options: OpStageOptions): Promise<OpStageResult> {
  const { task, program, cwd, env, print, log } = options;
  const start = performance.now();
  const seconds = () => (performance.now() - start) / 1000;
  const commandOf = (part: Omit<OpTask, "set">) => [...program, ...taskWords({ ...task, ...part })];
  writeFileSync(log, "");
  const failures: string[] = [];
  let [passed, from, timedOut, spoilt] = [0, 0, false, false];

  const lostWith: number[] = [];
  const fails = (line: OpLine, why: string, lost: boolean) => {
    const alone = commandOf({ from: line.index, count: 1 });
    failures.push(`${line.name}: ${why}\n  alone: ${asBunText}${alone.map(quoted).join(" ")}`);
    print(`FAILED ${failures.at(-1)}`);
    if (lost) lostWith.push(line.index);
  };

  while (!timedOut) {
    const child = Bun.spawn(commandOf({ from }), {
      ...{ cwd, env: { ...env }, stdin: "ignore", stdout: "pipe", stderr: "pipe", detached: true },
    });
    const ends = endsWith(child.pid);
    const errors = child.stderr.text();
    let [running, ran]: [OpLine | null, boolean] = [null, false];
    let [hung, allowed] = [false, options.opSeconds];
    let deadline = performance.now() + allowed * 1000;
    const watch = setInterval(() => {
      timedOut = seconds() > options.seconds;
      hung = performance.now() > deadline;
      if (timedOut || hung) killGroup(child.pid);
    }, 200);
    for await (const line of linesOf(child.stdout)) {
      const begins = line.failure === undefined;
      const short = begins && options.hungBefore.has(opOf(line));
      allowed = short ? options.opSeconds / 4 : options.opSeconds;
      deadline = performance.now() + allowed * 1000;
      if (begins) {
        running = line;
        continue;
      }
      running = null;
      ran = true;
      from = line.index + 1;
      appendFileSync(log, `${JSON.stringify(line)}\n`);
      if (line.failure === null) {
        passed++;
        print(`${line.name.padEnd(64)} ${line.speed ?? `${(line.seconds ?? 0).toFixed(2).padStart(7)} s`}`);
      } else {
        spoilt ||= line.lost ?? false;
        fails(line, line.failure, line.lost ?? false);
      }
    }
    await Promise.race([child.exited, Bun.sleep(5000)]);
    clearInterval(watch);
    killGroup(child.pid);
    ends.forget();
    const said = (await errors).trim();
    appendFileSync(log, `${said}\n`);
    if (running === null && (child.exitCode === 0 || (child.exitCode === 1 && ran))) break;
    // The context was lost with an op that is already reported: go on with the next.
    if (running === null && child.exitCode === 3) continue;
    if (running === null && !timedOut) {
      const how = hung ? `printed nothing for ${allowed} s` : `ended with ${child.exitCode ?? child.signalCode}`;
      failures.push(`before an op, the process ${how}: ${reasonOf(said)}`);
      print(`FAILED ${failures.at(-1)}`);
      break;
    }
    if (running === null) break;
    from = running.index + 1;
    spoilt = true;
    if (hung) options.hungBefore.add(opOf(running));
    const how = child.exitCode ?? child.signalCode;
    const why = hung
      ? `did not end within ${allowed} s`
      : timedOut
        ? "was still running when the stage reached its limit"
        : `the process ended with ${how}: ${reasonOf(said)}`;
    fails(running, why, !timedOut && !hung);
  }
  const taken = seconds();
  // If an op fails in many processes, a few tell as much as all; timing is skipped, which would take memcheck minutes.
  for (const index of options.memcheck ? lostWith.slice(0, MOST_REPEATED) : []) {
    const told = `${log}.memcheck-${index}`;
    const command = [...options.memcheck!, ...commandOf({ from: index, count: 1, timed: false })];
    await runBounded({ command, cwd, env, seconds: 60, log: told });
    for (const text of memcheckFindings(await Bun.file(told).text())) print(text);
    print(`  full output of memcheck: ${told}`);
  }
  return { passed, failures, seconds: taken, timedOut, spoilt };
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<OpLine> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const piece of stream) {
    const lines = (rest + decoder.decode(piece, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    // A library may print in between.
    for (const line of lines) if (line.startsWith('{"index":')) yield JSON.parse(line) as OpLine;
  }
}

/** "ropeForward" from "ropeForward T=133 … bfloat16". */
const opOf = ({ name }: OpLine) => name.split(" ")[0]!;

/** The line of an error's text that names it. */
function reasonOf(text: string): string {
  const lines = text.split("\n");
  return lines.find((line) => /error: |panic/.test(line)) ?? lines.at(-1)!;
}

/** The first lines of memcheck's findings. */
export function memcheckFindings(text: string): string[] {
  const found = text.split("\n").filter((line) => /^={9} (?!COMPUTE|Target|\s*$)/.test(line));
  return found.slice(0, 6).map((line) => `  memcheck: ${line}`);
}

/** For a shell. */
export function quoted(word: string): string {
  return /^[\w./:=-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
