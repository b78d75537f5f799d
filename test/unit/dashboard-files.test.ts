/**
 * What the page's server reads: a file of lines that grows, is cut, replaced or half written; completions by their places in
 * the file, however large it is; and nothing that a link leads to.
 */
import { afterAll, describe, expect, test } from "bun:test";
import {
  appendFileSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { indexCompletions } from "../../src/dashboard/completions.ts";
import { named, runsIn } from "../../src/dashboard/folders.ts";
import { openInside } from "../../src/dashboard/inside.ts";
import { viewRun } from "../../src/dashboard/run-view.ts";
import { createTable } from "../../src/dashboard/table.ts";
import { followLines } from "../../src/dashboard/tail.ts";
import { InputError } from "../../src/errors.ts";
import { completionLine, makeGeneration, makeRun, metricsLine } from "../fixtures/made-run.ts";

const work = realpathSync(mkdtempSync(join(tmpdir(), "grpo-page-")));
afterAll(() => rmSync(work, { recursive: true, force: true }));
let count = 0;
const folder = (): string => {
  const path = join(work, `run-${count++}`);
  mkdirSync(path);
  return path;
};

describe("a file of lines", () => {
  test("each line once, a half-written one when it is whole", () => {
    const at = folder();
    const path = join(at, "metrics.jsonl");
    const tail = followLines(at, "metrics.jsonl");
    expect(tail.look()).toEqual({ reset: false, lines: [], more: false, modified: null });
    writeFileSync(path, "one\ntwo\nthr");
    expect(tail.look().lines).toEqual(["one", "two"]);
    expect(tail.look().lines).toEqual([]);
    appendFileSync(path, "ee\nfour\n");
    expect(tail.look()).toMatchObject({ reset: false, lines: ["three", "four"], more: false });
  });

  test("characters whose bytes come one by one", () => {
    const at = folder();
    const path = join(at, "metrics.jsonl");
    const tail = followLines(at, "metrics.jsonl");
    const bytes = Buffer.from("größer € 😀\n");
    const seen: string[] = [];
    for (const byte of bytes) {
      appendFileSync(path, Buffer.of(byte));
      seen.push(...tail.look().lines);
    }
    expect(seen).toEqual(["größer € 😀"]);
  });

  test("cut, replaced and removed: everything read before is void", () => {
    const at = folder();
    const path = join(at, "metrics.jsonl");
    const tail = followLines(at, "metrics.jsonl");
    writeFileSync(path, "one\ntwo\nthree\n");
    tail.look();
    truncateSync(path, 8);
    expect(tail.look()).toMatchObject({ reset: true, lines: ["one", "two"] });
    // As a resumed run rewrites it: beside its place, then renamed.
    writeFileSync(join(at, "new"), "one\nzwei\n");
    renameSync(join(at, "new"), path);
    expect(tail.look()).toMatchObject({ reset: true, lines: ["one", "zwei"] });
    // In place, and longer than before.
    writeFileSync(path, "uno\ndos\ntres\ncuatro\n");
    utimesSync(path, new Date(), new Date(Date.now() + 5000));
    expect(tail.look()).toMatchObject({ reset: true, lines: ["uno", "dos", "tres", "cuatro"] });
    rmSync(path);
    expect(tail.look()).toEqual({ reset: true, lines: [], more: false, modified: null });
    writeFileSync(path, "again\n");
    expect(tail.look()).toMatchObject({ reset: false, lines: ["again"] });
  });

  test("in slices, and a line without end is skipped", () => {
    const at = folder();
    const path = join(at, "metrics.jsonl");
    const tail = followLines(at, "metrics.jsonl", 64, 64);
    const lines = Array.from({ length: 30 }, (_, i) => `line ${i}`);
    writeFileSync(path, `${lines.join("\n")}\n${"x".repeat(1000)}\nlast\n`);
    const seen: string[] = [];
    for (let i = 0; i < 100; i++) {
      const look = tail.look();
      seen.push(...look.lines);
      if (!look.more) break;
    }
    expect(seen).toEqual([...lines, "last"]);
  });
});

describe("nothing outside the folder", () => {
  test("a link in place of a file, of a folder, a pipe and a folder are not opened", () => {
    const [at, outside] = [folder(), folder()];
    writeFileSync(join(outside, "step-000001.jsonl"), `${completionLine(0, 0)}\n`);
    symlinkSync(join(outside, "step-000001.jsonl"), join(at, "metrics.jsonl"));
    symlinkSync(outside, join(at, "completions"));
    Bun.spawnSync(["mkfifo", join(at, "run.json")]);
    mkdirSync(join(at, "folder"));
    expect(openInside(at, "metrics.jsonl")).toBeNull();
    expect(openInside(at, "completions", "step-000001.jsonl")).toBeNull();
    expect(openInside(at, "run.json")).toBeNull();
    expect(openInside(at, "folder")).toBeNull();
    const view = viewRun(at, 0);
    view.poll();
    expect(view.state()).toMatchObject({ rows: { steps: 0, evaluations: 0 }, generations: 0 });
    expect(view.completions(1)).toBeNull();
    view.close();
  });

  test("the run's own folder may be named by a link, and its files are read", () => {
    const at = folder();
    makeRun(at, { steps: 2, generations: [1] });
    symlinkSync(at, join(work, "link"));
    const view = viewRun(join(work, "link"), 0);
    view.poll();
    expect(view.state()).toMatchObject({ rows: { steps: 2 }, generations: 1 });
    expect(view.completions(1)).not.toBeNull();
    view.close();
  });

  test("a second name of a file is the same file", () => {
    const at = folder();
    writeFileSync(join(at, "a"), "text");
    linkSync(join(at, "a"), join(at, "b"));
    const open = openInside(at, "b");
    expect(open?.size).toBe(4);
    open?.close();
  });
});

describe("completions", () => {
  const all = async (index: ReturnType<typeof indexCompletions>) => {
    let from = 0;
    const lines: unknown[] = [];
    for (;;) {
      const answer = await index!.answer(from, 5000);
      lines.push(...answer.lines);
      from += answer.lines.length;
      if (answer.complete) return { lines, omitted: answer.omitted };
    }
  };

  test("what the list shows, and each line as it stands in the file", async () => {
    const at = folder();
    makeRun(at, { steps: 1, generations: [1], groups: 3, perGroup: 8 });
    const index = indexCompletions(at, ["completions", "step-000001.jsonl"])!;
    const { lines, omitted } = await all(index);
    expect(omitted).toBe(0);
    expect(lines).toHaveLength(24);
    expect(lines[3]).toMatchObject({ group: 0, tokens: 22, finished: true, prompt: "" });
    expect(lines[6]).toMatchObject({ finished: false });
    expect(lines[8]).toMatchObject({ group: 1, prompt: expect.stringContaining("Prompt 1") });
    for (const place of [0, 7, 23])
      expect(index.line(place)!.toString()).toBe(completionLine(Math.floor(place / 8), place % 8));
    expect(index.line(24)).toBeNull();
    expect(index.line(-1)).toBeNull();
  });

  test("across the borders of slices, with damaged, empty, foreign and overlong lines and an end without a break", async () => {
    const at = folder();
    const good = [completionLine(0, 0), completionLine(0, 1), completionLine(1, 0)];
    const bad = ["{", "[]", "null", '{"group":"x"}', "7", `{"group":1,"completion":"${"y".repeat(9000)}"}`];
    writeFileSync(join(at, "f"), [good[0], ...bad, "", good[1], good[2]].join("\n"));
    const index = indexCompletions(at, ["f"], 100, 4000)!;
    const { lines, omitted } = await all(index);
    expect(lines).toHaveLength(3);
    expect(omitted).toBe(bad.length);
    expect(good.map((_, i) => index.line(i)!.toString())).toEqual(good);
  });

  test("a replaced file gives no line of the old index", async () => {
    const at = folder();
    makeRun(at, { steps: 1, generations: [1] });
    const view = viewRun(at, 0);
    view.poll();
    const before = view.completions(1)!;
    await all(before);
    expect(view.completions(1)).toBe(before);
    makeGeneration(at, 1, 2, 2);
    expect(before.line(0)).toBeNull();
    const after = view.completions(1)!;
    expect(after.version).not.toBe(before.version);
    expect((await all(after)).lines).toHaveLength(4);
    view.close();
  });

  test("a file of 1 GB without an end in sight costs time, not memory, and others are answered meanwhile", async () => {
    const at = folder();
    writeFileSync(join(at, "f"), `${completionLine(0, 0)}\n`);
    truncateSync(join(at, "f"), 2 ** 30);
    Bun.gc(true);
    const before = process.memoryUsage.rss();
    let [most, turns] = [0, 0];
    const watch = setInterval(() => {
      turns++;
      most = Math.max(most, process.memoryUsage.rss());
    }, 5);
    const index = indexCompletions(at, ["f"])!;
    expect((await index.answer(0, 0)).complete).toBe(false);
    const { lines, omitted } = await all(index);
    clearInterval(watch);
    expect(lines).toHaveLength(1);
    expect(omitted).toBe(1);
    expect(index.line(0)!.toString()).toBe(completionLine(0, 0));
    expect(most - before).toBeLessThan(200 * 2 ** 20);
    expect(turns).toBeGreaterThan(3);
  }, 60_000);
});

describe("a run's folder", () => {
  test("rows by table, names as they come, damaged lines counted, a cut run from its start", () => {
    const at = folder();
    makeRun(at, { steps: 5, totalSteps: 9 });
    const view = viewRun(at, 3, "mine");
    view.poll();
    expect(view.info()).toMatchObject({ run: 3, name: "mine", command: "train", totalSteps: 9 });
    expect(view.info().memory?.parts).toHaveLength(5);
    const before = view.state();
    expect(before).toMatchObject({ rows: { steps: 5, evaluations: 6 }, step: 5, damaged: 0, read: true });
    appendFileSync(join(at, "metrics.jsonl"), 'not JSON\n{"no":"step"}\n{"step":6,"new":1}\n');
    view.poll();
    expect(view.state()).toMatchObject({ rows: { steps: 6 }, step: 6, damaged: 2, epoch: before.epoch });
    expect(view.table("steps").names).toContain("new");
    truncateSync(join(at, "metrics.jsonl"), metricsLine(1, 5).length);
    view.poll();
    expect(view.state().epoch).toBeGreaterThan(before.epoch);
    expect(view.state().rows.steps).toBeLessThan(2);
    view.close();
  });

  test("a folder that is made later, and generations that come and go", () => {
    const at = join(work, "later");
    mkdirSync(at);
    const view = viewRun(at, 0);
    view.poll();
    expect(view.state()).toMatchObject({ rows: { steps: 0 }, written: null });
    makeRun(at, { steps: 3, generations: [1, 2, 3] });
    writeFileSync(join(at, "completions", ".step-000004.jsonl.tmp-1"), "");
    writeFileSync(join(at, "completions", "notes.txt"), "");
    view.poll();
    const { epoch, steps } = view.generations();
    expect(steps).toEqual([1, 2, 3]);
    rmSync(join(at, "completions", "step-000003.jsonl"));
    view.poll();
    expect(view.generations().steps).toEqual([1, 2]);
    makeGeneration(at, 3, 1, 1);
    view.poll();
    expect(view.generations().steps).toEqual([1, 2, 3]);
    rmSync(join(at, "completions", "step-000001.jsonl"));
    view.poll();
    expect(view.generations()).toMatchObject({ steps: [2, 3] });
    expect(view.generations().epoch).not.toBe(epoch);
    view.close();
  });

  test("columns as bytes: steps in 64 bits, values in 32, NaN for what is missing", () => {
    const table = createTable();
    for (let step = 1; step <= 3000; step++) table.add(step, { step, a: step / 3, ...(step > 2000 && { b: step }) });
    const bytes = table.encode(7, ["b", "none", "a"], 1990);
    const length = new DataView(bytes.buffer).getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
    expect(head).toEqual({ epoch: 7, from: 1990, rows: 1010, names: ["b", "none", "a"] });
    const start = Math.ceil((4 + length) / 8) * 8;
    const column = (i: number) => new Float32Array(bytes.buffer, start + 1010 * (8 + 4 * i), 1010);
    expect(new Float64Array(bytes.buffer, start, 1010)[9]).toBe(2000);
    expect([column(0)[9], column(0)[10]]).toEqual([Number.NaN, 2001]);
    expect(column(1).every(Number.isNaN)).toBe(true);
    expect(column(2)[0]).toBe(Math.fround(1991 / 3));
    expect(table.encode(7, ["a"], 9999).length).toBeGreaterThan(0);
  });
});

test("which runs are meant: their folders, or one that holds several; names tell them apart", () => {
  const parent = folder();
  for (const name of ["a", "b"]) {
    mkdirSync(join(parent, name));
    makeRun(join(parent, name), { steps: 1 });
  }
  mkdirSync(join(parent, "other"));
  symlinkSync(join(parent, "a"), join(parent, "link"));
  expect(runsIn([parent]).map(({ name }) => name)).toEqual(["a", "b"]);
  expect(runsIn([join(parent, "b"), parent]).map(({ name }) => name)).toEqual(["b", "a"]);
  expect(named(["/x/1/train", "/x/2/train", "/x/sft"]).map(({ name }) => name)).toEqual(["1/train", "2/train", "sft"]);
  expect(() => runsIn([join(parent, "other")])).toThrow(InputError);
  expect(() => runsIn([join(parent, "none")])).toThrow("no such folder");
});
