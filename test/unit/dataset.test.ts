/** Datasets of several files: folders saved by `datasets`, splits, shards that disagree, and loadDataset with other formats. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { exampleAt, findColumns } from "../../src/data/columns.ts";
import { convertToArrow } from "../../src/data/convert.ts";
import { openDataset } from "../../src/data/dataset.ts";
import { loadDataset } from "../../src/data/load.ts";
import { chooseSplit, splitOf } from "../../src/data/splits.ts";
import { InputError } from "../../src/errors.ts";
import { ipcBytes, rowOf, tableOf, temporaryFolder } from "../fixtures/data/arrow.ts";

const folder = temporaryFolder();
const environment = { ...process.env };
beforeAll(() => {
  process.env.BUN_GRPO_CACHE = folder.file("cache");
});
afterAll(() => {
  process.env.BUN_GRPO_CACHE = environment.BUN_GRPO_CACHE;
  if (environment.BUN_GRPO_CACHE === undefined) delete process.env.BUN_GRPO_CACHE;
  folder.remove();
});

/** Writes files, each given by its content or by the rows [from, to) of an Arrow stream; returns the folder. */
function make(name: string, files: Record<string, string | readonly [number, number]>): string {
  for (const [path, content] of Object.entries(files)) {
    const target = folder.file(join(name, path));
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, typeof content === "string" ? content : ipcBytes(tableOf(...content, ["text", "real"])));
  }
  return folder.file(name);
}

const state = (...shards: string[]) =>
  JSON.stringify({ _data_files: shards.map((filename) => ({ filename })), _fingerprint: "0", _split: null });

function rows(path: string, split?: string): unknown[] {
  const dataset = openDataset(path, { split });
  try {
    return Array.from({ length: dataset.numRows }, (_, i) => dataset.row(i).real);
  } finally {
    dataset.close();
  }
}

const reals = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => rowOf(from + i).real);

const fails = (path: string, message: RegExp, split?: string) => {
  expect(() => rows(path, split)).toThrow(InputError);
  expect(() => rows(path, split)).toThrow(message);
};

describe("folders", () => {
  test("save_to_disk: the shards of state.json in its order, and no others", () => {
    const path = make("saved", {
      "state.json": state("data-00001.arrow", "data-00000.arrow", "data-00002.arrow"),
      "dataset_info.json": "{}",
      "data-00000.arrow": [10, 15],
      "data-00001.arrow": [0, 10],
      "data-00002.arrow": [15, 15],
      "old.arrow": [90, 99],
    });
    expect(rows(path)).toEqual(reals(0, 15));
    expect(rows(path, "test")).toEqual(reals(0, 15)); // one split, whatever its name
  });

  test("rows are found in all shards, in any order", () => {
    const path = make("many", {
      "state.json": state("a.arrow", "b.arrow", "c.arrow"),
      "a.arrow": [0, 4],
      "b.arrow": [4, 4],
      "c.arrow": [4, 9],
    });
    const dataset = openDataset(path);
    expect(dataset).toMatchObject({ path, numRows: 9 });
    expect(dataset.shards).toHaveLength(3);
    for (const i of [8, 0, 4, 3, 7]) expect(dataset.row(i).real).toBe(i / 4);
    for (const i of [-1, 9, 0.5]) expect(() => dataset.row(i)).toThrow(RangeError);
    dataset.close();
  });

  test("a DatasetDict by split", () => {
    const path = make("dict", {
      "dataset_dict.json": '{"splits": ["train", "test"]}',
      "train/state.json": state("data-00000-of-00001.arrow"),
      "train/data-00000-of-00001.arrow": [0, 5],
      "test/state.json": state("data-00000-of-00001.arrow"),
      "test/data-00000-of-00001.arrow": [5, 7],
    });
    expect(rows(path)).toEqual(reals(0, 5));
    expect(rows(path, "test")).toEqual(reals(5, 7));
    fails(path, /no split "validation"; it has train, test/, "validation");
  });

  test("plain .arrow files: by split if their names tell, else all of them", () => {
    const cache = make("hub", {
      "gsm8k-train-00000-of-00002.arrow": [0, 2],
      "gsm8k-train-00001-of-00002.arrow": [2, 4],
      "gsm8k-test.arrow": [4, 5],
      "cache-0123.arrow": [7, 9],
    });
    expect(rows(cache)).toEqual(reals(0, 4));
    expect(rows(cache, "test")).toEqual(reals(4, 5));
    fails(cache, /no split "dev"; it has test, train|no split "dev"; it has train, test/, "dev");
    expect(rows(make("plain", { "a.arrow": [0, 2], "b.arrow": [2, 3] }))).toEqual(reals(0, 3));
  });

  test("missing and mismatched parts are named", () => {
    fails(folder.file("nowhere.arrow"), /no such file or folder; check the path$/);
    expect(() => openDataset("owner/name")).toThrow(/grpo data download owner\/name/);
    fails(make("empty", { "readme.md": "" }), /no \.arrow files in it/);
    fails(make("gone", { "state.json": state("a.arrow", "b.arrow"), "a.arrow": [0, 1] }), /b\.arrow: this shard, of 2/);
    fails(make("odd", { "state.json": "{}" }), /state\.json: not as datasets writes it \(unexpected "_data_files"\)/);
    fails(make("torn", { "state.json": "{" }), /it is not JSON/);
    fails(make("none", { "state.json": state() }), /_data_files is empty/);
    fails(make("dict2", { "dataset_dict.json": '{"splits": ["train"]}' }), /train: no such folder/);
    const indices = JSON.stringify({
      _data_files: [{ filename: "a.arrow" }],
      _indices_data_files: [{ filename: "i" }],
    });
    fails(make("indices", { "state.json": indices, "a.arrow": [0, 1] }), /flatten_indices/);
  });

  test("shards whose columns differ: columns in use must be in all of them; others are present row by row", async () => {
    const path = make("differ", { "a.arrow": [0, 2] });
    writeFileSync(join(path, "b.arrow"), ipcBytes(tableOf(0, 2, ["text", "whole"])));
    const dataset = openDataset(path);
    expect(Array.from({ length: 4 }, (_, i) => Object.keys(dataset.row(i)))).toEqual([
      ["text", "real"],
      ["text", "real"],
      ["text", "whole"],
      ["text", "whole"],
    ]);
    expect(findColumns(dataset, { promptColumn: "text" }).prompt.name).toBe("text");
    expect(() => findColumns(dataset, { promptColumn: "whole" })).toThrow(
      /a\.arrow: no column "whole" \(prompt_column\)/,
    );
    dataset.close();
    const output = folder.file("one.arrow");
    await expect(convertToArrow(path, output)).rejects.toThrow(
      /b\.arrow: column "real" is not there, and double in .*a\.arrow/,
    );
    await convertToArrow(path, output, { columns: ["text"] });
    expect(rows(output)).toHaveLength(4);
  });
});

test("splits by file name", () => {
  const names: Record<string, string | undefined> = {
    "train-00000-of-00001.parquet": "train",
    "data/test-00000-of-00001-0a1b2c.parquet": "test",
    "train_sft-00003-of-00012.parquet": "train_sft",
    "openai-gsm8k_test.jsonl": "test",
    "main/validation/0000.parquet": "validation",
    "data-00000-of-00002.arrow": undefined,
    "contest.jsonl": undefined,
  };
  for (const [name, split] of Object.entries(names)) expect([name, splitOf(name)]).toEqual([name, split]);
  expect(chooseSplit(["a.arrow", "b.arrow"], "test")).toEqual({ files: ["a.arrow", "b.arrow"], splits: [] });
});

describe("loadDataset", () => {
  const lines = '{"question": "1 + 1?", "answer": "2"}\n{"question": "2 + 2?", "answer": "4"}\n';

  test("JSON Lines are converted once, and again when they change", async () => {
    const path = folder.file("problems.jsonl.gz", gzipSync(lines));
    const told: string[] = [];
    const load = async () => {
      const dataset = await loadDataset(path, { onProgress: (text) => told.push(text) });
      const last = dataset.row(dataset.numRows - 1);
      dataset.close();
      return last;
    };
    expect(await load()).toEqual({ question: "2 + 2?", answer: "4" });
    expect(await load()).toEqual({ question: "2 + 2?", answer: "4" });
    expect(told).toEqual([`converting ${path}`]);
    writeFileSync(path, gzipSync(`${lines}{"question": "3 + 3?", "answer": "6"}\n`));
    expect(await load()).toEqual({ question: "3 + 3?", answer: "6" });
    expect(told).toHaveLength(2);
    expect(readdirSync(folder.file("cache/converted")).filter((name) => !name.endsWith(".arrow"))).toEqual([]);
  });

  test("Arrow is opened in place", async () => {
    const path = folder.file("here.data", ipcBytes(tableOf(0, 3)));
    const dataset = await loadDataset(path);
    expect(dataset.shards[0]!.path).toBe(path);
    expect(dataset.row(2)).toEqual(rowOf(2));
    dataset.close();
  });

  test("a folder of JSON Lines by split", async () => {
    const path = make("lines", { "data/train.jsonl": lines, "data/test.jsonl": '{"question": "0?", "answer": "0"}\n' });
    const dataset = await loadDataset(path, { split: "test" });
    expect(dataset.numRows).toBe(1);
    dataset.close();
    await expect(loadDataset(path, { split: "dev" })).rejects.toThrow(/no split "dev"/);
  });

  test("columns of mixed types vary by row, and may be selected", async () => {
    const rows = [
      '{"question": "a?", "answer": 5, "x": "hard", "y": {"k": 1}, "z": 1.0, "twice": 1, "twice": 2}',
      '{"question": "b?", "answer": "#### 6", "x": 3, "y": {"k": "s"}, "z": 100000000000000000000}',
      '{"question": "c?", "answer": 9007199254740993, "y": {"k": "\\ud800"}, "z": 1e400}',
    ];
    const dataset = await loadDataset(folder.file("mixed.jsonl", rows.join("\n")));
    expect(Array.from({ length: 3 }, (_, i) => dataset.row(i))).toEqual([
      { question: "a?", answer: 5, x: "hard", y: { k: 1 }, z: 1 },
      { question: "b?", answer: "#### 6", x: 3, y: { k: "s" }, z: 10n ** 20n },
      { question: "c?", answer: 2n ** 53n + 1n, x: null, y: { k: "\ud800" }, z: "1e400" },
    ]);
    const columns = findColumns(dataset);
    expect([0, 1, 2].map((i) => exampleAt(dataset, columns, i).gold)).toEqual(["5", "6", "9007199254740993"]);
    expect(dataset.columns.find(({ name }) => name === "x")!.type).toBe(
      "mixed (line 2: int64 here but string before (line 1))",
    );
    expect(() => findColumns(dataset, { answerColumn: "twice" })).toThrow(/line 1 has the key "twice" twice/);
    const inside = findColumns(dataset, { answerColumn: "y.k" });
    expect([0, 1].map((i) => exampleAt(dataset, inside, i).gold)).toEqual(["1", "s"]);
    dataset.close();
  });

  test("configurations by folder: the hub's, and the cache of datasets", async () => {
    const path = make("configs", {
      "main/train-00000-of-00001.jsonl": lines,
      "main/test-00000-of-00001.jsonl": '{"question": "0?"}\n',
      "other/train-00000-of-00001.jsonl": '{"question": "other?"}\n',
    });
    const hash = "0".repeat(40);
    const cache = make("owner___name", {
      [`main/0.0.0/${hash}/name-train.arrow`]: [0, 3],
      [`main/0.0.0/${hash}/name-test.arrow`]: [3, 4],
      [`main/0.0.0/${hash}/cache-1234.arrow`]: [3, 9],
      [`other/0.0.0/${hash}/name-train.arrow`]: [4, 9],
    });
    const count = async (folder: string, options: Parameters<typeof loadDataset>[1]) => {
      const dataset = await loadDataset(folder, options);
      dataset.close();
      return dataset.numRows;
    };
    expect(await count(path, {})).toBe(2);
    expect(await count(path, { config: "main", split: "test" })).toBe(1);
    expect(await count(path, { config: "other" })).toBe(1);
    expect(await count(cache, {})).toBe(3);
    expect(await count(cache, { split: "test" })).toBe(1);
    expect(await count(cache, { config: "other" })).toBe(5);
    await expect(count(path, { config: "third" })).rejects.toThrow(
      /no configuration "third"; choose with --dataset_config: main, other/,
    );
    await expect(count(folder.file("dict"), { config: "main" })).rejects.toThrow(/no configuration "main" in it/);
  });

  test("a missing path is not looked up on the hub", async () => {
    await expect(loadDataset("/nowhere/at/all.arrow")).rejects.toThrow(/no such file or folder/);
    await expect(loadDataset("missing.jsonl")).rejects.toThrow(InputError);
  });

  test("an unresponsive hub gives one line with the cure", async () => {
    process.env.HF_ENDPOINT = "http://127.0.0.1:1";
    try {
      const failed = loadDataset("owner/name");
      await expect(failed).rejects.toBeInstanceOf(InputError);
      await expect(failed).rejects.toThrow(/no file or folder owner\/name here.*check the network/);
      expect(existsSync(folder.file("cache/datasets"))).toBe(false);
    } finally {
      if (environment.HF_ENDPOINT === undefined) delete process.env.HF_ENDPOINT;
      else process.env.HF_ENDPOINT = environment.HF_ENDPOINT;
    }
  });
});
