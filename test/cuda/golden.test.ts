/**
 * `grpo score` and `grpo update --device cuda` on the emulated GPU against the CPU's reference numbers
 * (test/unit/golden.test.ts): transformers' models, TRL's loss code and torch.optim.AdamW, in float32 within the project's
 * numerics and in bfloat16 within its bfloat16 limit. Lazy streams, which run queued work only when something waits for it,
 * give the same bytes as eager ones.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expectedOf, expectUpdated, models, scoreFlags, scoresApart, updateFlags } from "../e2e/golden.ts";
import { type Flags, workFolder } from "../e2e/runs.ts";
import { checked, succeeds } from "./emulated.ts";

// The emulator may have to be compiled first, and kernels are compiled on demand.
setDefaultTimeout(600_000);

const work = workFolder();
afterAll(work.remove);

const streams = ["eager", "lazy"] as const;

/** The file that `run` leaves at `path(streams)`, with equal bytes for both kinds of streams. */
async function expectEqualBytes(path: (kind: string) => string, run: (kind: string) => Promise<unknown>) {
  await Promise.all(streams.map(run));
  const [eager, lazy] = streams.map((kind) => readFileSync(path(kind)));
  expect(eager!.equals(lazy!)).toBe(true);
}

describe.each(models)("score on %s", (model) => {
  const score = (output: string, flags: Flags, kind: string) =>
    succeeds("score", scoreFlags(model, output, flags), { env: { ...checked, EMULATOR_STREAMS: kind } });

  test("in float32, in one pass and in many", async () => {
    const [whole, cut] = [work.at(`${model}-whole.jsonl`), work.at(`${model}-cut.jsonl`)];
    await Promise.all([
      score(whole, { micro_batch_tokens: 2048 }, "eager"),
      score(cut, { micro_batch_tokens: 16 }, "lazy"),
    ]);
    for (const output of [whole, cut]) {
      const apart = scoresApart(model, output);
      expect(apart.logprob).toBeLessThanOrEqual(2e-5);
      expect(apart.entropy).toBeLessThanOrEqual(1e-4);
    }
  });

  test("in bfloat16, close to float32; equal with eager and lazy streams", async () => {
    const path = (kind: string) => work.at(`${model}-${kind}.jsonl`);
    await expectEqualBytes(path, (kind) => score(path(kind), { dtype: "bfloat16" }, kind));
    const apart = scoresApart(model, path("eager"));
    expect(apart.logprob).toBeLessThanOrEqual(0.1);
    expect(apart.mean).toBeLessThanOrEqual(0.02);
  });
});

/** Every setting of the reference runs on one of the models; the default one runs on each, with every access checked. */
const chosen = models.flatMap((model, m) =>
  Object.keys(expectedOf(model).cases)
    .filter((name, i) => name === "grpo" || i % models.length === m)
    .map((name) => [model, name] as const),
);
const updates = new Map(
  chosen.map(([model, name]) => [
    `${model} ${name}`,
    { output: work.at(`${model}-${name}`), run: null as null | Promise<unknown> },
  ]),
);

/** The first request starts them all: they take turns on the cores. */
function update(model: string, name: string): Promise<unknown> {
  for (const [key, entry] of updates) {
    const [of = "", named = ""] = key.split(" ");
    entry.run ??= succeeds("update", updateFlags(of, named, entry.output), { env: named === "grpo" ? checked : {} });
    entry.run.catch(() => {}); // reported by its own test
  }
  return updates.get(`${model} ${name}`)!.run!;
}

describe("update", () => {
  test.each(chosen)("%s, %s: losses, gradient norms, metrics, weights", async (model, name) => {
    await update(model, name);
    expectUpdated(model, name, updates.get(`${model} ${name}`)!.output);
  });

  test.each(models)("%s: lazy streams give the same weights", async (model) => {
    const output = work.at(`${model}-lazy`);
    await succeeds("update", updateFlags(model, "grpo", output), { env: { EMULATOR_STREAMS: "lazy" } });
    await update(model, "grpo");
    const [eager, lazy] = [updates.get(`${model} grpo`)!.output, output].map((folder) =>
      readFileSync(join(folder, "model.safetensors")),
    );
    expect(eager!.equals(lazy!)).toBe(true);
  });
});
