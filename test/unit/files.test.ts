/**
 * Something other than a file in a file's place is reported at once by every reader: a pipe would hang it, a device would never
 * end.
 */
import { afterAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { mapFile } from "../../ffi/bindings/libc.ts";
import { readModelConfig } from "../../src/checkpoint/huggingface.ts";
import { readJsonFile } from "../../src/config/json-file.ts";
import { readSettingsFile } from "../../src/config/settings-file.ts";
import { openDataset } from "../../src/data/dataset.ts";
import { loadDataset } from "../../src/data/load.ts";
import { openSource } from "../../src/data/source/source.ts";
import { errorText, InputError } from "../../src/errors.ts";
import { isThere, requireFile } from "../../src/files/paths.ts";
import { readRollouts } from "../../src/grpo/rollout-file.ts";
import { createMetricsWriter } from "../../src/metrics/metrics-file.ts";
import { loadTokenizer } from "../../src/tokenizer/tokenizer.ts";
import { ipcBytes, tableOf, temporaryFolder } from "../fixtures/data/arrow.ts";

const folder = temporaryFolder();
afterAll(folder.remove);
const root = resolve(import.meta.dir, "../..");

const pipe = folder.file("pipe");
const device = folder.file("device");
const circle = folder.file("circle");
const nothing = folder.file("nothing");
Bun.spawnSync(["mkfifo", pipe]);
symlinkSync("/dev/zero", device);
symlinkSync("circle", circle);
symlinkSync("no-such-file", nothing);

async function refusal(work: () => unknown): Promise<string> {
  try {
    await work();
  } catch (error) {
    if (error instanceof InputError) return error.message.replaceAll(`${folder.path}/`, "");
    throw error;
  }
  return "none";
}

// Permissions restrict everybody but root, who switches to another user for a while.
const asNobody = async <T>(work: () => Promise<T>): Promise<T> => {
  const isRoot = process.geteuid!() === 0;
  if (isRoot) process.seteuid!(65534);
  try {
    return await work();
  } finally {
    if (isRoot) process.seteuid!(0);
  }
};

const readers: Readonly<Record<string, (path: string) => unknown>> = {
  JSON: readJsonFile,
  settings: readSettingsFile,
  "a mapped file": mapFile,
  "an Arrow dataset": openDataset,
  "a dataset": loadDataset,
  "a file to convert": openSource,
  rollouts: (path) => readRollouts(path, { vocabSize: 9 }),
};

describe("not a file:", () => {
  for (const [name, read] of Object.entries(readers))
    test(name, async () => {
      expect(await refusal(() => read(pipe))).toMatch(/^pipe: is a pipe, not a file; give a regular file$/);
      expect(await refusal(() => read(device))).toMatch(/^device: is a device, not a file; give a regular file$/);
      expect(await refusal(() => read(circle))).toMatch(/^circle: cannot be read \(ELOOP\); check that it is/);
    });

  test("a file or folder without read permission", async () => {
    const closed = folder.file("closed", "x");
    const within = join(folder.path, "closed-folder");
    mkdirSync(join(within, "below"), { recursive: true });
    chmodSync(folder.path, 0o755); // so that everyone can get here at all
    chmodSync(closed, 0);
    chmodSync(within, 0);
    await asNobody(async () => {
      for (const [name, read] of Object.entries(readers))
        expect([name, await refusal(() => read(closed))]).toEqual([
          name,
          "closed: cannot be read (EACCES); check that it is a readable file",
        ]);
      for (const read of [loadDataset, readModelConfig])
        expect(await refusal(() => read(within))).toBe("closed-folder: cannot be read (EACCES); check its permissions");
    });
    chmodSync(within, 0o755);
    chmodSync(join(within, "below"), 0);
    expect(await asNobody(() => refusal(() => loadDataset(within)))).toMatch(
      /^closed-folder: a folder in it cannot be read/,
    );
    chmodSync(join(within, "below"), 0o755);
  });

  test("a pipe opened by the shell is read once", async () => {
    const script = `import { readRollouts } from ${JSON.stringify(join(root, "src/grpo/rollout-file.ts"))};
      console.log((await readRollouts("/dev/stdin", { vocabSize: 9 })).length);`;
    const line = JSON.stringify({ group: 0, prompt_ids: [1], completion_ids: [2], reward: 1 });
    const child = Bun.spawnSync([process.execPath, "-e", script], { stdin: Buffer.from(`${line}\n`) });
    expect([child.stdout.toString(), child.stderr.toString()]).toEqual(["1\n", ""]);
  });

  test("a missing file and a folder are left to the reader", () => {
    requireFile(folder.path);
    requireFile(folder.file("missing"));
    requireFile(join(folder.file("text", "x"), "below"));
    expect([isThere(nothing), isThere(circle), isThere(folder.file("missing"))]).toEqual([true, true, false]);
  });
});

test("a dangling link is not a missing file, even if a file may be missing", async () => {
  const model = folder.file("model");
  mkdirSync(model);
  writeFileSync(join(model, "tokenizer.json"), await Bun.file(join(root, "data/model/tokenizer.json")).text());
  loadTokenizer(model);
  for (const name of ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"]) {
    const linked = folder.file(`with ${name}`);
    mkdirSync(linked);
    writeFileSync(join(linked, "tokenizer.json"), await Bun.file(join(root, "data/model/tokenizer.json")).text());
    symlinkSync("no-such-file", join(linked, name));
    expect(await refusal(() => loadTokenizer(linked))).toContain(`${name}: no such file`);
  }
  const run = folder.file("run");
  mkdirSync(run);
  symlinkSync("metrics.jsonl", join(run, "metrics.jsonl"));
  expect(await refusal(() => createMetricsWriter(run, { resumeStep: 1 }))).toMatch(/metrics\.jsonl: cannot be read/);
});

test("writing to a mapped dataset is reported; replacing it is not", async () => {
  const bytes = ipcBytes(tableOf(0, 5));
  const dataset = openDataset(folder.file("table.arrow", bytes));
  dataset.row(0);
  await Bun.sleep(120);
  dataset.row(1);
  utimesSync(dataset.path, 1, 1);
  await Bun.sleep(120);
  expect(await refusal(() => dataset.row(2))).toMatch(/^table\.arrow: changed while it was read \(\d+ bytes before, /);
  dataset.close();
});

test("a message contains no terminal controls, and has a limited length", () => {
  expect(errorText(new Error("a\u001b[2J\u0000b\r\n c\td"))).toBe("a\ufffd[2J\ufffdb c d");
  const long = errorText(`start ${"x".repeat(100_000)} end`);
  expect(long.length).toBeLessThan(4100);
  expect([long.startsWith("start x"), long.endsWith("x end")]).toEqual([true, true]);
});
