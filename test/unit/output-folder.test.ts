/** Output folders: their contents, refusals, one writer at a time, crashes, and which process a file belongs to. */
import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { hostname, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { dropEarlier } from "../../src/checkpoint/earlier.ts";
import { describeHeld, heldIn } from "../../src/checkpoint/held.ts";
import { lockFolder, lockName } from "../../src/checkpoint/lock.ts";
import { openOutputFolder, type Permission, requireFreeFile } from "../../src/checkpoint/output-folder.ts";
import { writeSafetensors } from "../../src/checkpoint/safetensors-write.ts";
import { launchersOf, type ProcessView, wasIgnored } from "../../src/cli/parent.ts";
import { InputError } from "../../src/errors.ts";
import { isLeft, startOf, temporaryBeside, temporarySuffix } from "../../src/files/temporary.ts";
import { createUnscoredGuard } from "../../src/grpo/unscored.ts";
import type { RewardResult } from "../../src/rewards/pool/pool.ts";

const root = mkdtempSync(join(tmpdir(), "output-folder-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(root, "case-"));
});

/** Files by their paths with their contents; a path that ends in a slash is a folder. */
function put(files: Readonly<Record<string, string>>, into = folder): string {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(name.endsWith("/") ? join(into, name) : dirname(join(into, name)), { recursive: true });
    if (!name.endsWith("/")) writeFileSync(join(into, name), text);
  }
  return into;
}

const run = { "checkpoint-2/trainer_state.json": "{}", "checkpoint-4/": "", "metrics.jsonl": '{"step":4,"loss":1}\n' };

describe("contents of a folder", () => {
  test.each<[what: string, files: Record<string, string>]>([
    ["a run (step 4, 2 checkpoints)", run],
    ["a run (step 4, 2 checkpoints, its model)", { ...run, "config.json": "{}", "model.safetensors": "x" }],
    ["a run (step 7, no checkpoint)", { "metrics.jsonl": '{"step":6}\n{"step":7,"a":"b"}\n{"step":8,"a' }],
    ["a run (no checkpoint)", { "completions/step-000001.jsonl": "x" }],
    ["a run (no checkpoint, its model)", { "trainer_state.json": "{}", "optimizer.pt": "x", "model.safetensors": "x" }],
    ["an evaluation (answers.jsonl)", { "answers.jsonl": "", "results.json": "{}" }],
    ["a model (model.safetensors)", { "config.json": "{}", "tokenizer.json": "{}", "model.safetensors": "x" }],
    ["a model (model-00001-of-00002.safetensors)", { "model-00001-of-00002.safetensors": "x" }],
    ["a model (pytorch_model.bin)", { "config.json": "{}", "pytorch_model.bin": "x" }],
    ["a model (adapter_model.safetensors)", { "adapter_config.json": "{}", "adapter_model.safetensors": "x" }],
    ["a model (weights.gguf)", { "weights.gguf": "x" }],
    ["a model (tokenizer.json)", { "tokenizer.json": "{}" }],
    ["a run.json that no run wrote", { "run.json": '{"scripts":{}}', "metrics.jsonl": "" }],
  ])("%s", (what, files) => expect(describeHeld(heldIn(put(files))!)).toBe(what));

  test("nobody's: notes, a dataset, a run that ended before its first step, hidden files, no folder", () => {
    put({
      "notes.txt": "",
      "train.arrow": "x",
      "run.json": '{"command":"train","settings":{}}',
      "metrics.jsonl": "",
      "completions/": "",
      ".cache/x": "",
    });
    expect(heldIn(folder)).toBeNull();
    expect(heldIn(join(folder, "nowhere"))).toBeNull();
    expect(heldIn(join(folder, "notes.txt"))).toBeNull();
  });
});

const open = (into = folder) => openOutputFolder({ folder: into, command: "train", note: () => {} });

/** @throws the refusal of the permission */
function permit(permission: Partial<Permission>, into = folder): void {
  const output = open(into);
  try {
    output.permit({ overwrite: false, resumes: true, inputs: {}, ...permission });
  } finally {
    output.release();
  }
}

describe("a folder that holds something", () => {
  test("is refused if something other than a file is in the place of a run's file", () => {
    for (const name of ["metrics.jsonl", "run.json"]) {
      put({ [`${name}/x`]: "" });
      expect(() => permit({})).toThrow(
        new InputError(`${join(folder, name)}: is a folder, not a file; move it away, or choose another --output_dir`),
      );
      rmSync(join(folder, name), { recursive: true });
      for (const [target, what] of [
        [name, "ELOOP"],
        ["nothing", "is a broken link"],
        ["/dev/zero", "is a device, not a file"],
      ] as const) {
        symlinkSync(target, join(folder, name));
        for (const wanted of [{}, { overwrite: true }]) expect(() => permit(wanted)).toThrow(what);
        rmSync(join(folder, name));
      }
    }
    expect(readdirSync(folder)).toEqual([]);
  });

  test("is refused with its contents and the cures, and left unchanged; accepted if overwriting or resuming", () => {
    put(run);
    const before = readdirSync(folder, { recursive: true }).sort();
    expect(() => permit({})).toThrow(InputError);
    expect(() => permit({})).toThrow(
      `output_dir ${folder} holds a run (step 4, 2 checkpoints); go on with --resume_from_checkpoint true, name another --output_dir, or replace it with --overwrite`,
    );
    expect(() => permit({ addsOnly: true, resumes: false })).toThrow("write into it anyway with --overwrite");
    expect(() => permit({ resume: { folder: join(root, "elsewhere/checkpoint-1"), step: 1 } })).toThrow("holds a run");
    permit({ overwrite: true });
    permit({ resume: { folder: join(folder, "checkpoint-2"), step: 2 } });
    permit({ mayReplace: () => true });
    expect(readdirSync(folder, { recursive: true }).sort()).toEqual(before);
  });

  test("when asked for the newest checkpoint: logs alone are no reason to refuse, a finished model is", () => {
    put({ "metrics.jsonl": '{"step":1}\n' });
    permit({ newest: true });
    put({ "model.safetensors": "x" });
    expect(() => permit({ newest: true })).toThrow("holds a run (step 1, no checkpoint, its model); name another");
  });

  test("is not replaced if the command reads from it, by any path", () => {
    put({ ...run, "model.safetensors": "x", "data.arrow": "x" });
    const link = join(root, "link");
    symlinkSync(folder, link);
    const linked = mkdtempSync(join(root, "linked-"));
    symlinkSync(join(folder, "model.safetensors"), join(linked, "model.safetensors"));
    for (const path of [folder, link, linked, join(folder, "checkpoint-2"), join(link, "metrics.jsonl")])
      expect(() => permit({ overwrite: true, inputs: { model: path } })).toThrow("must not be replaced");
    // Files that are not replaced may be there, and so may a command that only adds files.
    permit({ overwrite: true, inputs: { dataset: join(folder, "data.arrow"), model: root, ref_model: null } });
    permit({ overwrite: true, addsOnly: true, inputs: { model: folder } });
    rmSync(link);
  });

  test("nor is it by an evaluation, which replaces its own files, not by a path of the configuration", () => {
    put({ "answers.jsonl": "{}", "config.json": "{}" });
    const [dataset, config] = [join(folder, "answers.jsonl"), join(folder, "config.json")];
    expect(() => permit({ overwrite: true, addsOnly: true, inputs: { dataset } })).toThrow("dataset");
    permit({ overwrite: true, addsOnly: true, inputs: { model: config } });
    expect(() => permit({ overwrite: true, inputs: { "the configuration": config } })).toThrow("the configuration");
  });

  const record = { command: "train", bundled: false, settings: {} };

  test("weights that a new run does not replace are refused as a model to write next to", () => {
    put({ "weights.gguf": "x" });
    expect(() => permit({})).toThrow(
      "holds a model (weights.gguf); name another --output_dir, or write beside it with",
    );
  });

  test("files that a new run does not replace stay: notes, a repository, weights of other kinds", () => {
    const others = ["README.md", "notes.txt", "weights.gguf", "data.npz", "tool.bin", ".git/HEAD"];
    put({ ...Object.fromEntries(others.map((name) => [name, "x"])), "config.json": "{}", "run.json": "[]" });
    put({ "pytorch_model-00001-of-00002.bin": "x", "consolidated.safetensors": "x", "model.fp16.safetensors": "x" });
    const notes: string[] = [];
    const output = openOutputFolder({ folder, command: "train", note: (text) => notes.push(text) });
    output.permit({ overwrite: true, resumes: true, inputs: {} });
    output.begin(record);
    expect(notes[0]).toContain("the replaced files (run.json, consolidated.safetensors, model.fp16.safetensors");
    dropEarlier(folder);
    expect(readdirSync(join(folder, ".earlier-run")).length).toBe(6); // Weights that stay do not belong to the new run.
    put({ "model.safetensors": "y" });
    dropEarlier(folder);
    output.release();
    const left = [...others.map((name) => name.replace("/HEAD", "")), "run.json", "model.safetensors"];
    expect(readdirSync(folder).sort()).toEqual(left.sort());
  });

  test("resuming from an earlier step loses nothing written after it, least of all a damaged checkpoint", () => {
    put({ ...run, "model.safetensors": "x", "completions/step-000004.jsonl": "x" });
    const link = join(root, "checkpoint");
    symlinkSync(join(folder, "checkpoint-2"), link);
    for (const path of [join(folder, "checkpoint-2"), link]) {
      const notes: string[] = [];
      const output = openOutputFolder({ folder, command: "train", note: (text) => notes.push(text) });
      output.permit({ overwrite: false, resumes: true, inputs: {}, resume: { folder: path, step: 2 } });
      output.begin(record);
      expect(notes.join()).toMatch(/checkpoint-4.*trainer_state.*moves to .*after-step-2/s);
      put({ "model.safetensors": "y" });
      dropEarlier(folder);
      output.release();
      put({ "checkpoint-4/": "" });
    }
    for (const name of ["after-step-2", "after-step-2-2"]) {
      const kept = readdirSync(join(folder, name)).filter((file) => !file.startsWith("."));
      expect(kept).toEqual(expect.arrayContaining(["checkpoint-4", "metrics.jsonl", "model.safetensors"]));
    }
    expect(readdirSync(join(folder, "after-step-2/completions"))).toEqual(["step-000004.jsonl"]);
    expect(heldIn(folder)?.names.some((name) => name.startsWith("after"))).toBe(false);
  });

  test("a new run that fails before it has saved puts it back, next to what it wrote itself", async () => {
    put(run);
    const output = open();
    output.permit({ overwrite: true, resumes: true, inputs: {} });
    output.begin({ command: "train", bundled: false, settings: {} });
    expect(readdirSync(folder).filter((name) => /^(checkpoint|metrics)/.test(name))).toEqual([]);
    put({ "metrics.jsonl": '{"step":1,"loss":null}\n', "checkpoint-0/trainer_state.json": "{}" });
    await writeSafetensors(join(folder, "checkpoint-0/model.safetensors"), []);
    output.release();
    expect(describeHeld(heldIn(folder)!)).toBe("a run (step 4, 2 checkpoints)");
    expect(readFileSync(join(folder, ".unfinished/metrics.jsonl"), "utf8")).toContain("null");
    // The model that it started from is no reason to discard an earlier run.
    expect(readdirSync(join(folder, ".unfinished/checkpoint-0"))).toHaveLength(2);
  });
});

test("a file is refused if it is not empty, and always if it is read", () => {
  put({ "in.jsonl": "x", "out.jsonl": "x", "empty.jsonl": "" });
  const [input, output] = [join(folder, "in.jsonl"), join(folder, "out.jsonl")];
  expect(() => requireFreeFile(output, false, { input })).toThrow(
    "exists; name another file, or replace it with --overwrite",
  );
  expect(() => requireFreeFile(input, true, { input })).toThrow("is read as input");
  for (const path of [join(folder, "empty.jsonl"), join(folder, "new"), "/dev/null", null])
    requireFreeFile(path, false, {});
  requireFreeFile(output, true, { input });
});

describe("the lock", () => {
  test("names who has it, ends with its holder, and leaves no trace", () => {
    const place = join(folder, "deep/er");
    const lock = lockFolder(place, "grpo train");
    const who = `grpo train (process ${process.pid} on ${hostname()}, since `;
    expect(() => lockFolder(place, "grpo sft")).toThrow(`${place}: ${who}`);
    expect(() => open(place)).toThrow("is writing there");
    lock.release();
    expect(readdirSync(folder)).toEqual([]);
  });

  test.each(["", "half a l", '{"command":"grpo train","pid":1,"host":"elsewhere","started":"1","since":"2020"}'])(
    "left by a killed process does not block: %j",
    (text) => {
      put({ [lockName]: text });
      lockFolder(folder, "grpo train").release();
      expect(readdirSync(folder)).toEqual([]);
    },
  );
});

describe("the lock on a file system without locks", () => {
  const lock = (into = folder) => lockFolder(into, "grpo train", () => "unsupported");
  const holder = (of: object) => JSON.stringify({ command: "grpo sft", since: "2020", host: hostname(), ...of });

  test("depends on running processes: a living one refuses, a dead one does not, another host's is unknown", () => {
    const dead = Bun.spawnSync(["true"]).pid;
    const elsewhere = { pid: dead, started: "1", host: "elsewhere" };
    const cases: [held: object, refused: boolean][] = [
      [{ pid: process.pid, started: startOf(process.pid) }, true],
      [{ pid: dead, started: "1" }, false],
      [elsewhere, true],
    ];
    if (startOf(process.pid) !== "0") cases.push([{ pid: process.pid, started: "1" }, false]);
    for (const [of, refused] of cases) {
      put({ [lockName]: holder(of) });
      if (refused)
        expect(() => lock()).toThrow(/grpo sft \(process .*if it no longer runs, remove .*\.grpo\.lock; else name/);
      else {
        const own = lock();
        expect(() => lock()).toThrow(`grpo train (process ${process.pid} on`);
        own.release();
        expect(readdirSync(folder)).toEqual([]);
      }
    }
  });

  test("if two find the folder free at once, the one that wrote its name last has it", () => {
    put({ [lockName]: "" });
    const path = join(folder, lockName);
    const other = Bun.spawn([
      "sh",
      "-c",
      'while [ ! -s "$1" ]; do :; done; printf %s "$2" > "$1"',
      "sh",
      path,
      holder({ pid: 1 }),
    ]);
    expect(() => lock()).toThrow("grpo sft (process 1");
    other.kill();
  });
});

describe("a temporary file's writer", () => {
  const [pid, start, boot, place, random] = temporarySuffix().split("-") as [string, string, string, string, string];
  const now = Date.now();
  const dead = String(Bun.spawnSync(["true"]).pid);

  test("is running, has ended, or its id has been reused; on another host only time tells", () => {
    expect(isLeft([pid, start, boot, place, random].join("-"), 0)).toBe(false);
    expect(isLeft([dead, start, boot, place, random].join("-"), now)).toBe(true);
    if (startOf(process.pid) !== "0") expect(isLeft([pid, "1", boot, place, random].join("-"), now)).toBe(true);
    expect(isLeft([pid, start, "another", place, random].join("-"), now)).toBe(true);
    expect(isLeft([dead, start, boot, "another", random].join("-"), now)).toBe(false);
    expect(isLeft([dead, start, boot, "another", random].join("-"), now - 2 * 86_400_000)).toBe(true);
    expect([isLeft(dead, now), isLeft(pid, now)]).toEqual([true, false]); // of earlier versions
  });

  test("no two are alike, and leftovers of dead ones are removed", () => {
    const path = join(folder, "a.arrow");
    put({
      [`a.arrow.${dead}-${start}-${boot}-${place}-${random}.tmp`]: "x",
      [`a.arrow.${dead}-1.tmp`]: "x",
      "a.arrow.txt": "",
    });
    const names = [temporaryBeside(path), temporaryBeside(path)];
    expect(new Set(names).size).toBe(2);
    expect(readdirSync(folder)).toEqual(["a.arrow.txt"]);
    writeFileSync(names[0]!, "");
    utimesSync(names[0]!, 1, 1);
    temporaryBeside(path);
    expect(readdirSync(folder)).toHaveLength(2);
  });
});

describe("who started the program", () => {
  /** Processes by id: parent, session, command. The program is 9. */
  const view = (processes: Record<number, [parent: number, session: number, command: string]>): ProcessView => ({
    stat(pid) {
      const found = processes[pid];
      if (!found) return null;
      return Object.assign(new Array(20).fill("0"), {
        0: "S",
        1: String(found[0]),
        3: String(found[1]),
        19: `${pid}00`,
      });
    },
    // npm sets a process title in place of the command line, as one word.
    command: (pid) => processes[pid]?.[2].split(processes[pid][2].startsWith("npm") ? "\n" : "|") ?? [],
  });
  const own: [number, number, string] = [8, 1, "bun|src/cli/main.ts|train"];

  test.each<[what: string, expected: number[], processes: Parameters<typeof view>[0]]>([
    [
      "npx, with its shells",
      [8, 7, 6],
      {
        9: own,
        8: [7, 1, "bun|run|train"],
        7: [6, 1, "sh|-c|bun run train"],
        6: [5, 1, "npm exec bun"],
        5: [1, 1, "bash|-l"],
      },
    ],
    ["bun run in a script", [8], { 9: own, 8: [7, 1, "/usr/bin/bun|run|train"], 7: [1, 1, "bash|job.sh"] }],
    ["the bun of npm", [8], { 9: own, 8: [1, 1, "/a b/node_modules/bun/bin/bun.exe|run|train"] }],
    ["only a shell", [], { 9: own, 8: [7, 1, "sh|-c|bun main.ts"], 7: [1, 1, "python|job.py"] }],
    ["a terminal", [], { 9: own, 8: [1, 1, "-bash"] }],
    ["setsid under npx", [], { 9: [8, 9, "bun"], 8: [7, 1, "npm exec bun"], 7: [1, 1, "bash"] }],
    ["node with npm's program", [8], { 9: own, 8: [1, 1, "/usr/bin/node|/usr/lib/npm/bin/npx-cli.js|bun"] }],
  ])("%s", (_, expected, processes) => expect(launchersOf(9, view(processes)).map(({ pid }) => pid)).toEqual(expected));

  test("nohup is seen by the signal it ignores", () => {
    expect([1, 2].map((signal) => wasIgnored(signal, "SigIgn:\t0000000001001001\n"))).toEqual([true, false]);
    expect([1, 2].map((signal) => wasIgnored(signal, "SigIgn:\t0000000001001006\n"))).toEqual([false, true]);
    expect(wasIgnored(1, "")).toBe(false);
  });
});

test("three consecutive generations without a reward end a run, with the first error of the first", () => {
  const guard = createUnscoredGuard();
  const result = (total: (number | null)[], warning?: string): RewardResult => ({
    ...{ total, reasons: [], warnings: warning === undefined ? [] : [warning] },
    perFunction: [{ name: "mine", rewards: total, unparsed: 0, timeouts: 0 }],
  });
  const none = [null, null];
  expect([guard(result(none, "a")), guard(result(none, "b")), guard(result([null, 0]))]).toEqual([null, null, null]);
  expect([guard(result(none, "mine threw c")), guard(result(none, "d"))]).toEqual([null, null]);
  expect(guard(result(none, "e"))).toContain("nothing was scored, so nothing is learned: mine threw c");
  const silent = createUnscoredGuard();
  silent(result(none));
  silent(result(none));
  expect(silent(result(none))).toContain("mine gave null for every completion");
});

test("a crash or a full disk at any file operation leaves either the old or the new contents complete", () => {
  const { stdout, stderr } = Bun.spawnSync([process.execPath, join(import.meta.dir, "crash-points.ts")]);
  expect(stderr.toString()).toBe("");
  expect(stdout.toString()).toMatch(/^\d{3,} points\n$/);
}, 60_000);
