/** Promise 3: same seed, same bytes; settings that only affect how work is cut change no more than allowed. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { bundledModel, type Flags, fingerprint, metricsOf, train, untimed, workFolder } from "./runs.ts";
import { differences, readTensors, worstRelative } from "./tensors.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

/** Five steps with a checkpoint after the last; hashes of the weights and of the optimizer. */
async function fiveSteps(name: string, flags: Flags = {}) {
  const folder = work.at(name);
  await train(folder, { save_steps: 5, ...flags });
  const weights = fingerprint(folder, "model.safetensors");
  const optimizer = fingerprint(folder, "checkpoint-5/optimizer.safetensors");
  return { folder, weights, optimizer, metrics: untimed(metricsOf(folder)) };
}

const weightsOf = (folder: string) => readTensors(join(folder, "model.safetensors"));
const movement = (folder: string) => differences(weightsOf(folder), weightsOf(bundledModel));

describe("five steps", () => {
  let first: Awaited<ReturnType<typeof fiveSteps>>;
  beforeAll(async () => {
    first = await fiveSteps("first");
  });

  test("learn something: weights move, rewards differ, and no logprob does", () => {
    expect(first.weights).not.toBe(fingerprint(bundledModel, "model.safetensors"));
    expect(first.metrics.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5]);
    for (const record of first.metrics) expect(record["sampling/sampling_logp_difference/max"]).toBe(0);
    const learned = first.metrics.filter((record) => Number(record.grad_norm) > 0.01 && Number(record.reward_std) > 0);
    expect(learned.length).toBeGreaterThanOrEqual(3);
  });

  test("with the same seed are the same bytes and the same metrics", async () => {
    const { weights, optimizer, metrics } = await fiveSteps("again");
    expect({ weights, optimizer, metrics }).toEqual({
      weights: first.weights,
      optimizer: first.optimizer,
      metrics: first.metrics,
    });
  });

  test("with another seed differ", async () => {
    const { weights, metrics } = await fiveSteps("seed", { seed: 43 });
    expect(weights).not.toBe(first.weights);
    expect(metrics[0]!.reward).not.toBe(first.metrics[0]!.reward);
  });

  test.each([1, 3])("decoded %i at a time are the same bytes", async (max_concurrent_sequences) => {
    const { weights, optimizer, metrics } = await fiveSteps(`slots-${max_concurrent_sequences}`, {
      max_concurrent_sequences,
    });
    expect({ weights, optimizer }).toEqual({ weights: first.weights, optimizer: first.optimizer });
    expect(metrics).toEqual(first.metrics);
  });

  test("on one thread are the same bytes", async () => {
    const { weights, optimizer, metrics } = await fiveSteps("threads", { threads: 1 });
    expect({ weights, optimizer }).toEqual({ weights: first.weights, optimizer: first.optimizer });
    expect(metrics).toEqual(first.metrics);
  });

  test("in smaller micro-batches are equal to float32 rounding", async () => {
    const { folder, metrics } = await fiveSteps("micro", { micro_batch_tokens: 64 });
    expect(metrics.map(({ reward }) => reward)).toEqual(first.metrics.map(({ reward }) => reward));
    const { error } = worstRelative(movement(folder), movement(first.folder));
    expect(error).toBeGreaterThan(0); // otherwise the cut was the same
    expect(error).toBeLessThan(1e-3);
  });
});

test("bfloat16 is just as deterministic, with any number of threads and slots", async () => {
  const bfloat16 = await fiveSteps("bf16", { dtype: "bfloat16" });
  const other = await fiveSteps("bf16-other", { dtype: "bfloat16", threads: 1, max_concurrent_sequences: 3 });
  expect(other.weights).toBe(bfloat16.weights);
  expect(other.optimizer).toBe(bfloat16.optimizer);
  for (const record of bfloat16.metrics) expect(record["sampling/sampling_logp_difference/max"]).toBe(0);
});
