/** Two updates per generation on the emulated GPU: π_old comes from the training pass, not from sampling. */
import { afterAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { metricsOf, tinyTraining, workFolder } from "../e2e/runs.ts";
import { succeeds } from "./emulated.ts";

const work = workFolder();
afterAll(() => work.remove());

test("several updates of a generation learn from logprobs of the training pass", async () => {
  const folder = work.at("twice");
  const flags = { ...tinyTraining, device: "cuda", max_steps: 2, num_iterations: 2, dtype: "bfloat16" };
  await succeeds("train", { ...flags, output_dir: folder });
  const [first, second] = metricsOf(folder);
  // The first update is on-policy to the bit, whatever sampling recorded.
  expect(first!["clip_ratio/region_mean"]).toBe(0);
  expect(second!.loss).not.toBe(first!.loss!);
  expect(first!["sampling/sampling_logp_difference/max"]).toBeGreaterThan(0);
  const [line = ""] = readFileSync(join(folder, "completions", "step-000001.jsonl"), "utf8").split("\n");
  const { old_logprobs, sampling_logprobs } = JSON.parse(line);
  expect(old_logprobs).not.toEqual(sampling_logprobs);
});
