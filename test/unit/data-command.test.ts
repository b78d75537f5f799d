/** `grpo data` on the command line: its output and exit statuses, and a download from a local hub server. */
import { afterAll, describe, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { chooseConfig } from "../../src/data/configurations.ts";
import { openDataset } from "../../src/data/dataset.ts";
import { downloadDataset } from "../../src/data/download.ts";
import { dataFiles } from "../../src/data/hub-files.ts";
import { loadDataset } from "../../src/data/load.ts";
import { InputError } from "../../src/errors.ts";
import { ipcBytes, tableOf, temporaryFolder } from "../fixtures/data/arrow.ts";
import { withHub } from "../fixtures/hub/environment.ts";

const main = resolve(import.meta.dir, "../../src/cli/main.ts");
const folder = temporaryFolder();
const { hub } = withHub();
afterAll(() => folder.remove());

const problems = folder.file(
  "problems.jsonl",
  `${[1, 2, 3].map((i) => JSON.stringify({ question: `What is ${i}\u001b[2J + 1?`, answer: `It is\n#### ${i + 1}` })).join("\n")}\n`,
);

async function grpo(argv: readonly string[], variables: Record<string, string> = {}) {
  const unreachable = { HF_ENDPOINT: "http://127.0.0.1:1" };
  const env = { ...process.env, BUN_GRPO_CACHE: folder.file("cache"), ...unreachable, ...variables };
  const child = Bun.spawn([process.execPath, main, "data", ...argv], { env, stdout: "pipe", stderr: "pipe" });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  return { code: await child.exited, out, err };
}

describe("grpo data", () => {
  test("convert, then info", async () => {
    const output = folder.file("made/problems.arrow");
    const made = await grpo(["convert", problems, output]);
    expect(made).toMatchObject({ code: 0, err: "" });
    expect(made.out).toMatch(/problems\.arrow: 3 rows from JSON Lines, 1 batch, \d/);
    const { code, out } = await grpo(["info", output]);
    expect(code).toBe(0);
    expect(out).toContain("3 rows in 1 batch, 1 file");
    expect(out).toContain("  question  string\n  answer    string\n");
    expect(out).toContain("prompt from question, gold answer from answer\nfirst example (through the chat template):");
    expect(out).toContain("  user: What is 1\uFFFD[2J + 1?\n  gold: 2\n");
  });

  test("info of other formats, and of files that are not training data", async () => {
    const call = { role: "assistant", content: null, tool_calls: [{ name: "f", arguments: { x: 3 } }] };
    const calls = { prompt: [{ role: "user", content: "hi" }, call, { role: "tool", content: "4" }], answer: "4" };
    const chat = await grpo(["info", folder.file("calls.jsonl", `${JSON.stringify(calls)}\n`)]);
    expect(chat.out).toContain('  user: hi\n  assistant: (calls [{"name":"f","arguments":{"x":3}}])\n  tool: 4\n');
    const other = await grpo(["info", problems]);
    expect(other.err).toBe(`converting ${problems}\n`);
    expect(other.out).toContain("3 rows");
    const columns = folder.file("columns.arrow", ipcBytes(tableOf(0, 3, ["text", "real"])));
    const { code, out } = await grpo(["info", columns]);
    expect(code).toBe(0);
    expect(out).toContain("not ready for training: ");
    expect(out).toContain("it has text, real");
    expect((await grpo(["info", columns, "--prompt_column", "large"])).err).toContain('no column "large"');
    expect((await grpo(["info", columns, "--prompt_column", "text"])).err).toContain("row 0"); // its text is null
  });

  test.each([
    [[], /say what to do: convert, info, download/],
    [["conver", "a", "b"], /did you mean convert\?/],
    [["toString"], /not a subcommand of data/],
    [["convert", "in.jsonl"], /OUT\.arrow is missing/],
    [["convert", "a", "b", "c"], /"c": unexpected argument/],
    [["convert", "a", "b", "--split", "x"], /--split/],
    [["convert", "nowhere.jsonl", "out.arrow"], /nowhere\.jsonl: no such file/],
    [["info", "nowhere.arrow"], /no such file or folder/],
    [["info"], /DATASET is missing/],
  ] as const)("%j is refused with one line", async (argv, message) => {
    const { code, out, err } = await grpo(argv);
    expect({ code, out }).toEqual({ code: 2, out: "" });
    expect(err).toMatch(message);
    expect(err.trimEnd().split("\n")).toHaveLength(1);
  });

  test("download without a network: one line, exit 2, nothing left", async () => {
    const target = folder.file("offline");
    const { code, err } = await grpo(["download", "owner/name", "--output_dir", target]);
    expect(code).toBe(2);
    expect(err).toMatch(/^grpo data: owner\/name: the hub cannot be reached .*check the network/);
    expect(readdirSync(folder.path).filter((name) => name.startsWith("offline"))).toEqual([]);
  });
});

describe("download", () => {
  const line = (question: string) => `${JSON.stringify({ question, answer: "#### 1" })}\n`;
  const files: Record<string, string> = {
    "README.md": "about",
    "dataset_infos.json": "{}",
    "main/train-00000-of-00002.jsonl": line("a"),
    "main/train-00001-of-00002.jsonl": line("b"),
    "main/test-00000-of-00001.jsonl": line("c"),
    "other/train-00000-of-00001.jsonl": line("d"),
  };
  const data = hub.add("dataset", "owner/name", files);

  test("becomes a folder in the format of datasets", async () => {
    const target = folder.file("downloaded");
    const { splits } = await downloadDataset("owner/name", target);
    expect(splits).toEqual([
      { name: "test", rows: 1, files: 1 },
      { name: "train", rows: 2, files: 2 },
    ]);
    const questions = (split: string) => {
      const dataset = openDataset(target, { split });
      const found = Array.from({ length: dataset.numRows }, (_, i) => dataset.row(i).question);
      dataset.close();
      return found;
    };
    expect([questions("train"), questions("test")]).toEqual([["a", "b"], ["c"]]);
    expect(readdirSync(`${target}/train`).filter((name) => name.endsWith("download"))).toEqual([]);
    const again = downloadDataset("owner/name", target);
    await expect(again).rejects.toThrow(/the folder is not empty/);
  });

  test("dataset_config chooses what is downloaded, each into its own folder", async () => {
    for (const [config, question] of [
      [null, "a"],
      ["other", "d"],
      ["main", "a"],
    ] as const) {
      const dataset = await loadDataset("owner/name", { config });
      expect(dataset.row(0).question).toBe(question);
      dataset.close();
    }
    // In the cache that all tools of the hub share, and only the split that is asked for.
    const snapshot = join(process.env.HF_HOME!, "hub/datasets--owner--name/snapshots", data.refs.get("main")!);
    expect(readdirSync(snapshot, { recursive: true }).sort()).toEqual([
      "README.md",
      "main",
      "main/train-00000-of-00002.jsonl",
      "main/train-00001-of-00002.jsonl",
      "other",
      "other/train-00000-of-00001.jsonl",
    ]);
    const third = loadDataset("owner/name", { config: "third" });
    await expect(third).rejects.toThrow(/no configuration "third"; choose with --dataset_config: main, other/);
  });

  test("a short name: where it is from, and its licence", async () => {
    const lines = `${JSON.stringify({ question: "a", answer: "#### 1" })}\n`;
    hub.add("dataset", "openai/gsm8k", { "main/train.jsonl": lines, "socratic/train.jsonl": lines });
    const env = { HF_ENDPOINT: hub.url };
    const { code, out } = await grpo(["download", "gsm8k", "--output_dir", folder.file("short")], env);
    expect(code).toBe(0);
    expect(out).toStartWith("GSM8K, Cobbe et al. 2021 (arXiv 2110.14168)\n");
    expect(out).toMatch(/\/datasets\/openai\/gsm8k at [0-9a-f]{7}; licence: mit\n/);
    expect(out).toContain("short: train, 1 row in 1 file");
  });

  test("a dataset missing from the hub is bad input", async () => {
    const missing = downloadDataset("owner/missing", folder.file("missing"));
    await expect(missing).rejects.toBeInstanceOf(InputError);
    await expect(missing).rejects.toThrow(/the hub has no public dataset/);
    const config = downloadDataset("owner/name", folder.file("missing"), { config: "third" });
    await expect(config).rejects.toThrow(/no configuration "third"; choose with --config: main, other/);
    expect(readdirSync(folder.path).filter((name) => name.startsWith("missing"))).toEqual([]);
  });
});

test("the files of one configuration are chosen", () => {
  const choose = (paths: string[], config: string | null = null) =>
    chooseConfig("o/n", dataFiles(paths.toSorted()), config, "--config");
  expect(choose(["data/train-0.parquet", "data/x.json", "README.md"])).toEqual(["data/train-0.parquet"]);
  expect(choose(["train.jsonl", "test.jsonl", "config.json"])).toEqual(["test.jsonl", "train.jsonl"]);
  expect(choose(["default/train/0000.parquet", "default/test/0000.parquet"])).toHaveLength(2);
  expect(choose(["en/train.jsonl"])).toEqual(["en/train.jsonl"]);
  expect(choose(["a/t.parquet", "b/t.parquet"], "b")).toEqual(["b/t.parquet"]);
  expect(() => choose(["a/t.parquet", "b/t.parquet"])).toThrow(/several configurations; choose with --config: a, b/);
  expect(dataFiles(["README.md", "script.py"])).toEqual([]);
});
