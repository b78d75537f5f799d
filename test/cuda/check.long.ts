/**
 * check:gpu itself, on the emulated GPU: a wrong result, a lost context and a hang, planted in a copy of the program, are each
 * reported with the command that runs them alone, and the ops after them run.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { killGroup, runBounded } from "../../check/bounded-process.ts";
import { chosenOps } from "../../check/op-sets.ts";
import { memcheckFindings, quoted, runOpStage, taskWords } from "../../check/op-stage.ts";
import { opName } from "../../check/op-task.ts";
import { findSanitizer, stages } from "../../check/stages.ts";
import { explainTests, patternOf, testCounts, testFailures } from "../../check/tests.ts";
import { root, workFolder } from "../e2e/runs.ts";
import { buildEmulator } from "../emulator/build.ts";

// The emulator may have to be compiled first.
setDefaultTimeout(300_000);

const work = workFolder();
afterAll(work.remove);

const choice = { set: "small, heads of 64", dtype: "bfloat16" } as const;
const names = chosenOps(choice).map(opName);
let env: Record<string, string | undefined>;
beforeAll(async () => {
  const { folder } = await buildEmulator();
  env = { ...process.env, LD_LIBRARY_PATH: folder, EMULATOR_CHECK: "1", EMULATOR_THREADS: "1" };
});

/** The sources that a task needs, with some text replacements. */
function planted(name: string, plants: readonly (readonly [file: string, from: string, to: string])[]): string {
  const copy = work.at(name);
  mkdirSync(copy, { recursive: true });
  for (const folder of ["src", "ffi", "bench", "check", "package.json"])
    cpSync(join(root, folder), join(copy, folder), { recursive: true });
  symlinkSync(join(root, "node_modules"), join(copy, "node_modules"));
  for (const [file, from, to] of plants) {
    const text = readFileSync(join(copy, file), "utf8");
    expect(text).toContain(from);
    writeFileSync(join(copy, file), text.replace(from, to));
  }
  return copy;
}

async function run(from: string, opSeconds: number, memcheck: readonly string[] | null = null) {
  const lines: string[] = [];
  const log = work.at("ops.log");
  const options = {
    task: choice,
    program: [process.execPath, join(from, "src/cli/main.ts")],
    cwd: from,
    env,
    opSeconds,
    hungBefore: new Set<string>(),
    seconds: 200,
    log,
    memcheck,
  };
  const result = await runOpStage({ ...options, print: (line) => lines.push(line) });
  return { ...result, lines };
}

test("unmodified, every op passes, one line each", async () => {
  const { passed, failures, lines, spoilt } = await run(root, 60);
  expect({ passed, failures, spoilt }).toEqual({ passed: names.length, failures: [], spoilt: false });
  expect(lines.map((line) => line.replace(/ +[\d.]+ s$/, ""))).toEqual(names);
});

test("a wrong result, a lost context and a hang are named, and the rest continues", async () => {
  const folder = planted("planted", [
    ["src/device/cuda/ops/glu.ts", "gluForward(y, x, gelu) {", "gluForward(y, x, given) {\n      const gelu = !given;"],
    [
      "src/device/cuda/ops/embedding.ts",
      "embeddingForward(x, ids, w) {",
      "embeddingForward(x, given, w) {\n      const ids = { ...given, address: 64 };",
    ],
    ["src/device/cuda/ops/rope.ts", "ropeForward: launch(ropeKernels.forward)", "ropeForward() { for (;;); }"],
  ]);
  // A tool in place of compute-sanitizer, which records its arguments.
  const tool = work.at("sanitizer");
  writeFileSync(tool, '#!/bin/sh\necho "========= Invalid read, told $*"\n', { mode: 0o755 });
  const { passed, failures, lines, spoilt } = await run(folder, 16, [tool, "--tool", "memcheck"]);
  const failed = failures.map((text) => text.split(":")[0]!);
  expect(failed).toEqual(names.filter((name) => /^(gluForward|embeddingForward|ropeForward) /.test(name)));
  expect(passed).toBe(names.length - failed.length);
  expect(spoilt).toBe(true);
  const of = (op: string) => failures.filter((text) => text.startsWith(op));
  for (const text of of("gluForward")) expect(text).toContain("wrong result: y[");
  for (const text of of("embeddingForward")) expect(text).toContain("a kernel failed and the GPU's memory is lost");
  // Once known to hang, the same op gets a shorter limit.
  const waits = of("ropeForward").map((text) => /did not end within ([\d.]+) s/.exec(text)?.[1]);
  expect(waits).toEqual(["16", "4", "4"]);
  // The command that runs one alone, quoted for a shell.
  const alone = of("gluForward")[0]!.split("alone: ")[1]!;
  const again = Bun.spawnSync(["sh", "-c", alone], { cwd: folder, env });
  expect(again.exitCode).toBe(1);
  expect(again.stdout.toString()).toContain("wrong result: y[");
  // Only lost contexts run again under the tool.
  const told = lines.filter((line) => line.includes("Invalid read, told --tool memcheck"));
  expect(told).toHaveLength(of("embeddingForward").length);
});

test("a process that cannot open the GPU is a failure, not a silent end", async () => {
  const nowhere = planted("nowhere", [
    [
      "src/device/cuda/device.ts",
      "const driver = openDriver(",
      'throw new InputError("no driver");\n  const driver = openDriver(',
    ],
  ]);
  const { passed, failures } = await run(nowhere, 30);
  expect(passed).toBe(0);
  expect(failures).toHaveLength(1);
  expect(failures[0]).toMatch(/before an op, the process ended with 1: .*no driver/);
});

test("a bounded process ends with everything it started", async () => {
  const mark = work.at("mark");
  const command = ["sh", "-c", `(sleep 2; touch ${quoted(mark)}) & sleep 60`];
  const ended = await runBounded({ command, cwd: root, env: process.env, seconds: 0.5, log: work.at("log") });
  expect({ timedOut: ended.timedOut, signal: ended.signal }).toEqual({ timedOut: true, signal: "SIGKILL" });
  await Bun.sleep(2500);
  expect(existsSync(mark)).toBe(false);
  killGroup(Bun.spawnSync(["true"]).pid); // no process of it is left: no error
});

test("when asked to end, it ends every open group", async () => {
  const marks = ["a", "b"].map((name) => work.at(`alive ${name}`));
  const program = `
    const { runBounded } = await import(${JSON.stringify(join(root, "check/bounded-process.ts"))});
    for (const mark of ${JSON.stringify(marks)})
      runBounded({ command: ["sh", "-c", "sleep 3; touch '" + mark + "'"], cwd: "/", env: process.env, seconds: 60, log: mark + ".log" });
    console.log("started");`;
  const child = Bun.spawn([process.execPath, "-e", program], { stdout: "pipe" });
  const reader = child.stdout.getReader();
  await reader.read();
  child.kill("SIGTERM");
  expect(await child.exited).toBe(143);
  await Bun.sleep(3500);
  expect(marks.filter((mark) => existsSync(mark))).toEqual([]);
});

test("the stray write is detected", async () => {
  const task = taskWords({ set: "small, heads of 64", from: 0, stray: true });
  const command = [process.execPath, join(root, "src/cli/main.ts"), ...task];
  const child = Bun.spawn(command, { env: { ...env, EMULATOR_CHECK: "1" }, stdout: "pipe", stderr: "pipe" });
  expect(await child.stderr.text()).toContain("CUDA_ERROR_ILLEGAL_ADDRESS");
  expect(await child.exited).toBe(1);
});

test.each([
  [["--only", "no such"], "--only no such: matches no stage; choose from doctor; each kernel once;"],
  [["--logs", join(root, "README.md")], "cannot be made or read"],
  [["--logs", root], "is not empty"],
  [["--model", "/nonexistent"], "--model /nonexistent: no such folder"],
  [["--quik"], "--quik: unknown setting; did you mean --quick?"],
])("check:gpu %j is refused in one line", async (argv, message) => {
  const command = [process.execPath, join(root, "src/cli/main.ts"), "check:gpu", ...argv];
  const child = Bun.spawn(command, { cwd: work.path, env, stdout: "pipe", stderr: "pipe" });
  const [err, code] = await Promise.all([child.stderr.text(), child.exited]);
  expect(err).toContain(message);
  expect(err.trimEnd().split("\n")).toHaveLength(1);
  expect(code).toBe(2);
});

test("memcheck's findings, and quoting for a shell", () => {
  const text =
    "========= COMPUTE-SANITIZER\n=========\n========= Invalid __global__ read of size 4 bytes\n========= ERROR SUMMARY: 1 error";
  expect(memcheckFindings(text)).toEqual([
    "  memcheck: ========= Invalid __global__ read of size 4 bytes",
    "  memcheck: ========= ERROR SUMMARY: 1 error",
  ]);
  expect(["a=b/c", "it's", '{"a":1}'].map(quoted)).toEqual(["a=b/c", "'it'\\''s'", `'{"a":1}'`]);
});

test("every stage has a unique name, a limit, and work or a reason not to do it", () => {
  for (const emulated of [false, true]) {
    const all = stages({ emulated, sanitizer: findSanitizer(), work: "/w", model: "/m" });
    expect(new Set(all.map(({ name }) => name)).size).toBe(all.length);
    for (const { ops = [], command = [], tests = [], missing = null, seconds, quick } of all) {
      expect(seconds).toBeGreaterThan(0);
      expect(ops.length + command.length + tests.length).toBeGreaterThan(0);
      for (const file of tests) expect(existsSync(join(root, "test", file))).toBe(true);
      for (const each of missing ? [] : ops) expect(chosenOps(each).length).toBeGreaterThan(0);
      expect(typeof quick).toBe("boolean");
    }
  }
  const quick = stages({ emulated: false, sanitizer: "s", work: "/w", model: null }).filter((stage) => stage.quick);
  expect(quick.some(({ tool }) => tool?.includes("racecheck"))).toBe(true);
});

test("the output of bun test: counts, each failure once with its reason, and how to run it alone", async () => {
  const text = [
    "(pass) rows > gather [0.1ms]",
    "32 |  throw new Error(answer.failure);",
    "error: element 3 is off (the GPU's context went with it)",
    "      at <anonymous> (x.ts:1:2)",
    "(fail) flat > scale n=31 by=it's [12.5ms]",
    "(fail) flat > add [1.00s]",
    "1 tests failed:",
    "(fail) flat > scale n=31 by=it's [12.5ms]",
    "",
    " 7 pass",
    " 2 fail",
  ].join("\n");
  expect(testCounts(text)).toBe("7 passed, 2 failed");
  expect([...testFailures(text)]).toEqual([
    ["flat > scale n=31 by=it's", "error: element 3 is off (the GPU's context went with it)"],
    ["flat > add", "error: no reason was printed"],
  ]);
  const stage = stages({ emulated: false, sanitizer: null, work: "/w", model: null }).find(({ alone }) => alone)!;
  // In place of compute-sanitizer: it gets the case as OPS_CASE, and is called only for the lost context.
  const sanitizer = work.at("told");
  writeFileSync(sanitizer, '#!/bin/sh\necho "========= told $OPS_CASE"\n', { mode: 0o755 });
  const told = await explainTests(stage, text, { cwd: root, env: process.env, log: work.at("tests.log"), sanitizer });
  expect(told).toHaveLength(2);
  expect(told[0]).toContain("OPS_CASE='scale n=31 by=it'\\''s'");
  expect(told[0]).toContain("memcheck: ========= told scale n=31 by=it's");
  expect(told[1]).not.toContain("memcheck");
});

test("the real output of bun test has this form, and the given command runs the one test", async () => {
  const file = work.at("some.test.ts");
  writeFileSync(
    file,
    'import { expect, test, describe } from "bun:test";\ndescribe("a (b)", () => { test("passes", () => {}); test("c [d] fails", () => expect(1).toBe(2)); });\n',
  );
  const command = [process.execPath, "test", file];
  const child = Bun.spawn(command, {
    cwd: work.path,
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, NO_COLOR: "1" },
  });
  const text = await child.stderr.text();
  expect(testCounts(text)).toBe("1 passed, 1 failed");
  expect([...testFailures(text)]).toEqual([["a (b) > c [d] fails", "error: expect(received).toBe(expected)"]]);
  const pattern = patternOf("a (b) > c [d] fails");
  const one = Bun.spawnSync([...command, "-t", pattern], { cwd: work.path, env: { ...process.env, NO_COLOR: "1" } });
  expect(testCounts(one.stderr.toString())).toBe("0 passed, 1 failed");
});
