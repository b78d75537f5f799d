/**
 * TensorBoard and W&B's client, from PyPI, read what a run wrote for them: the same values as in metrics.jsonl, once each,
 * although the run was stopped and resumed. Runs where such a Python is found: BUN_GRPO_PYTHON, else python3. What it lacks
 * is printed otherwise.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { startWandbServer } from "../fixtures/wandb-server.ts";
import { metricsOf, train, workFolder } from "./runs.ts";

const python = process.env.BUN_GRPO_PYTHON ?? "python3";
const script = join(import.meta.dir, "trackers_python.py");

/** What this Python lacks; null: nothing. */
function lacking(module: string): string | null {
  if (Bun.which(python) === null) return `there is no ${python}`;
  const { success } = Bun.spawnSync([python, "-c", `import ${module}`], { stderr: "ignore" });
  return success ? null : `${python} has no ${module}: pip install it, and name it in BUN_GRPO_PYTHON`;
}

const without = { tensorboard: lacking("tensorboard.backend.event_processing"), wandb: lacking("wandb.cli") };
for (const reason of Object.values(without))
  if (reason !== null) console.warn(`trackers-python.test.ts: not everything runs: ${reason}`);
const needsRun = Object.values(without).includes(null);

const work = workFolder();
const server = startWandbServer();
afterAll(() => {
  server.stop();
  work.remove();
});

async function ran(argv: readonly string[], env: Record<string, string> = {}): Promise<string> {
  const child = Bun.spawn([...argv], { env: { ...process.env, ...env }, stdout: "pipe", stderr: "pipe" });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  if ((await child.exited) !== 0) throw new Error(`${argv.join(" ")}:\n${out}\n${err}`);
  return out;
}

const folder = work.at("run");
const flags = { report_to: "all", run_name: "tiny", eval_dataset: "data/problems/eval.arrow", eval_samples: 4 };

beforeAll(async () => {
  if (!needsRun) return;
  await train(folder, flags, { stopAfter: 3 });
  // As a run that was killed after it had logged a fourth step, which the resumed one makes again.
  await train(folder, { ...flags, resume_from_checkpoint: true }, { stopAfter: 4 });
  await train(folder, { ...flags, resume_from_checkpoint: join(folder, "checkpoint-3") });
});

/** metrics.jsonl by name: [step, value]. */
function logged(): Map<string, [number, number][]> {
  const points = new Map<string, [number, number][]>();
  for (const { step, ...record } of metricsOf(folder))
    for (const [name, value] of Object.entries(record)) {
      if (typeof value !== "number") continue;
      const tag = name.startsWith("eval_") ? `eval/${name.slice("eval_".length)}` : `train/${name}`;
      points.set(tag, [...(points.get(tag) ?? []), [step, value]]);
    }
  return points;
}

describe.skipIf(without.tensorboard !== null)("TensorBoard", () => {
  test("shows every metric of every step once, the settings and the completions", async () => {
    const { scalars, tensors, texts } = JSON.parse(
      await ran([python, script, "tensorboard", join(folder, "tensorboard")]),
    );
    const expected = [...logged()].map(([tag, points]) => [
      tag,
      points.map(([step, value]) => [step, Math.fround(value)]),
    ]);
    expect(expected.length).toBeGreaterThan(30);
    expect(scalars).toEqual(Object.fromEntries(expected));
    expect(scalars["train/reward"].map(([step]: [number]) => step)).toEqual([1, 2, 3, 4, 5]);
    expect(texts).toEqual(["args", "completions"]);
    expect(JSON.parse(tensors.args[0][1][0])).toMatchObject({ run_name: "tiny", max_steps: 5 });
    expect(tensors.completions[0][1].slice(0, 3)).toEqual(["**step**", "**prompt**", "**completion**"]);
  }, 60_000);
});

describe.skipIf(without.wandb !== null)("wandb sync", () => {
  test("uploads every row once, the settings, the tables and the end", async () => {
    const parent = join(folder, "wandb");
    const [run] = readdirSync(parent).filter((name) => name.startsWith("offline-run-"));
    await ran([python, "-m", "wandb", "sync", join(parent, run!)], {
      ...{ WANDB_BASE_URL: server.url, WANDB_API_KEY: "0".repeat(40), HOME: work.path, WANDB_ERROR_REPORTING: "false" },
      ...{ XDG_CONFIG_HOME: work.path, WANDB_CONFIG_DIR: work.path, WANDB_CACHE_DIR: work.path, NO_PROXY: "127.0.0.1" },
    });
    expect(server.runs[0]).toMatchObject({
      project: "huggingface",
      displayName: "tiny",
      name: run!.split("-").at(-1)!,
    });
    expect(server.exitCode).toBe(0);
    const points = new Map<string, unknown[]>();
    for (const row of server.rows)
      for (const [name, value] of Object.entries(row))
        if (/^(train|eval)\//.test(name) && name !== "train/global_step")
          points.set(name, [...(points.get(name) ?? []), [row["train/global_step"], value]]);
    expect(Object.fromEntries(points)).toEqual(Object.fromEntries(logged()));
    expect(server.rows.map((row) => row._step)).toEqual(server.rows.map((_, i) => i));
    expect(server.files.get("config.yaml")).toContain("num_generations:\n    value: 4\n");
    const tables = server.rows.flatMap(({ completions }) => (completions as { path: string } | undefined)?.path ?? []);
    expect(tables).toHaveLength(1);
    const table = JSON.parse(server.files.get(tables[0]!)!);
    expect(table.columns).toEqual(["step", "prompt", "completion", "by_tokens", "advantage"]);
    expect(table.data).toHaveLength(8);
    expect(server.files.get(tables[0]!)).toBe(readFileSync(join(parent, run!, "files", tables[0]!), "utf8"));
  }, 60_000);
});
