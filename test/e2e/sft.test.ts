/** `grpo sft`: deterministic, learns, and resumes to the same bytes after being killed or interrupted. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import {
  argvOf,
  bundledModel,
  type Flags,
  fingerprint,
  grpo,
  metricsOf,
  problems,
  start,
  until,
  untimed,
  workFolder,
} from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

const tiny: Flags = {
  model: bundledModel,
  dataset: problems,
  eval_dataset: problems,
  eval_samples: 4,
  eval_steps: 4,
  max_completion_length: 16,
  per_device_train_batch_size: 16,
  learning_rate: 1e-4,
  max_steps: 8,
  save_steps: 8,
};
const argv = (name: string, flags: Flags = {}) => ["sft", ...argvOf({ ...tiny, output_dir: work.at(name), ...flags })];

const outcome = (name: string) => ({
  weights: fingerprint(work.at(name), "model.safetensors"),
  optimizer: fingerprint(work.at(name), "checkpoint-8/optimizer.safetensors"),
  metrics: untimed(metricsOf(work.at(name))),
});

const lossesOf = (name: string) =>
  metricsOf(work.at(name)).flatMap(({ loss }) => (loss === undefined ? [] : Number(loss)));

describe.each<Flags>([{}, { dtype: "bfloat16" }])("%j", (dtype) => {
  const straight = `straight ${dtype.dtype}`;
  beforeAll(async () => {
    expect((await grpo(argv(straight, dtype))).code).toBe(0);
  });

  test("killed, it resumes to the bytes of an uninterrupted run", async () => {
    const name = `killed ${dtype.dtype}`;
    const { process, finished } = start(argv(name, { ...dtype, save_steps: 2 }));
    await until("a step after the first checkpoint", () => lossesOf(name).length >= 3);
    process.kill("SIGKILL");
    await finished;
    const { code, err } = await grpo(argv(name, { ...dtype, resume_from_checkpoint: true }));
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(outcome(name)).toEqual(outcome(straight));
  });

  test("also when interrupted by a closing terminal", async () => {
    const name = `interrupted ${dtype.dtype}`;
    const { process, finished } = start(argv(name, dtype));
    await until("the second step", () => lossesOf(name).length >= 2);
    process.kill("SIGHUP");
    const { code, err } = await finished;
    expect(code).toBe(130);
    expect(err).toStartWith("SIGHUP: stopping after this step and saving a checkpoint");
    expect((await grpo(argv(name, { ...dtype, resume_from_checkpoint: true }))).code).toBe(0);
    expect(outcome(name)).toEqual(outcome(straight));
  });
});

test("cut into other micro-batches, the losses are equal up to rounding; another seed's are not", async () => {
  await grpo(argv("whole", { max_steps: 3 }));
  await grpo(argv("cut", { max_steps: 3, micro_batch_tokens: 64 }));
  await grpo(argv("seed", { max_steps: 3, seed: 1 }));
  for (const [i, loss] of lossesOf("whole").entries()) {
    expect(Math.abs(lossesOf("cut")[i]! / loss - 1)).toBeLessThan(1e-4);
    expect(Math.abs(lossesOf("seed")[i]! / loss - 1)).toBeGreaterThan(1e-3);
  }
  expect(fingerprint(join(work.at("whole"), "model.safetensors"))).not.toBe(
    fingerprint(bundledModel, "model.safetensors"),
  );
});

test("learns a handful of rows by heart", async () => {
  const rows = Array.from(
    { length: 4 },
    (_, i) => `{"question":"What is ${i} and ${i + 3}?","answer":"#### ${7 * i + 2}"}`,
  );
  await Bun.write(work.at("rows.jsonl"), `${rows.join("\n")}\n`);
  const flags: Flags = {
    dataset: work.at("rows.jsonl"),
    eval_dataset: work.at("rows.jsonl"),
    learning_rate: 3e-3,
    max_steps: 60,
  };
  await grpo(argv("by heart", { ...flags, eval_steps: 1000, save_steps: 0 }));
  const evaluations = metricsOf(work.at("by heart")).filter((record) => record.eval_accuracy !== undefined);
  expect(evaluations.map(({ step }) => step)).toEqual([0, 60]);
  expect(evaluations[1]!.eval_accuracy).toBe(1);
  expect(lossesOf("by heart").at(-1)!).toBeLessThan(0.05);
});
