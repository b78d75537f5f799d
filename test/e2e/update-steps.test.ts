/**
 * `grpo update` on a generation of several steps that contain parts of groups, in two passes: each step's loss and gradient
 * norm compared with TRL, transformers and torch (test/golden/make_update_steps.py). The file has no old_logprobs, so π_old is
 * the starting policy's for all steps; from the second step on, the numbers depend on the weights that earlier steps left.
 */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import golden from "../golden/update-steps.json" with { type: "json" };
import { type Flags, metricsOf, root, update, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

const model = join(root, "test/golden/qwen3-qknorm");
const rollouts = work.at("rollouts.jsonl");
const lines = readFileSync(join(model, "rollouts.jsonl"), "utf8").trimEnd().split("\n");
writeFileSync(
  rollouts,
  lines
    .map((line, i) => {
      const { old_logprobs: _, sampling_logprobs: __, ...row } = JSON.parse(line) as Record<string, unknown>;
      const at = golden.order.indexOf(i);
      const step = 1 + Math.floor(at / golden.completions_per_step);
      return `${JSON.stringify({ ...row, step, place: at % golden.completions_per_step })}\n`;
    })
    .join(""),
);

test.each(golden.cases)("$name", async ({ name, settings, steps }) => {
  const output = work.at(name);
  const flags: Flags = { ...golden.settings, ...(settings as unknown as Flags), dtype: "float32" };
  await update({ model, rollouts, output_dir: output, ...flags });
  const records = metricsOf(output);
  expect(records.length).toBe(steps.length);
  for (const [s, [loss, norm]] of (steps as [number, number][]).entries()) {
    expect(Math.abs((records[s]!.loss as number) - loss), `loss of step ${s + 1}`).toBeLessThan(1e-5);
    expect(Math.abs((records[s]!.grad_norm as number) - norm), `norm of step ${s + 1}`).toBeLessThan(1e-5 * (1 + norm));
  }
});
