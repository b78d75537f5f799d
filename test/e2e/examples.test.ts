/** Every program in examples/ runs as it stands, from an empty folder, on the bundled model. (judge-http.ts, a module, has a test of its own.) */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { writeTinyModel } from "../fixtures/scalar-model.ts";
import { root, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

async function run(name: string, ...args: string[]) {
  const child = Bun.spawn([process.execPath, join(root, "examples", name), ...args], {
    cwd: work.path,
    env: { ...process.env, CUDA_VISIBLE_DEVICES: "" },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { out, err, code };
}

const number = String.raw`-?[\d.]+(?:e-?\d+)?`;

test("own-reward.ts", async () => {
  const { out, err, code } = await run("own-reward.ts");
  expect({ err, code }).toEqual({ err: "", code: 0 });
  const steps = out.match(new RegExp(`^step \\d: right ${number}, brief ${number}$`, "gm"));
  expect(steps?.length).toBe(3);
  const record = JSON.parse(readFileSync(work.at("outputs/own-reward/run.json"), "utf8"));
  expect(record.settings.reward_funcs).toEqual(["gsm8k", "function:brevity"]);
  const [line] = readFileSync(work.at("outputs/own-reward/metrics.jsonl"), "utf8").split("\n").slice(1);
  expect(JSON.parse(line!)["tokens/longest"]).toBeGreaterThan(0);
});

test("own-dataset.ts", async () => {
  const { out, err, code } = await run("own-dataset.ts");
  expect({ err, code }).toEqual({ err: "", code: 0 });
  expect(out).toMatch(new RegExp(`^accuracy ${number} on 20 new problems\n$`));
});

test("reward-model.ts", async () => {
  const tokenizer = join(import.meta.dir, "../fixtures/tokenizer");
  const folder = await writeTinyModel(work.at("reward"), { vocabSize: 360, tokenizer });
  const { out, err, code } = await run("reward-model.ts", folder);
  expect({ err, code }).toEqual({ err: "", code: 0 });
  expect(out.match(new RegExp(`^step \\d ${number}$`, "gm"))?.length).toBe(2);
  rmSync(work.at("outputs/reward-model"), { recursive: true });
  const refused = await run("reward-model.ts", work.at("nothing"));
  expect(refused.code).toBe(2);
  expect(refused.err).toStartWith("rewardFuncs reward_funcs: ");
});

test("custom-loss.ts", async () => {
  const { out, err, code } = await run("custom-loss.ts");
  expect({ err, code }).toEqual({ err: "", code: 0 });
  expect(out.match(new RegExp(`^step \\d: loss ${number} ${number}$`, "gm"))?.length).toBe(4);
  const record = JSON.parse(readFileSync(work.at("outputs/custom-loss/run.json"), "utf8"));
  expect(record.settings).toMatchObject({ loss_type: "function:softRegion", advantage_estimator: "function:rank" });
});

test("reading-a-run.ts", async () => {
  const { out, err, code } = await run("reading-a-run.ts", "outputs/own-reward");
  expect({ err, code }).toEqual({ err: "", code: 0 });
  expect(out).toStartWith("train at learning rate 0.00015, 3 steps\n");
  expect(out.match(/^accuracy at step \d: /gm)?.length).toBe(2);
  expect(out.match(/^reward .*, mean logprob -\d/gm)?.length).toBe(2);
  expect(await run("reading-a-run.ts", "nothing")).toMatchObject({ code: 2 });
});

test("none is left out", () => {
  const tried = readFileSync(import.meta.path, "utf8");
  for (const name of readdirSync(join(root, "examples"))) expect(tried).toContain(name);
});
