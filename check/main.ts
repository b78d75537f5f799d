/**
 * `grpo check:gpu`: everything that the emulated driver proves, repeated on this machine's own GPU with NVIDIA's libraries,
 * plus what only hardware can show: sanitizers, real sizes, speed. It needs no network, compiler or Node. A stage that fails or
 * hangs is reported and the others continue; the last lines are the table of stages and the counts of passes and failures.
 */
import { accessSync, constants, existsSync, mkdirSync, readdirSync, readFileSync, statfsSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { assetPath } from "../src/assets.ts";
import { errorText, InputError } from "../src/errors.ts";
import { compiled } from "../src/program.ts";
import { runBounded } from "./bounded-process.ts";
import { runOpStage, taskWords } from "./op-stage.ts";
import type { GpuDescription } from "./op-task.ts";
import { findSanitizer, type Stage, sanitizerWords, stages } from "./stages.ts";
import { commandText, explainTests, testCommand, testCounts, testsFolder } from "./tests.ts";

/** Limit of a stage, in seconds, after an op hung or lost the context; an emulated GPU is slower. */
const spoiltSeconds = { real: 45, emulated: 135 } as const;
/** Number of lines to show of a stage's output. */
const SHOWN = 8;
const MOST_FAILURES = 12;

export interface CheckOptions {
  readonly quick: boolean;
  /** Folder of a model to train for three steps as well. */
  readonly model: string | null;
  readonly logs: string | null;
  /** Only stages whose names contain this. */
  readonly only: string | null;
}

/** The folder for logs, created. @throws InputError if it is in use or cannot be created */
function logFolder(given: string | null): string {
  const now = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  const logs = resolve(given ?? join("outputs/check_gpu", now));
  const label = given === null ? logs : `--logs ${given}`;
  try {
    mkdirSync(logs, { recursive: true });
    if (readdirSync(logs).length === 0) return logs;
  } catch (error) {
    throw new InputError(`${label}: cannot be made or read (${errorText(error)}); name another folder with --logs`);
  }
  throw new InputError(`${label}: is not empty; name another folder`);
}

interface Outcome {
  readonly name: string;
  readonly outcome: string;
  /** null: skipped. */
  readonly failed: boolean | null;
  readonly seconds: number;
  /** Its failures, each in a line or two. */
  readonly failures: readonly string[];
  /** An op hung or lost the context. */
  readonly spoilt: boolean;
}

interface Run {
  readonly logs: string;
  readonly sanitizer: string | null;
  /** The command that runs this program. */
  readonly program: readonly string[];
  readonly tests: string | null;
}

const print = (line: string) => void process.stdout.write(`${line}\n`);

/** The parts of the system that this machine's numbers depend on. */
function describeMachine(): void {
  print(`${cpus().length} × ${cpus()[0]?.model.trim() ?? "processor of unknown name"}, Bun ${Bun.version}`);
  const smi = Bun.which("nvidia-smi");
  const fields =
    "name,driver_version,memory.total,memory.free,clocks.sm,clocks.max.sm,compute_mode,persistence_mode,ecc.mode.current,mig.mode.current";
  const told = smi
    ? Bun.spawnSync([smi, `--query-gpu=${fields}`, "--format=csv"], { stderr: "ignore", timeout: 20_000 })
    : null;
  print(told ? told.stdout.toString().trim() : "nvidia-smi is not on PATH");
  for (const folder of [tmpdir(), "/dev/shm"]) {
    try {
      accessSync(folder, constants.W_OK);
      const { bavail, bsize } = statfsSync(folder);
      print(`${folder}: ${((bavail * bsize) / 2 ** 30).toFixed(1)} GiB free`);
    } catch {
      print(`${folder}: cannot be written`);
    }
  }
}

function logNamed(logs: string, name: string): string {
  return join(logs, `${name.replaceAll(/[^\w.-]+/g, "-")}.log`);
}

async function runOps(stage: Stage, limit: number, { logs, sanitizer, program }: Run): Promise<Outcome> {
  const { name, ops = [], opSeconds = 20 } = stage;
  const failures: string[] = [];
  const hungBefore = new Set<string>();
  let [passed, seconds, timedOut, spoilt] = [0, 0, false, false];
  for (const [i, task] of ops.entries()) {
    print(`-- ${task.set}, ${task.dtype ?? "both formats"}`);
    const log = `${logNamed(logs, name)}${i === 0 ? "" : `.${i + 1}`}`;
    const memcheck = sanitizer === null ? null : sanitizerWords(sanitizer, "memcheck");
    const context = { program, cwd: process.cwd(), env: environment(stage), memcheck, print };
    const result = await runOpStage({ task, ...context, hungBefore, opSeconds, seconds: limit - seconds, log });
    passed += result.passed;
    failures.push(...result.failures);
    seconds += result.seconds;
    timedOut ||= result.timedOut;
    spoilt ||= result.spoilt;
    if (timedOut) break;
  }
  const outcome = `${passed} ok, ${failures.length} failed${timedOut ? `; TIMED OUT after ${limit} s` : ""}`;
  return { name, outcome, failed: failures.length > 0 || timedOut || passed === 0, seconds, failures, spoilt };
}

/** Remove the user's own settings that would change a stage. */
function environment(stage: Stage): Record<string, string | undefined> {
  const { BUN_GRPO_TRACE: _, OPS_CASE: __, OPS_PATH: ___, ...rest } = process.env;
  return { ...rest, NO_COLOR: "1", ...stage.env };
}

async function runCommand(stage: Stage, limit: number, { logs, sanitizer, program, tests }: Run): Promise<Outcome> {
  const { name } = stage;
  const log = logNamed(logs, name);
  const asTests = stage.tests ? testCommand(stage.tests, stage.testSeconds ?? 60) : null;
  const watched = stage.tool ? [...stage.tool, ...program, ...taskWords({ ...stage.ops![0]!, from: 0 })] : null;
  const command = asTests?.command ?? watched ?? [...program, ...(stage.command ?? [])];
  const cwd = asTests ? tests! : process.cwd();
  const settings = { ...asTests?.env, ...stage.env };
  const env = { ...environment(stage), ...settings };
  const { code, signal, seconds, timedOut } = await runBounded({ command, cwd, env, seconds: limit, log });
  const text = readFileSync(log, "utf8");
  const lines = text.trimEnd().split("\n");
  const matching = stage.show ? lines.filter((line) => stage.show!.test(line)) : [];
  const shown = matching.length > 0 ? matching : lines;
  for (const line of stage.showFirst ? shown.slice(0, SHOWN) : shown.slice(-SHOWN)) print(line.slice(0, 200));
  const ok = code === (stage.status ?? 0) && !timedOut;
  const failures = stage.tests ? await explainTests(stage, text, { cwd, env, log, sanitizer }) : [];
  if (!ok) failures.push(`alone: ${commandText(settings, command)}`);
  if (!ok && matching.length > 0) for (const line of lines.slice(-SHOWN)) print(line.slice(0, 200));
  for (const line of failures.slice(0, MOST_FAILURES)) print(line);
  const how = timedOut ? `TIMED OUT after ${limit} s` : ok ? "ok" : `FAILED (${signal ?? `exit status ${code}`})`;
  const counts = stage.tests ? testCounts(text) : null;
  return { name, outcome: counts ? `${how}, ${counts}` : how, failed: !ok, seconds, failures, spoilt: false };
}

/** @throws InputError if no GPU can be opened, after printing what `doctor` says about it */
async function describeGpu({ program, logs }: Pick<Run, "program" | "logs">): Promise<{ readonly emulated: boolean }> {
  const log = join(logs, "gpu.log");
  // In a process with a limit: a stuck driver does not answer.
  const call = (words: readonly string[]) =>
    runBounded({ command: [...program, ...words], cwd: process.cwd(), env: process.env, seconds: 60, log });
  const { code, timedOut } = await call(taskWords({ set: "small, heads of 64", from: 0, describe: true }));
  const said = readFileSync(log, "utf8").trim();
  if (code === 0) {
    const { text, emulated } = JSON.parse(said.split("\n").at(-1)!) as GpuDescription;
    print(text);
    return { emulated };
  }
  print("== doctor");
  await call(["doctor"]);
  print(readFileSync(log, "utf8").trimEnd());
  const why = timedOut ? "it does not answer within 60 s" : said.replace(/^error: /, "");
  throw new InputError(`no GPU can be opened: ${why}`);
}

/** @returns the exit status: 0 if every stage passed. @throws InputError for a bad setting, or if there is no GPU */
export async function checkGpu({ quick, model, only, ...given }: CheckOptions): Promise<number> {
  if (model !== null && !existsSync(model)) throw new InputError(`--model ${model}: no such folder`);
  const logs = logFolder(given.logs);
  const program = compiled ? [process.execPath] : [process.execPath, assetPath("src/cli/main.ts")];
  describeMachine();
  const { emulated } = await describeGpu({ program, logs });
  const sanitizer = emulated ? null : findSanitizer();
  const run: Run = { logs, sanitizer, program, tests: testsFolder() };
  const all = stages({ emulated, sanitizer, work: join(logs, "runs"), model: model && resolve(model) });
  const chosen = all.filter((stage) => (!quick || stage.quick) && (only === null || stage.name.includes(only)));
  if (chosen.length === 0)
    throw new InputError(`--only ${only}: matches no stage; choose from ${all.map(({ name }) => name).join("; ")}`);
  const outcomes: Outcome[] = [];
  for (const stage of chosen) {
    const { name } = stage;
    print(`== ${name}`);
    const noTests = "its files are not beside the executable: unpack a pack (bun run pack), or run it in a checkout";
    const missing = stage.missing ?? (stage.tests && run.tests === null ? noTests : null);
    if (missing) {
      print(`left out: ${missing}`);
      outcomes.push({ name, outcome: `left out: ${missing}`, failed: null, seconds: 0, failures: [], spoilt: false });
      continue;
    }
    const usual = emulated ? (stage.emulatedSeconds ?? stage.seconds) : stage.seconds;
    // An op that hangs or loses the context is known by now: later stages that reach it must not use up all of the time.
    const spoilt = outcomes.some((outcome) => outcome.spoilt) && !stage.ops;
    const limit = spoilt ? Math.min(usual, spoiltSeconds[emulated ? "emulated" : "real"]) : usual;
    const byOps = stage.ops !== undefined && stage.tool === undefined;
    try {
      outcomes.push(await (byOps ? runOps(stage, limit, run) : runCommand(stage, limit, run)));
    } catch (error) {
      // A full disk, or a tool that cannot be started: only this stage fails.
      const failures = [errorText(error)];
      print(`FAILED ${failures[0]}`);
      outcomes.push({ name, outcome: "FAILED before it ran", failed: true, seconds: 0, failures, spoilt: false });
    }
  }
  for (const { name, failures } of outcomes.filter(({ failed }) => failed)) {
    print(`\nfailures of ${name}:`);
    for (const failure of failures.slice(0, MOST_FAILURES)) print(failure.slice(0, 600));
    if (failures.length > MOST_FAILURES) print(`… and ${failures.length - MOST_FAILURES} more, in ${logs}`);
  }
  print(`\nlogs: ${logs}`);
  const width = Math.max(...outcomes.map(({ name }) => name.length));
  for (const { name, outcome, seconds } of outcomes)
    print(`${name.padEnd(width)}  ${`${seconds.toFixed(0)} s`.padStart(6)}  ${outcome}`);
  const count = (which: boolean) => outcomes.filter(({ failed }) => failed === which).length;
  print(`${count(false)} passed, ${count(true)} failed`);
  return count(true) === 0 ? 0 : 1;
}
