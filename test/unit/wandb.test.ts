// W&B's offline runs: the log's frame at every place in a block, records read back from their bytes, resuming, damage.
import { afterAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { type OfflineRunOptions, openOfflineRun } from "../../src/metrics/wandb/offline-run.ts";
import { framedAt, logHead, recordsOf } from "../../src/metrics/wandb/record-log.ts";
import { parseMessage } from "../fixtures/protobuf.ts";
import { wandbRecords } from "../fixtures/trackers.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-wandb-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let count = 0;
const fresh = () => mkdtempSync(join(root, `run-${count++}-`));
const bytesOf = (size: number, seed = 0) => Uint8Array.from({ length: size }, (_, i) => (i * 31 + seed) % 251);
const joined = (...parts: readonly Uint8Array[]) => Uint8Array.from(parts.flatMap((part) => [...part]));

describe("the log", () => {
  test("a record's head: CRC-32 of type and data, length, type", () => {
    const framed = framedAt(7, Uint8Array.of(1, 2, 3));
    const view = new DataView(framed.buffer);
    expect(view.getUint32(0, true)).toBe(crc32(Uint8Array.of(1, 1, 2, 3)));
    expect([view.getUint16(4, true), view.getUint8(6), ...framed.subarray(7)]).toEqual([3, 1, 1, 2, 3]);
    expect(new TextDecoder().decode(logHead.subarray(0, 4))).toBe(":W&B");
  });

  test("records are cut at blocks of 32 KiB, wherever they begin and however long they are", () => {
    const block = 32768;
    for (const begin of [7, block - 20, block - 8, block - 7, block - 6, block - 1, block])
      for (const size of [0, 1, 13, block - 7, block - 14, 3 * block, 70_000]) {
        // A record that ends at `begin`, then the one that is tried, then one behind it.
        const before = begin === 7 ? null : bytesOf(begin - 14, 1);
        let file: Uint8Array = logHead;
        const records = [...(before === null ? [] : [before]), bytesOf(size), bytesOf(5, 2)];
        for (const record of records) file = joined(file, framedAt(file.length, record));
        const read = recordsOf(file)!;
        expect(read.map(({ record }) => Bun.hash(record))).toEqual(records.map((record) => Bun.hash(record)));
        expect(read.at(-1)!.end).toBe(file.length);
      }
  });

  test("a torn or changed record ends what is read; another file is none", () => {
    const first = joined(logHead, framedAt(7, bytesOf(10)));
    const whole = joined(first, framedAt(first.length, bytesOf(20)));
    for (let length = first.length; length < whole.length; length++)
      expect(recordsOf(whole.subarray(0, length))).toHaveLength(1);
    for (let at = first.length; at < whole.length; at++) {
      const changed = whole.slice();
      changed[at]! ^= 1;
      expect(recordsOf(changed)).toHaveLength(1);
    }
    expect(recordsOf(bytesOf(100))).toBeNull();
  });
});

const about = {
  ...{ project: "maths", entity: "team", name: "first", group: "g", jobType: undefined, notes: "ü", tags: ["a", "b"] },
  config: { beta: 0.04, reward_funcs: ["gsm8k"], ref_model: null },
};
const options = (change: Partial<OfflineRunOptions> = {}): OfflineRunOptions => ({
  ...{ about, producer: "test 1", resumeStep: null, now: () => 1732752000.25 },
  ...change,
});

describe("an offline run", () => {
  test("what it is, its settings, the x axis, rows with their summary, the end", () => {
    const parent = fresh();
    const run = openOfflineRun(parent, options());
    run.row(1, { "train/reward": 0.25, "train/kl": Number.NaN, "train/loss": -Infinity });
    const [name] = readdirSync(parent);
    expect(name).toMatch(/^offline-run-\d{8}_\d{6}-[a-z0-9]{8}$/);
    expect(run.folder).toBe(join(parent, name!));
    expect(wandbRecords(run.folder).map(({ kind }) => kind)).toEqual(
      ["header", "run", "metric", "metric", "history", "summary"], // on disk before it is closed
    );
    run.close();
    const records = wandbRecords(run.folder);
    expect(records.map(({ record }) => record.number(1))).toEqual(records.map((_, i) => i + 1));
    expect(records.map(({ record }) => record.message(200)!.text(1))).toEqual(records.map(() => run.folder.slice(-8)));
    const described = records[1]!.content;
    expect([1, 2, 3, 6, 8, 9].map((field) => described.text(field))).toEqual([
      run.folder.slice(-8),
      "team",
      "maths",
      "g",
      "first",
      "ü",
    ]);
    expect(described.texts(10)).toEqual(["a", "b"]);
    expect(described.message(17)!.number(1)).toBe(1732752000);
    const config = described.message(4)!.messages(1);
    expect(config.map((item) => [item.text(1), JSON.parse(item.text(16)!)])).toEqual(Object.entries(about.config));
    expect(records[2]!.content.text(1)).toBe("train/global_step");
    expect([records[3]!.content.text(2), records[3]!.content.text(4)]).toEqual(["*", "train/global_step"]);
    const row = records[4]!.content.messages(1).map((item) => [item.texts(2).join("."), item.text(16)]);
    expect(row).toEqual([
      ["train/global_step", "1"],
      ["_timestamp", "1732752000.25"],
      ["_runtime", "0"],
      ["_step", "0"],
      ["train/reward", "0.25"],
      ["train/kl", "NaN"],
      ["train/loss", "-Infinity"],
    ]);
    expect(records.at(-1)!.content.number(1)).toBe(0);
  });

  test("a table is a file beside the log, named in the row by path, size and hash", () => {
    const run = openOfflineRun(fresh(), options());
    run.row(1, { "train/reward": 1 });
    const table = {
      columns: ["step", "prompt"],
      data: [
        [1, "a|b\n#ü"],
        [1, null],
      ],
    };
    run.table(1, "completions", table);
    run.close();
    const records = wandbRecords(run.folder);
    const [path] = records.filter(({ kind }) => kind === "files").map(({ content }) => content.message(1)!.text(1)!);
    const bytes = readFileSync(join(run.folder, "files", path!));
    expect(JSON.parse(bytes.toString())).toEqual(table);
    const values = new Map(
      records
        .filter(({ kind }) => kind === "history")
        .at(-1)!
        .content.messages(1)
        .map((item) => [item.texts(2).join("."), JSON.parse(item.text(16)!)]),
    );
    expect(Object.fromEntries([...values].filter(([name]) => name.startsWith("completions")))).toEqual({
      "completions._type": "table-file",
      "completions.path": path,
      "completions.sha256": createHash("sha256").update(bytes).digest("hex"),
      "completions.size": bytes.length,
      "completions.ncols": 2,
      "completions.nrows": 2,
    });
    expect(values.get("_step")).toBe(1);
  });

  test("resuming cuts what came after the checkpoint, the end and a torn record, and goes on in the same run", () => {
    const parent = fresh();
    let clock = 1000;
    const first = openOfflineRun(parent, options({ now: () => clock }));
    for (const step of [1, 2, 3, 4]) {
      clock += 10;
      first.row(step, { "train/reward": step });
    }
    first.close();
    const log = join(first.folder, readdirSync(first.folder).find((name) => name.endsWith(".wandb"))!);
    appendFileSync(log, "torn");
    clock = 2000;
    const second = openOfflineRun(parent, options({ resumeStep: 2, now: () => clock }));
    clock += 5;
    second.row(3, { "train/reward": 30 });
    second.close();
    expect(second.folder).toBe(first.folder);
    const records = wandbRecords(first.folder);
    const rows = records
      .filter(({ kind }) => kind === "history")
      .map(({ content }) =>
        Object.fromEntries(content.messages(1).map((item) => [item.text(2), Number(item.text(16))])),
      );
    expect(rows.map((row) => [row["train/global_step"], row["train/reward"], row._step, row._runtime])).toEqual([
      [1, 1, 0, 10],
      [2, 2, 1, 20],
      [3, 30, 2, 25],
    ]);
    expect(records.map(({ record }) => record.number(1))).toEqual(records.map((_, i) => i + 1));
    expect(records.map(({ kind }) => kind).filter((kind) => kind === "exit")).toHaveLength(1);
    expect(recordsOf(readFileSync(log))!.at(-1)!.end).toBe(readFileSync(log).length);
  });

  test("resuming without a run that can be read begins one", () => {
    const parent = fresh();
    const first = openOfflineRun(parent, options({ resumeStep: 3 }));
    first.close();
    expect(wandbRecords(first.folder)[1]!.kind).toBe("run");
    const log = readdirSync(first.folder).find((name) => name.endsWith(".wandb"))!;
    writeFileSync(join(first.folder, log), "something else");
    const second = openOfflineRun(parent, options({ resumeStep: 3 }));
    second.close();
    expect(second.folder).not.toBe(first.folder);
    expect(readFileSync(join(first.folder, log), "utf8")).toBe("something else");
  });
});

test("the fixture that reads messages agrees with a message written by hand", () => {
  // Field 1: 300; field 2: "é"; field 3: { 1: 1 }
  const message = parseMessage(Uint8Array.of(0x08, 0xac, 0x02, 0x12, 0x02, 0xc3, 0xa9, 0x1a, 0x02, 0x08, 0x01));
  expect([message.number(1), message.text(2), message.message(3)!.number(1)]).toEqual([300, "é", 1]);
});
