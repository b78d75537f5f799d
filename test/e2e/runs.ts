/**
 * Tiny runs of the commands: in this process if only the result matters, in a separate one if the process does. The bundled
 * model with a reward based on token ids, so that there is something to learn at any skill.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Subprocess } from "bun";
import { updateWith } from "../../src/api/update.ts";
import { runTrain, type TrainRun } from "../../src/cli/train.ts";
import { configFor } from "../../src/config/load.ts";
import { commandSections } from "../../src/config/schema.ts";
import type { RunConsole } from "../../src/metrics/console.ts";
import type { MetricsRecord } from "../../src/metrics/metrics-file.ts";

export const root = resolve(import.meta.dir, "../..");
export const bundledModel = join(root, "data/model");
export const problems = join(root, "data/problems/eval.arrow");
export const reward = (name: string) => join(import.meta.dir, "rewards", `${name}.ts`);

export type Flags = Readonly<Record<string, string | number | boolean>>;

export function argvOf(flags: Flags): string[] {
  return Object.entries(flags).flatMap(([key, value]) => [`--${key}`, String(value)]);
}

/** 2 prompts × 4 completions of at most 16 tokens, with a reference model: about a tenth of a second per step. */
export const tinyTraining: Flags = {
  device: "cpu",
  model: bundledModel,
  dataset: problems,
  reward_funcs: reward("by_tokens"),
  per_device_train_batch_size: 8,
  num_generations: 4,
  max_completion_length: 16,
  // Completions differ within a group even if the model is confident.
  temperature: 1.5,
  learning_rate: 1e-3,
  max_steps: 5,
  save_steps: 0,
};

/** A temporary folder, and paths of folders in it. */
export function workFolder(): { readonly path: string; at(name: string): string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), "bun-grpo-e2e-"));
  return { path, at: (name) => join(path, name), remove: () => rmSync(path, { recursive: true, force: true }) };
}

/** A console that records its output. */
export function quietConsole(
  events: { onStep?: (record: MetricsRecord) => void; onProgress?: (phase: string, step: number) => void } = {},
) {
  const notes: string[] = [];
  const steps: MetricsRecord[] = [];
  const console: RunConsole = {
    progress: ({ phase, step }) => events.onProgress?.(phase, step),
    step(record) {
      steps.push(record);
      events.onStep?.(record);
    },
    completions() {},
    evaluation() {},
    note: (text) => void notes.push(text),
    close() {},
  };
  return { console, notes, steps };
}

/** `grpo train` in this process, with the tiny settings overridden by `flags`. @throws whatever the command throws */
export async function train(
  outputDir: string,
  flags: Flags = {},
  options: {
    /** Ctrl-C as soon as this step is logged; 0: from the start. */
    readonly stopAfter?: number;
    /** Ctrl-C in this phase of this step. */
    readonly stopDuring?: { readonly phase: string; readonly step: number };
    readonly onProgress?: (phase: string) => void;
    readonly reviseRewards?: TrainRun["reviseRewards"];
  } = {},
) {
  let stop = options.stopAfter === 0;
  const { console, notes, steps } = quietConsole({
    onProgress(phase, step) {
      if (options.stopDuring?.phase === phase && options.stopDuring.step === step) stop = true;
      options.onProgress?.(phase);
    },
    onStep({ step }) {
      if (options.stopAfter !== undefined && step >= options.stopAfter) stop = true;
    },
  });
  const code = await runTrain({
    argv: argvOf({ ...tinyTraining, output_dir: outputDir, ...flags }),
    console,
    stopRequested: () => stop,
    ...(options.reviseRewards ? { reviseRewards: options.reviseRewards } : {}),
  });
  return { code, notes, steps };
}

/** `grpo update` in this process. @throws whatever the command throws */
export function update(flags: Flags, { console }: { readonly console: RunConsole } = quietConsole()) {
  const argv = argvOf({ device: "cpu", ...flags });
  return updateWith((options) => configFor("update", argv, options), { console, stopRequested: () => false });
}

export interface Finished {
  readonly code: number | null;
  readonly signal: number | string | null;
  readonly out: string;
  readonly err: string;
}

export interface Running {
  readonly process: Subprocess;
  readonly finished: Promise<Finished>;
}

/** On the CPU unless another device is named: the same on a machine with a GPU, and without a line about having none. */
function onCpu(argv: readonly string[]): string[] {
  const [command = "", ...rest] = argv;
  const takesDevice = Object.hasOwn(commandSections, command) && !rest.includes("--device");
  return takesDevice ? [command, "--device", "cpu", ...rest] : [...argv];
}

/** `grpo …` in a separate process; killed after `seconds`. */
export function start(
  argv: readonly string[],
  options: { readonly env?: Record<string, string>; readonly seconds?: number; readonly shell?: string } = {},
): Running {
  const command = [process.execPath, join(root, "src/cli/main.ts"), ...onCpu(argv)];
  const child = Bun.spawn(
    options.shell ? ["/bin/sh", "-c", `${options.shell}; exec "$@"`, "sh", ...command] : command,
    {
      cwd: root,
      env: { ...process.env, NO_COLOR: "1", ...options.env },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    },
  );
  const timer = setTimeout(() => child.kill("SIGKILL"), (options.seconds ?? 60) * 1000);
  const finish = async (): Promise<Finished> => {
    const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    await child.exited;
    clearTimeout(timer);
    return { code: child.exitCode, signal: child.signalCode, out, err };
  };
  return { process: child, finished: finish() };
}

export function grpo(argv: readonly string[], options: Parameters<typeof start>[1] = {}): Promise<Finished> {
  return start(argv, options).finished;
}

/** Waits for something to become true. @throws after half a minute */
export async function until(what: string, isTrue: () => boolean): Promise<void> {
  const deadline = performance.now() + 30_000;
  while (!isTrue()) {
    if (performance.now() > deadline) throw new Error(`waited in vain: ${what}`);
    await Bun.sleep(2);
  }
}

/** The lines of metrics.jsonl; none if there is no file yet. */
export function metricsOf(outputDir: string): MetricsRecord[] {
  const path = join(outputDir, "metrics.jsonl");
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, "utf8").split("\n").slice(0, -1);
  return lines.map((line) => JSON.parse(line) as MetricsRecord);
}

/** Metrics that depend on the machine's speed. */
export const timed = /^time\/|step_time$|tokens_per_second$|^mfu$|^memory_peak_bytes$/;

/** Metrics without those that depend on the machine's speed. */
export function untimed(records: readonly MetricsRecord[]): Record<string, unknown>[] {
  return records.map((record) => Object.fromEntries(Object.entries(record).filter(([name]) => !timed.test(name))));
}

/** A hash of a file's contents. */
export function fingerprint(...path: readonly string[]): string {
  return Bun.hash(readFileSync(join(...path))).toString(16);
}

/** Every file below a folder with a hash of its contents. */
export function fingerprints(folder: string): Record<string, string> {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const paths = files.map((entry) => join(entry.parentPath, entry.name)).sort();
  return Object.fromEntries(paths.map((path) => [path.slice(folder.length + 1), fingerprint(path)]));
}

/** Every file of a run whose bytes must not depend on time, nor (run.json) on the form of the command. */
export function outcome(folder: string) {
  const files = Object.entries(fingerprints(folder)).filter(([name]) => !/metrics|trainer_state|^run\.json/.test(name));
  return { files: Object.fromEntries(files), metrics: untimed(metricsOf(folder)) };
}
