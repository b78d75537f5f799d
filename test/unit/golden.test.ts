/**
 * `grpo score` and `grpo update` against numbers from outside: transformers' models, TRL's own loss code and
 * torch.optim.AdamW (test/golden/make_reference.py), on three tiny random models with every kind of attention bias,
 * tied head and q/k norm. Tolerances are those of the project's numerics, in float32, and in bfloat16 its line for that.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { score } from "../../src/cli/score.ts";
import { openCpuDevice } from "../../src/device/cpu/device.ts";
import {
  expectClose,
  expectedOf,
  expectUpdated,
  firstGradients,
  folderOf,
  models,
  runUpdate,
  scoreFlags,
  scoresApart,
} from "../e2e/golden.ts";
import { overBfloat16Line } from "../e2e/logprob-line.ts";
import { argvOf } from "../e2e/runs.ts";
import { readTensors, worstRelative } from "../e2e/tensors.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

let work = "";
beforeAll(() => {
  work = mkdtempSync(join(tmpdir(), "bun-grpo-golden-"));
});
afterAll(() => rmSync(work, { recursive: true, force: true }));

describe.each(models)("score on %s", (model) => {
  test.each([2048, 16])("logprobs and entropies, micro-batches of %i tokens", async (budget) => {
    const output = join(work, `${model}-${budget}.jsonl`);
    await score.run(argvOf(scoreFlags(model, output, { micro_batch_tokens: budget })));
    const apart = scoresApart(model, output);
    expect(apart.logprob).toBeLessThanOrEqual(2e-5);
    expect(apart.entropy).toBeLessThanOrEqual(1e-4);
  });
});

/** Runs `work` with BUN_GRPO_CPU_PATH=path in the environment. */
async function onPath(path: string, work: () => Promise<unknown>): Promise<void> {
  const before = process.env.BUN_GRPO_CPU_PATH;
  process.env.BUN_GRPO_CPU_PATH = path;
  try {
    await work();
  } finally {
    if (before === undefined) delete process.env.BUN_GRPO_CPU_PATH;
    else process.env.BUN_GRPO_CPU_PATH = before;
  }
}

const { library } = await openCpuDevice();
const supported = library.paths.flatMap((path) => (path.supported ? path.name : []));

describe.each(models)("score on %s in bfloat16", (model) => {
  test.each(supported)("logprobs are close to float32's on %s", async (path) => {
    const output = join(work, `${model}-bfloat16-${path}.jsonl`);
    await onPath(path, async () => score.run(argvOf(scoreFlags(model, output, { device: "cpu", dtype: "bfloat16" }))));
    const apart = scoresApart(model, output);
    expect(overBfloat16Line(apart)).toEqual([]);
    expect(apart.logprob).toBeGreaterThan(2e-5); // otherwise it was float32
  });
});

describe.each(models)("update on %s", (model) => {
  test("the reference has all the cases", () => {
    expect(Object.keys(expectedOf(model).cases).length).toBe(16);
  });

  test.each(Object.keys(expectedOf(model).cases))("%s: losses, gradient norms, metrics, weights", async (name) => {
    const output = join(work, `${model}-${name}`);
    await runUpdate(model, name, output);
    expectUpdated(model, name, output);
  });

  test.each(["grpo", "dapo"])(
    "%s: every tensor's gradient, on each instruction path, whole and cut into micro-batches",
    async (name) => {
      const reference = readTensors(join(folderOf(model), `grads-${name}.safetensors`));
      const { path: chosen } = await openCpuDevice();
      const runs = [...supported.map((path) => [path, 2048] as const), [chosen, 24] as const];
      for (const [path, budget] of runs) {
        const device = await openCpuDevice({ path });
        const { gradients, advantages } = await firstGradients(device, model, name, { micro_batch_tokens: budget });
        const expected = expectedOf(model).cases[name]!;
        for (const [i, want] of expected.advantages.entries())
          expectClose(advantages[i]!, want, 1e-6, 1e-6, `A of ${i}`);
        const worst = worstRelative(gradients, reference);
        expectClose(worst.error, 0, 0, 1e-4, `gradient of ${worst.name}, ${path}, budget ${budget}`);
      }
    },
  );
});
