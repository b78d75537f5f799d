/** The suites of `bun run bench`: the check of each detects an error, and each reports named figures. */
import { describe, expect, test } from "bun:test";
import { resolve } from "node:path";
import { checkGradient, smallModel } from "../../bench/gradient-check.ts";
import { limitOf } from "../../bench/limits.ts";
import { measuredModel, modelFlops, openMeasured } from "../../bench/model.ts";
import { models } from "../../bench/models.ts";
import { openWorkspace } from "../../bench/ops/workspace.ts";
import { checksum, generatedRow, requireSame } from "../../bench/suites/data.ts";
import { checkCalls } from "../../bench/suites/ffi.ts";
import { checkLogprobs, stretchesOf } from "../../bench/suites/rollout.ts";
import { checkRun, type RecordedRollout } from "../../bench/suites/step.ts";
import { pairsOf } from "../../bench/suites/update.ts";
import { generatedAnswers, requireVerdicts } from "../../bench/suites/verify.ts";
import { openCpuDevice } from "../../src/device/cpu/device.ts";
import type { Device, Ops } from "../../src/device/device.ts";
import { parameterCount } from "../../src/families/parameters.ts";
import type { MetricsRecord } from "../../src/metrics/metrics-file.ts";
import { cutMicroBatches } from "../../src/model/micro-batches.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";

const device = await openCpuDevice({ threads: 2 });
type AnyOp = (...args: unknown[]) => void;

/** The device with more work after one of its ops. */
function after(op: keyof Ops, more: (...args: unknown[]) => void): Device {
  const own = device.ops[op] as AnyOp;
  const replaced = (...args: unknown[]) => {
    own(...args);
    more(...args);
  };
  return { ...device, ops: { ...device.ops, [op]: replaced } };
}

describe("rollout", () => {
  const shape = { groups: 1, samples: 2, promptTokens: 6, completionTokens: 8, sequences: 4, microBatchTokens: 64 };
  const sampling = { seed: 1, stream: 0, temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, step: 1 };

  test.each(["float32", "bfloat16"] as const)(
    "recorded logprobs in %s are training's; another bit is an error",
    async (dtype) => {
      const model = await measuredModel({ shape: "data/model", model: null }, device);
      const opened = await openMeasured(device, model, shape, dtype);
      const requests = [0, 1].map((prompt) => ({ promptIds: new Int32Array(6).fill(3 + prompt), samples: 2, prompt }));
      const results = await opened.rollout.generate(requests, {
        ...sampling,
        maxCompletionLength: 8,
        isStop: () => false,
      });
      expect(await checkLogprobs(opened, requests, results, 64)).toBe(
        "the logprobs of 32 sampled tokens are training's, bit for bit",
      );
      results[1]![0]!.logprobs[5]! += 2 ** -20;
      await expect(checkLogprobs(opened, requests, results, 64)).rejects.toThrow(
        /^rollout on CPU .*: wrong result: .* at worst/,
      );
      results[1]![0]!.logprobs[5] = Number.NaN;
      await expect(checkLogprobs(opened, requests, results, 64)).rejects.toThrow("wrong result");
      opened.arena.free();
    },
  );

  test("stretches lie within the steps, in order", () => {
    expect(stretchesOf(1)).toEqual([{ start: 0, length: 1 }]);
    for (const steps of [2, 7, 30, 1000]) {
      const found = stretchesOf(steps);
      expect(found.at(-1)!.start + found.at(-1)!.length).toBe(steps);
      expect(found.map(({ start }) => start)).toEqual(found.map(({ start }) => start).toSorted((a, b) => a - b));
    }
  });
});

describe("update", () => {
  test.each(models.map(({ name, config }) => [name, config] as const))(
    "the small model of %s has right gradients",
    async (_, config) => {
      for (const [dtype, checkpointing] of [
        ["float32", true],
        ["bfloat16", false],
      ] as const)
        expect(await checkGradient(device, config, dtype, checkpointing)).toMatch(/ \d+ elements of all gradients /);
      expect(parameterCount(smallModel(config))).toBeLessThan(200_000);
    },
  );

  test.each([
    ["a percent of a weight's gradient", "matmulBackwardWeight", 1.01],
    ["a percent of a norm's", "rmsnormBackward", 1.01],
    ["the head's, a percent", "lmHeadBackward", 1.01],
  ] as const)("sees %s", async (_, op, factor) => {
    const broken = after(op, (...args) =>
      device.ops.scale(args[op === "matmulBackwardWeight" ? 0 : 1] as Tensor, factor),
    );
    await expect(checkGradient(broken, models[0]!.config, "float32")).rejects.toThrow(
      /wrong result: the gradient of \S+\[\d+\] is /,
    );
  });

  test("sees a forward pass that is off", async () => {
    const broken = after("gluForward", (y) => device.ops.scale(y as Tensor, 1.01));
    await expect(checkGradient(broken, models[0]!.config, "float32")).rejects.toThrow(
      /wrong result: (logprob|entropy)/,
    );
  });

  test("counts attended pairs and operations as the definitions do", () => {
    const ids = (length: number) => new Int32Array(length);
    const completions = [{ completionIds: ids(4) }, { completionIds: ids(1) }];
    const [batch] = cutMicroBatches([{ promptIds: ids(3), completions }], 64);
    // The prompt sees itself; of the first completion three tokens are rows, after a prefix of three; the second has none.
    expect(pairsOf(batch!)).toBe(6 + 3 * 3 + 6);
    const flops = modelFlops(models[0]!.config);
    expect(flops.parameters).toBe(134_515_008);
    const perToken = flops.forward(1, 1, 0) / 2;
    expect(perToken).toBe(134_515_008 - 576 * 61); // all but the norms; the embedding is the head
    expect(flops.forward(0, 0, 1)).toBe(30 * 4 * 576);
    expect(flops.both(1, 1, 0)).toBe(6 * perToken);
    expect(flops.cacheBytes("bfloat16")).toBe(30 * 2 * 3 * 64 * 2);
    expect(modelFlops(models[3]!.config).decodeBytes("bfloat16") / 2).toBeLessThan(flops.parameters * 60);
  });

  test("the share is of the tighter limit", () => {
    const peaks = [{ compute: 100, products: 1000, memory: 10 }];
    expect(limitOf({ flops: 1e8, bytes: 1e6 }, 2, peaks, false)).toEqual({ share: 0.5, of: "peak arithmetic" });
    expect(limitOf({ flops: 1e8, bytes: 1e6 }, 2, peaks, true)).toEqual({ share: 0.05, of: "peak arithmetic" });
    expect(limitOf({ flops: 1, bytes: 1e7 }, 2, peaks, true)).toEqual({ share: 0.5, of: "peak memory" });
  });
});

describe("step", () => {
  const record = (more: Partial<MetricsRecord> = {}): MetricsRecord => ({
    ...{ step: 1, loss: 0, grad_norm: 1, kl: 0, reward: 0.5, "completions/mean_length": 3 },
    ...{ "sampling/sampling_logp_difference/mean": 0, "sampling/sampling_logp_difference/max": 0 },
    ...more,
  });
  const rollouts: RecordedRollout[] = [
    { step: 1, completion_ids: [1, 2], reward: 1 },
    { step: 1, completion_ids: [1, 2, 3, 4], reward: 0 },
  ];

  test("accepts a run that agrees with what it recorded", () => {
    expect(checkRun([record()], rollouts, true, device, "float32")).toContain("the first KL is 0");
    expect(checkRun([record({ kl: 1 })], rollouts, false, device, "float32")).not.toContain("KL");
  });

  test.each([
    ["no steps", [], "no step was made"],
    ["a loss that is not finite", [record({ loss: Number.NaN })], "loss is NaN"],
    ["a gradient that is missing", [record({ grad_norm: undefined as unknown as number })], "grad_norm is undefined"],
    ["a logprob off by a bit", [record({ "sampling/sampling_logp_difference/max": 1e-9 })], "logprobs differ by 0"],
    ["a KL to itself", [record({ kl: 1e-9 })], "the KL to the starting model is 1e-9"],
    ["another length", [record({ "completions/mean_length": 2 })], "that of its rollouts 3"],
    ["another reward", [record({ reward: 0.25 })], "that of its rollouts 0.5"],
  ] as const)("refuses %s", (_, records, message) => {
    expect(() => checkRun(records, rollouts, true, device, "float32")).toThrow(message);
  });
});

describe("data, verify and ffi", () => {
  test("a missing, changed or doubled row is an error", () => {
    const sumOf = (indices: readonly number[], change = "") => {
      const sum = checksum();
      for (const index of indices) sum.add({ ...generatedRow(index), answer: generatedRow(index).answer + change });
      return sum;
    };
    const want = sumOf([0, 1, 2]);
    requireSame("rows", sumOf([2, 0, 1]), want);
    expect(() => requireSame("rows", sumOf([0, 1]), want)).toThrow("rows gave 2 of 3 rows");
    expect(() => requireSame("rows", sumOf([0, 1, 1]), want)).toThrow("rows gave rows that differ");
    expect(() => requireSame("rows", sumOf([0, 1, 2], "."), want)).toThrow("rows that differ");
  });

  test("rows are different problems with the sum that they say", () => {
    const rows = Array.from({ length: 200 }, (_, i) => generatedRow(i));
    expect(new Set(rows.map(({ question }) => question)).size).toBe(200);
    for (const { question, answer } of rows) {
      const numbers = [...question.matchAll(/(?:holds|adds) (\d+) /g)].map((match) => Number(match[1]));
      expect(answer).toEndWith(`#### ${numbers.reduce((a, b) => a + b)}`);
    }
  });

  test("a wrong verdict is an error that quotes the answer", () => {
    const answers = generatedAnswers(64);
    const right = answers.map(({ reward }) => reward);
    expect(new Set(right)).toEqual(new Set([0, 1]));
    requireVerdicts(answers, right, "x");
    const wrong = right.map((reward, i) => (i === 7 ? 1 - reward : reward));
    expect(() => requireVerdicts(answers, wrong, "x")).toThrow(
      /^verify: wrong result by x: "So the answer is .* has reward/,
    );
    expect(() => requireVerdicts(answers, right.slice(1, 2), "x")).toThrow("has reward");
  });

  test("a call that does nothing is an error", () => {
    const w = openWorkspace(device);
    const [y, ones] = [w.filled("y", "float32", [16], () => 0), w.filled("ones", "float32", [16], () => 1)];
    checkCalls(device, y, ones);
    const lazy = { ...device, ops: { ...device.ops, add: () => {} } };
    expect(() => checkCalls(lazy, y, ones)).toThrow("100 calls of add gave 0");
    w.free();
  });
});

test("all suites report figures as JSON, each with its check", async () => {
  const sizes = ["--num_generations", "2", "--prompt_tokens", "6", "--max_completion_length", "12"];
  const flags = [...sizes, "--shape", "data/model", "--device", "cpu", "--quick", "--per_device_train_batch_size", "4"];
  const words = ["bench", "rollout", "update", "step", "data", "verify", "startup", "ffi", "--json", ...flags];
  const child = Bun.spawn([process.execPath, resolve(import.meta.dir, "../../src/cli/main.ts"), ...words], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  expect({ code: child.exitCode, err: err.replace(/^compiling .*\n/, "") }).toEqual({ code: 0, err: "" });
  const { suites } = JSON.parse(out);
  expect(Object.keys(suites)).toEqual(["rollout", "update", "step", "data", "verify", "startup", "ffi"]);
  for (const [name, { suite, checked, figures }] of Object.entries<ReturnType<typeof JSON.parse>>(suites)) {
    expect(suite).toBe(name);
    expect(checked).toBeString();
    expect(figures.length).toBeGreaterThan(1);
    for (const figure of figures) {
      expect(figure).toMatchObject({
        name: expect.any(String),
        unit: expect.any(String),
        better: expect.stringMatching(/^(more|less)$/),
      });
      expect(figure.value).toBeGreaterThanOrEqual(0);
    }
  }
  expect(suites.rollout.shape).toMatchObject({ samples: 2, promptTokens: 6, completionTokens: 12 });
  // One prompt, packed once, and its two completions except for their last tokens, which nothing follows.
  expect(suites.update.tokens).toBe(6 + 2 * 11);
  expect(suites.update.besideBytes).toBeNull();
  expect(suites.step).toMatchObject({
    completions: 4,
    steps: 1,
    settings: { numGenerations: 2, maxCompletionLength: 12 },
  });
}, 120_000);
