/**
 * Simulates a crash at every file operation of a sequence. Runs as a separate program, since it replaces functions of node:fs
 * before anything else is imported: each counts the operations that change a disk, and from the chosen one on all of them fail,
 * those of error handling too, as nothing runs after a kill either. Removing a folder counts one operation per file in it. Then
 * the same with a disk that becomes full at some write, where error handling continues. Prints each failure as a line.
 */
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const require = createRequire(import.meta.url);
const fs = require("node:fs") as typeof import("node:fs");
const promises = require("node:fs/promises") as typeof import("node:fs/promises");
const real = { ...fs };
const realOpen = promises.open;

class Crash extends Error {}
let left = Infinity;
let count = 0;
const descriptors = new Set<number>();

let mode: "killed" | "full" = "killed";

/** Counts one operation. @throws Crash instead of the operation once none are left; on a full disk, the error of a write there */
function operation(writes = true): void {
  if (mode === "full" && !writes) return;
  if (left <= 0)
    throw mode === "killed"
      ? new Crash("killed")
      : Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC", syscall: "write" });
  left--;
  count++;
}

type Any = (...args: never[]) => unknown;
const patch = (name: string, by: (own: (...args: unknown[]) => unknown) => (...args: unknown[]) => unknown): void => {
  const own = (real as unknown as Record<string, Any>)[name] as (...args: unknown[]) => unknown;
  (fs as unknown as Record<string, unknown>)[name] = by(own);
};
for (const name of ["mkdirSync", "writeFileSync", "renameSync", "rmdirSync", "ftruncateSync"])
  patch(name, (own) => (...args) => {
    operation(name === "mkdirSync" || name === "writeFileSync");
    return own(...args);
  });
patch("writeSync", (own) => (fd, data, ...rest) => {
  // Half of it is written before the crash.
  if (left <= 0 && count > 0 && typeof data !== "string") own(fd, data, 0, Math.floor((data as Uint8Array).length / 2));
  operation();
  return own(fd, data, ...rest);
});
patch("openSync", (own) => (path, flags, ...rest) => {
  if (flags !== "r") operation();
  const fd = own(path, flags, ...rest) as number;
  descriptors.add(fd);
  return fd;
});
patch("closeSync", (own) => (fd) => {
  descriptors.delete(fd as number);
  return own(fd);
});
patch("fsyncSync", () => () => {}); // Slow, and irrelevant for a killed process.
const remove = (path: string): void => {
  const found = real.lstatSync(path, { throwIfNoEntry: false });
  if (found?.isDirectory()) for (const name of real.readdirSync(path).sort()) remove(join(path, name));
  if (found === undefined) return;
  operation(false);
  real.rmSync(path, { recursive: true });
};
patch("rmSync", () => (path) => remove(path as string));
promises.open = (async (path: string, flags: string) => {
  if (flags !== "r") operation();
  const file = await realOpen(path, flags);
  const { write } = file;
  file.write = (async (data: Uint8Array, ...rest: number[]) => {
    operation();
    return await (write as Any).call(file, ...([data, ...rest] as never[]));
  }) as typeof file.write;
  file.sync = async () => {};
  return file;
}) as typeof promises.open;

const { bytesAt } = await import("../../ffi/bindings/libc.ts");
const { writeFolderAtomic } = await import("../../src/files/atomic.ts");
const { dropEarlier } = await import("../../src/checkpoint/earlier.ts");
const { openOutputFolder } = await import("../../src/checkpoint/output-folder.ts");
const { openCheckpoint } = await import("../../src/checkpoint/checkpoint.ts");
const { writeSafetensors, writeWeights } = await import("../../src/checkpoint/safetensors-write.ts");
const { latestCheckpoint, listCheckpoints, writeTrainerState } = await import("../../src/checkpoint/state.ts");
const { writeTogether } = await import("../../src/checkpoint/together.ts");
const { InputError } = await import("../../src/errors.ts");
const { createMetricsWriter } = await import("../../src/metrics/metrics-file.ts");
const { removeCompletionsAfter, writeCompletions } = await import("../../src/metrics/completions-file.ts");

/** Every tensor of a run's model holds its mark, so that a mixture of two runs' files shows. */
const tensors = (mark: number) =>
  ["a", "b", "c"].map((name) => ({
    ...{ name, dtype: "U8" as const, shape: [64] },
    chunks: () => [new Uint8Array(64).fill(mark)],
  }));

async function saveModel(folder: string, mark: number, shards: boolean): Promise<void> {
  await writeTogether(folder, async (temporary) => {
    await writeWeights(temporary, tensors(mark), { maxShardBytes: shards ? 64 : 1000 });
    fs.writeFileSync(join(temporary, "config.json"), JSON.stringify({ mark }));
  });
  dropEarlier(folder);
}

async function saveCheckpoint(folder: string, step: number, mark: number): Promise<void> {
  await writeFolderAtomic(join(folder, `checkpoint-${step}`), async (temporary) => {
    await writeWeights(temporary, tensors(mark));
    await writeSafetensors(join(temporary, "optimizer.safetensors"), tensors(mark));
    writeTrainerState(temporary, { step, mark });
  });
  dropEarlier(folder);
}

interface Run {
  readonly mark: number;
  readonly steps: number;
  readonly saveEvery: number;
  readonly resume?: number;
  readonly overwrite?: boolean;
  readonly shards?: boolean;
}

/** A training run as the commands and the trainer do it, without the training. */
async function run(folder: string, { mark, steps, saveEvery, resume, overwrite = false, shards = false }: Run) {
  const output = openOutputFolder({ folder, command: "train", note: () => {} });
  try {
    output.permit({
      ...{ overwrite, resumes: true, inputs: {} },
      resume: resume === undefined ? null : { folder: join(folder, `checkpoint-${resume}`), step: resume },
    });
    output.begin({ command: "train", bundled: false, settings: { mark } });
    const first = resume ?? 0;
    const metrics = createMetricsWriter(folder, resume === undefined ? {} : { resumeStep: first });
    removeCompletionsAfter(folder, first);
    try {
      for (let step = first + 1; step <= steps; step++) {
        metrics.write({ step, mark });
        await writeCompletions(folder, step, [`{"mark":${mark}}`]);
        if (step % saveEvery === 0) await saveCheckpoint(folder, step, mark);
      }
    } finally {
      metrics.close();
    }
    await saveModel(folder, mark, shards);
  } finally {
    output.release();
  }
}

const bytesOf = ({ address, byteLength }: { readonly address: number; readonly byteLength: number }): number[] => [
  ...new Uint8Array(bytesAt(address, byteLength)),
];

const json = (path: string): Record<string, unknown> => JSON.parse(real.readFileSync(path, "utf8"));

/** The mark of a model: −1 if there is none. @throws if tensors of two runs are mixed, or one is missing */
function markOf(folder: string): number {
  const names = real.readdirSync(folder);
  if (!names.some((name) => /^model.*safetensors/.test(name))) return -1;
  const model = openCheckpoint(folder);
  try {
    const marks = new Set(["a", "b", "c"].flatMap((name) => bytesOf(model.get(name))));
    if (marks.size !== 1) throw new Error(`${folder}: tensors of ${[...marks].join(" and ")}`);
    return [...marks][0]!;
  } finally {
    model.close();
  }
}

/** Other programs may read a folder before it is repaired: they may find no model there, but not parts of two. */
function requireUnmixed(folder: string): void {
  try {
    markOf(folder);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
  }
}

/** The complete contents of a folder, as the next start finds them. @throws if something is incomplete */
function whole(folder: string) {
  const output = openOutputFolder({ folder, command: "train", note: () => {} });
  output.release();
  const checkpoints = listCheckpoints(folder).map(({ step, folder: path }) => {
    const { mark } = json(join(path, "trainer_state.json"));
    if (markOf(path) !== mark) throw new Error(`${path}: state of ${mark}, weights of ${markOf(path)}`);
    return { step, mark };
  });
  const text = real.existsSync(join(folder, "metrics.jsonl"))
    ? real.readFileSync(join(folder, "metrics.jsonl"), "utf8")
    : "";
  const lines = text
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line) as { step: number; mark: number });
  const completions = real.existsSync(join(folder, "completions"))
    ? real.readdirSync(join(folder, "completions")).filter((name) => name.endsWith(".jsonl"))
    : [];
  const newest = checkpoints.at(-1)?.step ?? 0;
  if (checkpoints.length > 0 && latestCheckpoint(folder) === null) throw new Error("no complete checkpoint");
  for (let step = 1; step <= newest; step++) {
    if (lines[step - 1]?.step !== step) throw new Error(`metrics lack step ${step} of checkpoint ${newest}`);
    if (!completions.includes(`step-${String(step).padStart(6, "0")}.jsonl`)) throw new Error(`no rollouts of ${step}`);
  }
  const stray = real.readdirSync(folder).filter((name) => /^\.(?!unfinished$)|tmp|old/.test(name));
  if (stray.filter((name) => !/\.tmp$|^\..*\.tmp-/.test(name)).length > 0) throw new Error(`left: ${stray.join()}`);
  // Files that a run resumed from an earlier step has set aside.
  const putBy = real
    .readdirSync(folder)
    .filter((name) => name.startsWith("after-step-"))
    .map((name) => {
      const place = join(folder, name);
      const steps = listCheckpoints(place).map(({ folder: path }) => markOf(path));
      return { steps, model: markOf(place), lines: real.readFileSync(join(place, "metrics.jsonl"), "utf8") };
    });
  return { checkpoints, model: markOf(folder), lines, putBy };
}
type Whole = ReturnType<typeof whole>;

interface Scenario {
  readonly name: string;
  readonly before: (folder: string) => Promise<void>;
  readonly act: (folder: string) => Promise<void>;
  /** Whether the state is one of the allowed ones. */
  readonly allows: (now: Whole, before: Whole) => boolean;
}

const equal = (a: unknown, b: unknown): boolean => Bun.deepEquals(a, b);
const old: Run = { mark: 1, steps: 2, saveEvery: 1, shards: true };
const scenarios: readonly Scenario[] = [
  {
    name: "a new run over an earlier one",
    before: (folder) => run(folder, old),
    act: (folder) => run(folder, { mark: 2, steps: 2, saveEvery: 1, overwrite: true }),
    allows: (now, before) =>
      equal(now, before) ||
      (now.lines.every(({ mark }) => mark === 2) && now.checkpoints[0]?.mark === 2 && now.model !== 1),
  },
  {
    name: "a new run over another model",
    before: (folder) => saveModel(folder, 1, true),
    act: (folder) => run(folder, { mark: 2, steps: 1, saveEvery: 5, overwrite: true }),
    allows: (now, before) => equal(now, before) || (now.model === 2 && now.lines.length === 1),
  },
  {
    name: "resuming from an earlier step",
    before: (folder) => run(folder, { ...old, steps: 3 }),
    act: (folder) => run(folder, { mark: 2, steps: 3, saveEvery: 1, resume: 1 }),
    allows: (now, before) => {
      const marks = now.checkpoints.map(({ mark }) => mark).join("");
      return (
        equal(now, before) ||
        (/^12+$/.test(marks) &&
          equal(now.putBy, [
            { steps: [1, 1], model: 1, lines: before.lines.map((line) => `${JSON.stringify(line)}\n`).join("") },
          ]) &&
          now.lines
            .slice(0, marks.length)
            .map((l) => l.mark)
            .join("") === marks)
      );
    },
  },
  {
    name: "resuming from the newest step over a finished model",
    before: (folder) => run(folder, old),
    act: (folder) => run(folder, { mark: 2, steps: 3, saveEvery: 1, resume: 2, shards: true }),
    allows: (now) => /^112?$/.test(now.checkpoints.map(({ mark }) => mark).join("")) && now.model > 0,
  },
  {
    name: "a checkpoint over one of the same step",
    before: (folder) => run(folder, old),
    act: (folder) => saveCheckpoint(folder, 2, 2),
    allows: (now) => now.checkpoints.length === 2 && now.model === 1,
  },
  ...[true, false].map(
    (shards): Scenario => ({
      name: `a model over ${shards ? "one file" : "shards"}`,
      before: (folder) => saveModel(folder, 1, !shards),
      act: (folder) => saveModel(folder, 2, shards),
      allows: (now) => now.model === 1 || now.model === 2,
    }),
  ),
];

// In memory if possible: the test is of the order of operations.
const place = real.existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
const root = real.mkdtempSync(join(place, "crash-points-"));
let points = 0;
for (const { name, before, act, allows } of scenarios) {
  const template = join(root, "template");
  [mode, left] = ["killed", Infinity];
  await before(template);
  const first = whole(template);
  for (mode of ["killed", "full"] as const) {
    // With a full disk error handling still works, so fewer points suffice.
    for (let kill = 0, isWhole = false; !isWhole; kill += mode === "killed" ? 1 : 4) {
      const folder = join(root, "now");
      real.cpSync(template, folder, { recursive: true });
      [left, count] = [kill, 0];
      const where = `${name}, ${mode} at operation ${kill}`;
      try {
        await act(folder);
        isWhole = true;
      } catch (error) {
        // A crash shows as no operations left; a full disk is reported as one.
        if (left > 0) throw error;
        if (mode === "full" && !/the disk is full/.test(String(error))) console.log(`${where}: ${error}`);
      }
      left = Infinity;
      if (mode === "killed") for (const fd of descriptors) real.closeSync(fd);
      else if (descriptors.size > 0) console.log(`${where}: ${descriptors.size} files are left open`);
      descriptors.clear();
      process.removeAllListeners("exit");
      points++;
      try {
        requireUnmixed(folder);
        const now = whole(folder);
        if (!allows(now, first)) console.log(`${where}: ${JSON.stringify(now)}`);
      } catch (error) {
        console.log(`${where}: ${error instanceof Error ? error.message : error}`);
      }
      real.rmSync(folder, { recursive: true });
    }
  }
  real.rmSync(template, { recursive: true });
}
real.rmSync(root, { recursive: true });
console.log(`${points} points`);
