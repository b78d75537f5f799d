/**
 * The hub's cache shared with Python's huggingface_hub, both ways, and a pushed model read by transformers, against a local
 * hub. Runs where such a Python is found: BUN_GRPO_PYTHON, else python3. What it lacks is printed otherwise.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { startHub } from "../fixtures/hub/server.ts";

const main = resolve(import.meta.dir, "../../src/cli/main.ts");
const script = join(import.meta.dir, "hub_python.py");
const model = resolve(import.meta.dir, "../../data/model");
const python = process.env.BUN_GRPO_PYTHON ?? "python3";

/** What this Python lacks of the modules; null: nothing. */
function lacking(modules: string): string | null {
  if (Bun.which(python) === null) return `there is no ${python}`;
  const { success } = Bun.spawnSync([python, "-c", `import ${modules}`], { stderr: "ignore" });
  return success ? null : `${python} has no ${modules}: pip install it, and name it in BUN_GRPO_PYTHON`;
}

const without = {
  hub: lacking("huggingface_hub"),
  datasets: lacking("datasets"),
  torch: lacking("torch, transformers"),
};
for (const reason of new Set(Object.values(without)))
  if (reason !== null) console.warn(`hub-python.test.ts: not everything runs: ${reason}`);

const root = mkdtempSync(join(tmpdir(), "bun-grpo-hub-python-"));
const token = "hf_abcdefghijklmnopqrstuvwxyz01234567";
const hub = startHub();
hub.users.set(token, "writer");
const files = Object.fromEntries(readdirSync(model).map((name) => [name, readFileSync(join(model, name))]));
afterAll(() => {
  hub.stop();
  rmSync(root, { recursive: true, force: true });
});
beforeAll(() => {
  hub.add("model", "org/tiny", { ...files, "README.md": "about", "pytorch_model.bin": "pickle" });
});

function environment(home: string, more: Record<string, string> = {}): Record<string, string> {
  const kept = Object.entries(process.env).filter(([name]) => !/^(HF_|HUGGING|TRANSFORMERS_)/.test(name));
  return {
    ...(Object.fromEntries(kept) as Record<string, string>),
    ...{ HF_ENDPOINT: hub.url, HF_HOME: join(root, home) },
    ...{ HF_HUB_DISABLE_TELEMETRY: "1", HF_HUB_DISABLE_UPDATE_CHECK: "1", ...more },
  };
}

async function ran(argv: readonly string[], env: Record<string, string>): Promise<string> {
  const child = Bun.spawn([...argv], { cwd: root, env, stdout: "pipe", stderr: "pipe" });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  const code = await child.exited;
  if (code !== 0) throw new Error(`${argv.join(" ")}: exit ${code}\n${out}\n${err}`);
  return out;
}

const grpo = (argv: readonly string[], env: Record<string, string>) => ran([process.execPath, main, ...argv], env);
const inPython = (argv: readonly string[], env: Record<string, string>) => ran([python, script, ...argv], env);
const generate = ["generate", "--model", "org/tiny", "--prompt", "1 + 1", "--max_completion_length", "4"];

describe.skipIf(without.hub !== null)("the cache", () => {
  for (const way of ["snapshot", "files"] as const)
    test(`filled by Python (${way}), used by us without a download`, async () => {
      const env = environment(`python-${way}`);
      await inPython([way, "org/tiny"], env);
      hub.log.length = 0;
      const online = await grpo(generate, env);
      expect(hub.downloads()).toEqual([]);
      hub.log.length = 0;
      expect(await grpo(generate, { ...env, HF_HUB_OFFLINE: "1" })).toBe(online);
      expect(hub.log).toEqual([]);
    }, 60_000);

  test("filled by us, used by Python without a download", async () => {
    const env = environment("ours");
    await grpo(generate, env);
    const repo = join(root, "ours/hub/models--org--tiny");
    const before = readdirSync(join(repo, "blobs")).sort();
    hub.log.length = 0;
    await inPython(["snapshot", "org/tiny", "needed"], env);
    await inPython(["files", "org/tiny"], env);
    expect(hub.downloads()).toEqual([]);
    expect(readdirSync(join(repo, "blobs")).sort()).toEqual(before);
    hub.log.length = 0;
    await inPython(["snapshot", "org/tiny", "needed"], { ...env, HF_HUB_OFFLINE: "1" });
    expect(hub.log).toEqual([]);
    // Python sees a whole cache: its own scan finds nothing wrong.
    expect(await inPython(["scan"], env)).toBe("org/tiny: 1 revision, 0 warnings\n");
  }, 60_000);

  test("what Python left incomplete is continued", async () => {
    const env = environment("left");
    await inPython(["files", "org/tiny"], env);
    const blobs = join(root, "left/hub/models--org--tiny/blobs");
    const [large] = readdirSync(blobs).filter((name) => name.length === 64);
    const bytes = readFileSync(join(blobs, large!));
    rmSync(join(blobs, large!));
    await Bun.write(join(blobs, `${large}.incomplete`), bytes.subarray(0, 1000));
    hub.log.length = 0;
    await grpo(generate, env);
    expect(hub.log.filter(({ at }) => at === "store").map(({ range }) => range)).toEqual(["bytes=1000-"]);
    expect(readFileSync(join(blobs, large!))).toEqual(bytes);
  }, 60_000);
});

describe.skipIf(without.datasets !== null)("datasets", () => {
  test("of the hub: Python and we read the same rows from one cache", async () => {
    const env = environment("data");
    const path = join(root, "problems.parquet");
    await inPython(["parquet", path], env);
    hub.add("dataset", "org/problems", {
      "README.md": "about",
      "data/train-00000-of-00001.parquet": readFileSync(path),
    });
    const rows = await inPython(["dataset", "org/problems"], { ...env, HF_DATASETS_CACHE: join(root, "prepared") });
    hub.log.length = 0;
    const info = await grpo(["data", "info", "org/problems"], { ...env, BUN_GRPO_CACHE: join(root, "made") });
    expect(hub.downloads().filter((path) => !path.includes("README"))).toEqual([]);
    expect(rows).toBe("2\n");
    expect(info).toContain("2 rows");
    expect(info).toContain("prompt from question, gold answer from answer");
  }, 60_000);
});

describe.skipIf(without.torch !== null)("push_to_hub", () => {
  test("transformers loads what was pushed, with the same logits", async () => {
    const env = environment("pushed", { HF_TOKEN: token });
    const sizes = ["--max_steps", "1", "--per_device_train_batch_size", "8", "--num_generations", "4"];
    const argv = ["train", "--output_dir", "run", ...sizes, "--eval_samples", "2", "--push_to_hub"];
    await grpo([...argv, "--hub_model_id", "maths", "--hub_private_repo"], env);
    const ours = join(root, "scores.jsonl");
    const ids = { prompt_ids: [5, 9, 12, 30], completion_ids: [7, 8, 21, 3, 17], group: 0 };
    await Bun.write(join(root, "input.jsonl"), `${JSON.stringify(ids)}\n`);
    await grpo(["score", "--model", "run", "--input", join(root, "input.jsonl"), "--output", ours], env);
    const { logprobs } = JSON.parse(readFileSync(ours, "utf8").split("\n")[0]!) as { logprobs: number[] };
    // Another cache: everything comes from the hub.
    const theirs = JSON.parse(
      await inPython(["logprobs", "writer/maths", JSON.stringify(ids)], environment("other", { HF_TOKEN: token })),
    ) as number[];
    expect(hub.downloads().length).toBeGreaterThan(0);
    expect(theirs).toHaveLength(logprobs.length);
    for (const [i, value] of theirs.entries()) expect(Math.abs(value - logprobs[i]!)).toBeLessThan(1e-4);
  }, 120_000);
});
