/**
 * `grpo check:gpu`: everything that the emulated driver proves, on this machine's own GPU with NVIDIA's libraries, and what
 * only hardware can tell: sanitizers, real sizes, speed. It needs no network, no compiler and no Node. A stage that fails or
 * hangs is told and the others go on; the last lines are the table of stages, and how many passed and failed.
 *
 *   check:gpu                    all of it, about a quarter of an hour on an H100
 *   check:gpu --quick            what tells most, in four minutes there
 *   check:gpu --model ./Qwen3-0.6B   three steps of that model too
 */
import { accessSync, constants, existsSync, mkdirSync, readdirSync, readFileSync, statfsSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { isEmulated } from "../../../bench/cuda-meter.ts";
import { openCudaDevice } from "../../../src/device/cuda.ts";
import { errorText, InputError } from "../../../src/errors.ts";
import { CONTEXT_LOST } from "../../ops/cuda-workers.ts";
import { runBounded } from "./bounded.ts";
import { memcheckFindings, quoted, runOpStage } from "./op-stage.ts";
import { findSanitizer, type Stage, stages } from "./stages.ts";

const root = resolve(import.meta.dir, "../../..");
const bun = [process.execPath];
/** The executable acts as Bun for what it starts. */
const asBun = { BUN_BE_BUN: "1", NO_COLOR: "1" };
/** Limit of a stage after an op was seen to hang or to lose the context. */
const SPOILT_SECONDS = 45;
/** Lines of a stage's output that are shown. */
const SHOWN = 8;
const MOST_FAILURES = 12;

interface Flags {
  readonly quick: boolean;
  readonly model: string | null;
  readonly logs: string;
  /** Stages whose names hold it. */
  readonly only: string | null;
}

/** @throws InputError for a flag that is not known or lacks its value */
function readFlags(argv: readonly string[]): Flags {
  const flags = {
    quick: false,
    model: null as string | null,
    logs: null as string | null,
    only: null as string | null,
  };
  for (let i = 0; i < argv.length; i++) {
    const flag = argv[i]!;
    if (flag === "--quick") flags.quick = true;
    else if (flag === "--model" || flag === "--logs" || flag === "--only") {
      const value = argv[++i];
      if (value === undefined) throw new InputError(`check:gpu: ${flag}: needs a value`);
      flags[flag.slice(2) as "model" | "logs" | "only"] = value;
    } else
      throw new InputError(
        `check:gpu: ${flag}: unknown; there are --quick, --model FOLDER, --logs FOLDER, --only TEXT`,
      );
  }
  if (flags.model !== null && !existsSync(flags.model))
    throw new InputError(`check:gpu: --model ${flags.model}: there is no such folder`);
  const now = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  const logs = resolve(flags.logs ?? join("outputs/check_gpu", now));
  if (existsSync(logs) && readdirSync(logs).length > 0)
    throw new InputError(`check:gpu: --logs ${logs}: holds files already; name another folder`);
  return { ...flags, logs };
}

interface Outcome {
  readonly name: string;
  readonly outcome: string;
  readonly failed: boolean | null;
  readonly seconds: number;
  /** What failed in it, each in a line or two. */
  readonly failures?: readonly string[];
  readonly spoilt?: boolean;
}

const print = (line: string) => void process.stdout.write(`${line}\n`);

/** What the numbers of this machine depend on. */
async function describeMachine(): Promise<void> {
  print(`${cpus().length} × ${cpus()[0]?.model.trim() ?? "processor of unknown name"}, Bun ${Bun.version}`);
  const smi = Bun.which("nvidia-smi");
  if (smi) {
    const fields =
      "name,driver_version,memory.total,memory.free,clocks.sm,clocks.max.sm,compute_mode,persistence_mode,ecc.mode.current,mig.mode.current";
    const { stdout } = Bun.spawnSync([smi, `--query-gpu=${fields}`, "--format=csv"], {
      stderr: "ignore",
      timeout: 20_000,
    });
    for (const line of stdout.toString().trim().split("\n")) print(line);
  } else print("nvidia-smi is not on PATH");
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

/** The failures that `bun test` told of, each once, with its reason. */
function testFailures(text: string): Map<string, string> {
  const lines = text.split("\n");
  const failures = new Map<string, string>();
  for (const [i, line] of lines.entries()) {
    const [, name = null] = /^\(fail\) (.*?)( \[[\d.]+m?s\])?$/.exec(line) ?? [];
    if (name === null || failures.has(name)) continue;
    const before = lines.slice(0, i);
    const from = Math.max(
      0,
      before.findLastIndex((other) => /^\((pass|fail|skip)\) /.test(other)),
    );
    failures.set(name, before.slice(from).find((other) => /^error: /.test(other)) ?? "error: no reason was printed");
  }
  return failures;
}

/** Cases that are run again under memcheck: each takes seconds, and the first tell most. */
const MOST_REPEATED = 3;

/** What a stage of tests failed with: how each runs alone, and for a lost context what memcheck says of it. */
async function explainTests(
  stage: Stage,
  text: string,
  env: Readonly<Record<string, string | undefined>>,
  log: string,
  sanitizer: string | null,
): Promise<string[]> {
  const told: string[] = [];
  let repeated = 0;
  for (const [name, reason] of testFailures(text)) {
    const lines = [`${name}: ${reason}`];
    const alone = stage.alone?.(name);
    if (alone) lines.push(`  alone: ${commandText(alone.env, [...bun, ...alone.command])}`);
    if (alone && sanitizer && reason.includes(CONTEXT_LOST) && repeated < MOST_REPEATED) {
      repeated++;
      const memcheck = `${log}.memcheck-${repeated}`;
      const watched = [sanitizer, "--tool", "memcheck", "--target-processes", "all", ...bun, ...alone.command];
      await runBounded({ command: watched, cwd: root, env: { ...env, ...alone.env }, seconds: 60, log: memcheck });
      lines.push(...memcheckFindings(readFileSync(memcheck, "utf8")), `  memcheck's whole text: ${memcheck}`);
    }
    told.push(lines.join("\n"));
  }
  return told;
}

function commandText(env: Readonly<Record<string, string>>, command: readonly string[]): string {
  return [...Object.entries(env).map(([key, value]) => `${key}=${quoted(value)}`), ...command.map(quoted)].join(" ");
}

async function runStage(stage: Stage, limit: number, logs: string, sanitizer: string | null): Promise<Outcome> {
  const { name } = stage;
  const log = logNamed(logs, name);
  const env = { ...process.env, ...asBun, ...stage.env };
  if (stage.ops && !stage.tool) {
    const failures: string[] = [];
    let [passed, seconds, timedOut, spoilt] = [0, 0, false, false];
    for (const [i, task] of stage.ops.entries()) {
      print(`-- ${task.set}, ${task.dtype ?? "both formats"}`);
      const options = {
        task,
        bun,
        root,
        env,
        opSeconds: stage.opSeconds ?? 20,
        seconds: limit - seconds,
        sanitizer,
        print,
      };
      const result = await runOpStage({ ...options, log: `${log}${i === 0 ? "" : `.${i + 1}`}` });
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
  const watched = ["test/cuda/check/op-child.ts", JSON.stringify({ ...stage.ops?.[0], from: 0 })];
  const command = stage.tool ? [...stage.tool, ...bun, ...watched] : [...bun, ...(stage.command ?? [])];
  const { code, signal, seconds, timedOut } = await runBounded({ command, cwd: root, env, seconds: limit, log });
  const text = readFileSync(log, "utf8");
  const lines = text.trimEnd().split("\n");
  const matching = stage.show ? lines.filter((line) => stage.show!.test(line)) : [];
  for (const line of (matching.length > 0 ? matching : lines).slice(-SHOWN)) print(line.slice(0, 200));
  const failures = await explainTests(stage, text, env, log, sanitizer);
  for (const line of failures.slice(0, MOST_FAILURES)) print(line);
  const ok = code === 0 && !timedOut;
  if (!ok && !timedOut && failures.length === 0) for (const line of lines.slice(-SHOWN)) print(line.slice(0, 200));
  const alone = `alone: ${commandText(stage.env ?? {}, command)}`;
  if (!ok) print(alone);
  const counts = /(\d+) pass\n +(\d+) fail/.exec(text);
  const how = timedOut
    ? `TIMED OUT after ${limit} s`
    : ok
      ? "ok"
      : `FAILED (${code === null ? signal : `exit status ${code}`})`;
  return {
    name,
    outcome: counts ? `${how}, ${counts[1]} passed, ${counts[2]} failed` : how,
    failed: !ok,
    seconds,
    failures: ok ? [] : [...failures, alone],
  };
}

function table(outcomes: readonly Outcome[]): string[] {
  const width = Math.max(...outcomes.map(({ name }) => name.length));
  return outcomes.map(
    ({ name, outcome, seconds }) => `${name.padEnd(width)}  ${`${seconds.toFixed(0)} s`.padStart(6)}  ${outcome}`,
  );
}

export async function main(argv: readonly string[]): Promise<number> {
  const { quick, model, logs, only } = readFlags(argv);
  mkdirSync(logs, { recursive: true });
  await describeMachine();
  let emulated = false;
  let opens = true;
  try {
    const device = await openCudaDevice();
    emulated = isEmulated(device);
    print(`${device.description}, ${((device.freeBytes() ?? 0) / 2 ** 30).toFixed(1)} GiB free`);
    device.close();
  } catch (error) {
    // `doctor` explains it; nothing else can run.
    print(errorText(error));
    opens = false;
  }
  const sanitizer = findSanitizer();
  const work = join(logs, "runs");
  const all = stages({ emulated, sanitizer, work, model: model === null ? null : resolve(model) });
  const outcomes: Outcome[] = [];
  for (const stage of all) {
    if (quick && !stage.quick) continue;
    if (only !== null && !stage.name.includes(only)) continue;
    const missing = stage.missing ?? (opens || stage.name === "doctor" ? null : "the GPU cannot be opened");
    print(`== ${stage.name}`);
    if (missing) {
      print(`left out: ${missing}`);
      outcomes.push({ name: stage.name, outcome: `left out: ${missing}`, failed: null, seconds: 0 });
      continue;
    }
    const usual = emulated ? (stage.emulatedSeconds ?? stage.seconds) : stage.seconds;
    // An op that hangs or loses the context is known: what meets it again shall not take all of the time.
    const spoilt = outcomes.some((outcome) => outcome.spoilt);
    const limit = spoilt && !stage.ops ? Math.min(usual, SPOILT_SECONDS * (emulated ? 3 : 1)) : usual;
    outcomes.push(await runStage(stage, limit, logs, emulated ? null : sanitizer));
  }
  for (const { name, failures = [] } of outcomes) {
    if (failures.length > 0) print(`\nfailures of ${name}:`);
    for (const failure of failures.slice(0, MOST_FAILURES)) print(failure.slice(0, 600));
    if (failures.length > MOST_FAILURES)
      print(`… and ${failures.length - MOST_FAILURES} more in ${logNamed(logs, name)}`);
  }
  print(`\nlogs: ${logs}`);
  for (const line of table(outcomes)) print(line);
  const count = (which: boolean) => outcomes.filter(({ failed }) => failed === which).length;
  const failed = count(true) + (opens ? 0 : 1);
  print(`${count(false)} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
}

if (import.meta.main) {
  try {
    process.exitCode = await main(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`${errorText(error)}\n`);
    process.exitCode = error instanceof InputError ? error.exitCode : 1;
  }
}
