/** Datasets of the hub: which files are which configuration and split, the hub's own copy in Parquet, and the cache. */
import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { downloadDataset } from "../../src/data/download.ts";
import { loadDataset } from "../../src/data/load.ts";
import { InputError } from "../../src/errors.ts";
import { datasetName, hubName } from "../../src/hub/names.ts";
import { withHub } from "../fixtures/hub/environment.ts";
import { commitTo, type Files } from "../fixtures/hub/repositories.ts";

const { hub, root } = withHub();
const parquet = readFileSync(resolve(import.meta.dir, "../fixtures/data/problems.parquet"));
const lines = (...questions: string[]) =>
  questions.map((question) => `${JSON.stringify({ question, answer: "1" })}\n`).join("");

const notes: string[] = [];
async function questions(name: string, options: { config?: string; split?: string } = {}): Promise<unknown[]> {
  const dataset = await loadDataset(name, { ...options, onProgress: (text) => void notes.push(text) });
  const found = Array.from({ length: dataset.numRows }, (_, i) => dataset.row(i).question);
  dataset.close();
  return found;
}

async function refusal(name: string, options: { config?: string; split?: string } = {}): Promise<string> {
  const error = await questions(name, options).catch((thrown) => thrown);
  expect(error).toBeInstanceOf(InputError);
  return (error as InputError).message;
}

/** The files that a dataset has as the hub's copy, beside its own. */
function withCopy(id: string, files: Files, copy: Files) {
  const repo = hub.add("dataset", id, files);
  commitTo(repo, "refs/convert/parquet", copy);
  return repo;
}

test("names", () => {
  expect(hubName("org/name@refs/pr/1")).toEqual({ id: "org/name", revision: "refs/pr/1" });
  expect(datasetName("squad@v1.0")).toEqual({ id: "squad", revision: "v1.0" });
  for (const path of ["a/b/c", "./x", "x.jsonl", "org/x.parquet", "org/na..me", "org/a--b", "org/name@../x", ""])
    expect(datasetName(path)).toBeNull();
  expect(hubName("name")).toBeNull();
});

test("Parquet: only the split that is asked for is downloaded, in the shared cache; offline afterwards", async () => {
  const repo = hub.add("dataset", "org/parquet", {
    "README.md": "# about",
    "data/train-00000-of-00002.parquet": parquet,
    "data/train-00001-of-00002.parquet": parquet,
    "data/test-00000-of-00001.parquet": parquet,
    "script.py": "",
  });
  const found = await questions("org/parquet");
  expect(found.length).toBeGreaterThan(0);
  expect(found.slice(0, found.length / 2)).toEqual(found.slice(found.length / 2));
  const snapshot = join(process.env.HF_HOME!, "hub/datasets--org--parquet/snapshots", repo.refs.get("main")!);
  expect(readdirSync(join(snapshot, "data")).sort()).toEqual([
    "train-00000-of-00002.parquet",
    "train-00001-of-00002.parquet",
  ]);
  expect(readdirSync(snapshot).sort()).toEqual(["README.md", "data"]);
  expect(await refusal("org/parquet", { split: "dev" })).toMatch(/no split "dev"; it has test, train/);
  process.env.HF_DATASETS_OFFLINE = "1";
  hub.log.length = 0;
  expect(await questions("org/parquet")).toEqual(found);
  expect(await refusal("org/parquet", { split: "test" })).toContain("HF_DATASETS_OFFLINE limits this run to the cache");
  expect(hub.log).toEqual([]);
});

test("a revision", async () => {
  const repo = hub.add("dataset", "org/old", { "train.jsonl": lines("old") });
  repo.refs.set("v1", repo.refs.get("main")!);
  commitTo(repo, "main", { "train.jsonl": lines("new") });
  expect(await questions("org/old")).toEqual(["new"]);
  expect(await questions("org/old@v1")).toEqual(["old"]);
  expect(await refusal("org/old@v2")).toContain('org/old: there is no revision "v2"; name a branch, tag or commit');
});

test("the card's configurations override folders and names", async () => {
  const card = `---
license: cc-by-4.0
configs:
- config_name: easy
  data_files:
  - split: train
    path: files/a*.jsonl
  - split: test
    path: [files/b.jsonl]
- config_name: hard
  default: true
  data_files: files/c.jsonl
---
# About`;
  const files = { "files/a1.jsonl": lines("a1"), "files/a2.jsonl": lines("a2"), "files/b.jsonl": lines("b") };
  hub.add("dataset", "org/card", { "README.md": card, ...files, "files/c.jsonl": lines("c") });
  expect(await questions("org/card")).toEqual(["c"]);
  expect(await questions("org/card", { config: "easy" })).toEqual(["a1", "a2"]);
  expect(await questions("org/card", { config: "easy", split: "test" })).toEqual(["b"]);
  expect(await refusal("org/card", { config: "none" })).toContain("choose with --dataset_config: easy, hard");
  hub.add("dataset", "org/broken-card", { "README.md": "---\n: [\n---\n", "train.jsonl": lines("x") });
  expect(await questions("org/broken-card")).toEqual(["x"]);
});

test("without Parquet of its own, the copy that the hub makes is read", async () => {
  const copy = { "main/train/0000.parquet": parquet, "main/hard_test/0000.parquet": parquet };
  withCopy("org/script", { "script.py": "", "data.zip": "x" }, copy);
  expect((await questions("org/script")).length).toBeGreaterThan(0);
  expect((await questions("org/script", { split: "hard_test" })).length).toBeGreaterThan(0);
  expect(hub.downloads().some((path) => path.includes("data.zip"))).toBe(false);
  process.env.HF_HUB_OFFLINE = "1";
  expect((await questions("org/script")).length).toBeGreaterThan(0);
});

test("no copy, or a part of one: the dataset's own JSON, or one line", async () => {
  hub.add("dataset", "org/json", { "train.jsonl": lines("own") });
  expect(await questions("org/json")).toEqual(["own"]);
  const partial = { "default/partial-train/0000.parquet": parquet };
  withCopy("org/large", { "train.jsonl": lines("own") }, partial);
  expect(await questions("org/large")).toEqual(["own"]);
  withCopy("org/larger", { "x.csv": "a,b" }, partial);
  expect(await refusal("org/larger")).toContain("has converted only its first 5 GB");
  hub.add("dataset", "org/none", { "README.md": "x" });
  expect(await refusal("org/none")).toContain("has no Parquet, Arrow or JSON files, and the hub no copy");
});

test("gated, missing, a proxy: one line each, with the path that was tried first", async () => {
  hub.add("dataset", "org/gated", { "train.jsonl": lines("x") }, "gated");
  expect(await refusal("org/gated")).toMatch(
    /gated \(401\); accept its terms at .*\/datasets\/org\/gated, then set HF_TOKEN/,
  );
  expect(await refusal("org/absent")).toMatch(
    /^no file or folder org\/absent here, and as a dataset on the hub: org\/absent: the hub has no public dataset/,
  );
  hub.faults.page = true;
  expect(await refusal("org/json")).toContain("is not the hub");
});

test("download names the source and the licence", async () => {
  hub.add("dataset", "org/licensed", { "README.md": "---\nlicense: mit\n---\n", "train.jsonl": lines("x") });
  const target = join(root, "licensed");
  const { licence, source } = await downloadDataset("org/licensed", target);
  expect(licence).toBe("mit");
  expect(source).toMatch(/\/datasets\/org\/licensed at [0-9a-f]{7}$/);
  expect(existsSync(join(target, "train/data-00000-of-00001.arrow"))).toBe(true);
  await expect(downloadDataset("no/such/name", join(root, "none"))).rejects.toThrow(/not the name of a dataset/);
});
