/** push_to_hub and `grpo push` against a local hub: what arrives there, what a failure costs, and that no token is written. */
import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { modelCard } from "../../src/api/model-card.ts";
import { startHub } from "../fixtures/hub/server.ts";

const main = resolve(import.meta.dir, "../../src/cli/main.ts");
const token = "hf_abcdefghijklmnopqrstuvwxyz01234567";
const hub = startHub();
hub.users.set(token, "writer");
const root = mkdtempSync(join(tmpdir(), "bun-grpo-push-"));
afterAll(() => {
  hub.stop();
  rmSync(root, { recursive: true, force: true });
});
beforeEach(() => {
  for (const fault of Object.keys(hub.faults)) delete hub.faults[fault as keyof typeof hub.faults];
  hub.log.length = 0;
});

async function grpo(argv: readonly string[], variables: Record<string, string> = { HF_TOKEN: token }) {
  const { HF_TOKEN: _, HF_HUB_CACHE: __, HF_HUB_OFFLINE: ___, ...rest } = process.env;
  const env = { ...rest, HF_ENDPOINT: hub.url, HF_HOME: join(root, "home"), ...variables };
  const child = Bun.spawn([process.execPath, main, ...argv], { cwd: root, env, stdout: "pipe", stderr: "pipe" });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  const code = await child.exited;
  expect(out + err).not.toContain(token);
  return { code, out, err };
}

const tiny = [
  "--max_steps",
  "2",
  "--per_device_train_batch_size",
  "16",
  "--num_generations",
  "4",
  "--eval_samples",
  "4",
];
const filesOf = (id: string, branch = "main") => {
  const repo = hub.repo("model", id)!;
  return repo.commits.get(repo.refs.get(branch)!)!;
};
const everything = (folder: string) =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => readFileSync(join(entry.parentPath, entry.name), "latin1"));

describe("push_to_hub", () => {
  test("the final model with its card; the checkpoints as hub_strategy says; no token anywhere", async () => {
    const argv = ["train", "--output_dir", "run", ...tiny, "--save_steps", "1", "--push_to_hub", "--hub_token", token];
    const strategy = ["--hub_model_id", "maths", "--hub_strategy", "all_checkpoints", "--hub_private_repo"];
    const { code, out, err } = await grpo([...argv, ...strategy], {});
    expect({ code, err }).toEqual({ code: 0, err: expect.any(String) });
    expect(out).toContain(`pushed the model to ${hub.url}/writer/maths`);
    expect(out).toContain(`pushed step 1 to ${hub.url}/writer/maths`);
    const repo = hub.repo("model", "writer/maths")!;
    expect(repo.access).toBe("private");
    // Made empty; two checkpoints; the end.
    expect(repo.commits.size).toBe(4);
    const files = filesOf("writer/maths");
    expect([...files.keys()].sort()).toEqual(
      expect.arrayContaining([
        ...["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
        ...["checkpoint-1/optimizer.safetensors", "checkpoint-2/trainer_state.json"],
      ]),
    );
    expect([...files.keys()].filter((path) => /metrics|completions|run\.json/.test(path))).toEqual([]);
    for (const path of ["model.safetensors", "config.json", "README.md"])
      expect(files.get(path)).toEqual(readFileSync(join(root, "run", path)));
    const card = files.get("README.md")!.toString();
    expect(card).toStartWith("---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- grpo\n");
    for (const part of ["## Reward", "## Evaluation", "## Settings", "## Versions", "| num_generations | `4` |"])
      expect(card).toContain(part);
    expect(card).not.toContain(root);
    for (const text of [...everything(join(root, "run")), ...[...files.values()].map(String)])
      expect(text.includes(token)).toBe(false);
    // The store of large files never sees it.
    expect(hub.log.filter(({ at, token }) => at === "store" && token !== null)).toEqual([]);
  }, 60_000);

  test("a push that fails ends nothing: one line with the command that pushes again, which then works", async () => {
    hub.faults.refusesUploads = true;
    // Other weights than those that the store has.
    const argv = ["train", "--output_dir", "failed run", ...tiny, "--seed", "7", "--save_steps", "0", "--push_to_hub"];
    const { code, out } = await grpo([...argv, "--hub_model_id", "writer/again", "--hub_revision", "v1"]);
    expect(code).toBe(1);
    const line = out.split("\n").find((text) => text.includes("the push to the hub failed"))!;
    expect(line).toMatch(/failed \(.*the store of large files answers 500\)+; nothing is lost, push again with: /);
    const retry = line.slice(line.indexOf("bun run push ") + "bun run push ".length);
    expect(retry).toBe("'failed run' --hub_model_id writer/again --hub_revision v1");
    expect(existsSync(join(root, "failed run/model.safetensors"))).toBe(true);
    delete hub.faults.refusesUploads;
    const again = ["push", "failed run", "--hub_model_id", "writer/again", "--hub_revision", "v1"];
    const pushed = await grpo(again);
    expect(pushed.code).toBe(0);
    expect(pushed.out).toMatch(/\/writer\/again \(commit [0-9a-f]{7}\)\n$/);
    expect(filesOf("writer/again", "v1").get("model.safetensors")).toEqual(
      readFileSync(join(root, "failed run/model.safetensors")),
    );
    expect([...filesOf("writer/again").keys()]).toEqual([".gitattributes"]);
    // A card of the user's own stays.
    writeFileSync(join(root, "failed run/README.md"), "mine");
    expect((await grpo(again)).code).toBe(0);
    expect(filesOf("writer/again", "v1").get("README.md")!.toString()).toBe("mine");
    expect(readFileSync(join(root, "failed run/README.md"), "utf8")).toBe("mine");
  }, 60_000);

  test.each([
    [{}, ["--hub_model_id", "x"], /push_to_hub: needs a token with write access; make one at .* and set HF_TOKEN/],
    [{ HF_TOKEN: "secret" }, [], /the token does not begin with hf_/],
    [{ HF_TOKEN: `${token}x` }, [], /does not accept your token \(401\)/],
    [{ HF_TOKEN: token, HF_HUB_OFFLINE: "1" }, [], /HF_HUB_OFFLINE forbids the network/],
    [{ HF_TOKEN: token }, ["--hub_model_id", "a b"], /hub_model_id a b: not a name on the hub/],
  ] as const)("what cannot succeed is refused before the run: %j %j", async (variables, argv, message) => {
    const { code, err } = await grpo(["train", "--output_dir", "none", ...tiny, "--push_to_hub", ...argv], variables);
    expect(code).toBe(2);
    expect(err).toMatch(message);
    expect(err.trimEnd().split("\n")).toHaveLength(1);
    expect(existsSync(join(root, "none/metrics.jsonl"))).toBe(false);
  });
});

test("train on a model and a dataset of the hub, by name and revision; what is missing is one line, exit 2", async () => {
  const folder = join(import.meta.dir, "../../data/model");
  const files = Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]));
  const repo = hub.add("model", "org/tiny", files);
  repo.refs.set("v1", repo.refs.get("main")!);
  const rows = Array.from({ length: 16 }, (_, i) =>
    JSON.stringify({ question: `${i} + 1 = `, answer: `#### ${i + 1}` }),
  );
  hub.add("dataset", "org/sums", { "train.jsonl": rows.join("\n") });
  const named = [
    "--model",
    "org/tiny",
    "--model_revision",
    "v1",
    "--dataset",
    "org/sums",
    "--max_completion_length",
    "8",
  ];
  const { code, out } = await grpo(["train", "--output_dir", "by name", ...tiny, ...named]);
  expect(code).toBe(0);
  expect(out).toMatch(/downloading org\/tiny@v1: \d files, .*\ndownloaded org\/tiny@v1 in /);
  expect(out).toContain("downloading org/sums: 1 file");
  // Metadata names the repository, and the run's settings what was asked for.
  expect(modelCard(join(root, "by name"), "me/x", null)).toContain("base_model: org/tiny\ndatasets:\n- org/sums\n");
  for (const argv of [
    ["--model", "org/absent", "--dataset", "org/sums"],
    ["--model", "org/tiny", "--dataset", "org/absent"],
    ["--model", "org/tiny@v2", "--dataset", "org/sums"],
  ]) {
    const { code, err } = await grpo(["train", "--output_dir", "none", ...tiny, ...argv]);
    expect(code).toBe(2);
    expect(err.trimEnd().split("\n")).toHaveLength(1);
  }
}, 60_000);

test("grpo push says what is wrong", async () => {
  const model = join(root, "a model"); // a push writes its card into the folder
  cpSync(join(import.meta.dir, "../../data/model"), model, { recursive: true });
  const cases: readonly (readonly [argv: string[], message: RegExp])[] = [
    [[], /DIR is missing/],
    [["nowhere"], /nowhere: no such folder/],
    [["."], /holds no model/],
    [[model, "--hub_model_id", "other/x"], /your token may not write there \(403/],
  ];
  for (const [argv, message] of cases) {
    const { code, err } = await grpo(["push", ...argv]);
    expect(code).toBe(2);
    expect(err).toMatch(message);
  }
  hub.faults.page = true;
  const { code, err } = await grpo(["push", model, "--hub_model_id", "writer/x"]);
  expect(code).toBe(2);
  expect(err).toContain("is not the hub");
}, 30_000);

test("a model card: names of the hub as metadata, no paths, no tokens, the curve of all steps", () => {
  const folder = mkdtempSync(join(root, "card-"));
  const settings = {
    ...{ model: "Qwen/Qwen3-0.6B@main", dataset: "openai/gsm8k", advantage_estimator: "grpo", beta: 0.1 },
    ...{ reward_funcs: ["/home/me/secret/reward.ts", "format"], system_prompt: `say ${token}`, output_dir: folder },
  };
  writeFileSync(join(folder, "run.json"), JSON.stringify({ command: "train", bundled: false, settings }));
  const steps = Array.from({ length: 1000 }, (_, i) => JSON.stringify({ step: i + 1, reward: i / 1000, kl: 0.01 }));
  const evaluations = [0, 1000].map((step) => JSON.stringify({ step, eval_accuracy: step / 2000 }));
  writeFileSync(join(folder, "metrics.jsonl"), `${[...steps, ...evaluations].join("\n")}\n{"step": 1001, "rew`);
  const card = modelCard(folder, "me/maths", null)!;
  expect(Bun.YAML.parse(card.split("---\n")[1]!)).toEqual({
    base_model: "Qwen/Qwen3-0.6B",
    datasets: ["openai/gsm8k"],
    library_name: "transformers",
    pipeline_tag: "text-generation",
    tags: ["grpo", "reinforcement-learning", "bun-grpo"],
  });
  expect(card).toContain("▁");
  expect(card).toContain("█");
  expect(card).toContain("| reward_funcs | `reward.ts, format` |");
  expect(card).toContain("| 1000 | 0.5000 |");
  for (const secret of [token, "/home/me", folder]) expect(card).not.toContain(secret);
  expect(modelCard(folder, "me/maths", card)).toBe(card);
  expect(modelCard(folder, "me/maths", "my own")).toBeNull();
});
