/** Folders of LoRA adapters where models are named: every command takes them, a run goes on from them, and they can be merged. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { exportMerged } from "../../src/api/export.ts";
import { scoreWith } from "../../src/api/score.ts";
import { sftWith } from "../../src/api/sft.ts";
import { readAdapterConfig } from "../../src/checkpoint/adapter.ts";
import { readModelConfig } from "../../src/checkpoint/huggingface.ts";
import { openSafetensors } from "../../src/checkpoint/safetensors.ts";
import { writeSafetensors } from "../../src/checkpoint/safetensors-write.ts";
import { configFor } from "../../src/config/load.ts";
import { withAdapters } from "../../src/families/adapters.ts";
import { parameterSpecs } from "../../src/families/parameters.ts";
import { evaluate, loadModel } from "../../src/index.ts";
import { scoreSequences } from "../../src/model/scalar-head.ts";
import { openRunDevice } from "../../src/run/device.ts";
import { planRewardModels } from "../../src/session/reward-model.ts";
import { planSession, withSession } from "../../src/session/session.ts";
import { bfloat16ToNumber, numberToBfloat16 } from "../../src/tensor/dtype.ts";
import { writeRandomAdapter } from "../fixtures/adapter.ts";
import { writeSmollm2Shape } from "../fixtures/smollm2-shape.ts";
import {
  argvOf,
  bundledModel,
  type Flags,
  grpo,
  metricsOf,
  outcome,
  problems,
  quietConsole,
  root,
  train,
  workFolder,
} from "./runs.ts";
import { readTensors } from "./tensors.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

const golden = (name: string) => join(root, "test/golden", name);
const groups = [
  { promptIds: [5, 6, 7], completions: [{ completionIds: [8, 9, 10, 11, 12, 13] }, { completionIds: [90] }] },
];

async function scores(model: string, flags: Flags = {}): Promise<number[]> {
  const argv = argvOf({
    device: "cpu",
    model,
    input: "none",
    output: work.at("scores.jsonl"),
    overwrite: true,
    ...flags,
  });
  const { config } = configFor("score", argv);
  return (await scoreWith({ ...config, output: null }, groups, {})).flat().flatMap(({ logprobs }) => [...logprobs]);
}

const apart = (a: readonly number[], b: readonly number[]) => Math.max(...a.map((x, i) => Math.abs(x - b[i]!)));

const lora: Flags = { use_peft: true, lora_r: 4, lora_target_modules: "all-linear", learning_rate: 1e-2 };

describe("merged", () => {
  test.each([
    ["llama-tied", { saved: ["norm"] }],
    ["llama-tied", { saved: ["embed_tokens"], rslora: true }],
    ["qwen2-bias", { saved: ["lm_head"], rank: 16 }],
  ] as const)("%s, %j: a plain model with the adapter's logprobs", async (name, options) => {
    const at = `${name}-${options.saved}`;
    const adapter = await writeRandomAdapter(work.at(at), golden(name), options);
    const outputDir = work.at(`${at}-merged`);
    const { changed } = await exportMerged({ model: adapter, outputDir, overwrite: false, note: () => {} });
    expect(changed).toBe(14);
    expect(readdirSync(outputDir)).not.toContain("adapter_config.json");
    const [own, merged, base] = [await scores(adapter), await scores(outputDir), await scores(golden(name))];
    expect(apart(own, merged)).toBeLessThan(2e-5);
    expect(apart(own, base)).toBeGreaterThan(1e-2);
    expect(readModelConfig(outputDir).tieWordEmbeddings).toBe(
      name === "llama-tied" && options.saved[0] !== "embed_tokens",
    );
  });

  test("bfloat16 stays bfloat16, each number the nearest to the sum", async () => {
    const base = await writeSmollm2Shape(work.at("half"), 1);
    const adapter = await writeRandomAdapter(work.at("half-adapter"), base, { targets: ["k_proj"], rank: 2 });
    const outputDir = work.at("half-merged");
    await exportMerged({ model: adapter, outputDir, overwrite: false, note: () => {} });
    expect(readModelConfig(outputDir).dtype).toBe("bfloat16");
    const name = "model.layers.0.self_attn.k_proj.weight";
    const bits = (folder: string) => {
      const file = openSafetensors(join(folder, "model.safetensors"));
      const { address, byteLength, dtype } = file.tensors.get(name)!;
      expect(dtype).toBe("BF16");
      const copy = new Uint16Array(bytesAt(address, byteLength).slice(0));
      file.close();
      return copy;
    };
    const [before, after] = [bits(base), bits(outputDir)];
    const low = readTensors(join(adapter, "adapter_model.safetensors"));
    const a = low.get("base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight")!;
    const b = low.get("base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight")!;
    const K = 576;
    for (let i = 0; i < after.length; i += 997) {
      const [n, k] = [Math.floor(i / K), i % K];
      const sum = bfloat16ToNumber(before[i]!) + (6 / 2) * (b[2 * n]! * a[k]! + b[2 * n + 1]! * a[K + k]!);
      const nearest = bfloat16ToNumber(numberToBfloat16(Math.fround(sum)));
      expect(Math.abs(bfloat16ToNumber(after[i]!) - nearest)).toBeLessThanOrEqual(Math.abs(nearest) * 2 ** -7);
    }
  });

  test("the command, and what it refuses", async () => {
    const adapter = await writeRandomAdapter(work.at("command"), golden("llama-tied"));
    const outputDir = work.at("command-merged");
    const exported = await grpo(["export", adapter, "--merge", "--output_dir", outputDir]);
    expect(exported).toMatchObject({ code: 0, err: "", out: `${outputDir}: the base model with 14 weights changed\n` });
    const refusals: [string[], RegExp][] = [
      [[adapter, "--output_dir", work.at("no")], /--merge is missing/],
      [[golden("llama-tied"), "--merge", "--output_dir", work.at("no")], /is a whole model, with nothing to merge/],
      [[adapter, "--merge", "--output_dir", outputDir], /holds a model .*--overwrite/],
    ];
    for (const [argv, message] of refusals) {
      const { code, err } = await grpo(["export", ...argv]);
      expect({ code, lines: err.trimEnd().split("\n").length }).toEqual({ code: 2, lines: 1 });
      expect(err).toMatch(message);
    }
    expect(existsSync(work.at("no"))).toBe(false);
  });
});

describe("a run's adapter", () => {
  let first: string;
  beforeAll(async () => {
    first = work.at("first");
    const { console } = quietConsole();
    const flags = { model: bundledModel, dataset: problems, max_steps: 2, save_steps: 0, output_dir: first };
    await sftWith(configFor("sft", argvOf({ device: "cpu", ...flags, ...lora })), {
      console,
      stopRequested: () => false,
    });
  });

  test("made by sft, is evaluated, sampled from and scored, with its own tokenizer's files", async () => {
    expect(readdirSync(first)).toContain("tokenizer.json");
    expect(existsSync(join(first, "config.json"))).toBe(false);
    const { problems: judged } = await evaluate({
      device: "cpu",
      model: first,
      dataset: problems,
      evalSamples: 4,
      maxCompletionLength: 8,
    });
    expect(judged).toHaveLength(4);
    await using model = await loadModel({ device: "cpu", model: first, maxModelLength: 64 });
    const [generated] = await model.generate({ prompt: "1+1?", maxCompletionLength: 8 });
    const [completion] = generated!.completions;
    const scored = await model.score([{ promptIds: generated!.promptIds, completions: [completion!] }]);
    expect(scored[0]![0]!.logprobs).toEqual(completion!.logprobs);
    expect(apart(await scores(first), await scores(bundledModel))).toBeGreaterThan(1e-4);
  });

  test("is gone on with: the reference is the adapter at the start, on the same base", async () => {
    const folder = work.at("second");
    const { steps, notes } = await train(folder, { ...lora, model: first, beta: 0.04, max_steps: 2, save_steps: 1 });
    expect(steps[0]!.kl).toBe(0);
    const memory = notes
      .filter((line) => /^(policy|reference) (weights|adapters)/.test(line))
      .map((line) => line.split(/\s{2,}/)[0]);
    expect(memory).toEqual(["policy weights", "policy adapters", "reference adapters"]);
    const config = JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8")) as Record<string, unknown>;
    expect(config.base_model_name_or_path).toBe(bundledModel);
    const resumed = work.at("second resumed");
    await train(resumed, { ...lora, model: first, beta: 0.04, max_steps: 2 }, { stopAfter: 1 });
    await train(resumed, {
      ...lora,
      model: first,
      beta: 0.04,
      max_steps: 2,
      save_steps: 1,
      resume_from_checkpoint: true,
    });
    expect(outcome(resumed).files["adapter_model.safetensors"]).toBe(
      outcome(folder).files["adapter_model.safetensors"]!,
    );
    expect(train(work.at("third"), { model: first })).rejects.toThrow(
      /is a LoRA adapter; go on training it with --use_peft/,
    );
  });
});

test("PPO: the critic has adapters of its own on the policy's base, and resumes to the same bytes", async () => {
  const flags = { ...lora, advantage_estimator: "gae", max_steps: 3, save_steps: 1, modules_to_save: "norm" };
  const [whole, cut] = [work.at("ppo"), work.at("ppo cut")];
  const { notes } = await train(whole, flags);
  const groupsOf = notes
    .filter((line) => /^(policy|critic) (weights|adapters)/.test(line))
    .map((line) => line.split(/\s{2,}/)[0]);
  expect(groupsOf).toEqual(["policy weights", "policy adapters", "critic adapters"]);
  expect(metricsOf(whole).every((record) => Number(record["value/grad_norm"]) > 0)).toBe(true);
  const critic = readTensors(join(whole, "critic/adapter_model.safetensors"));
  expect(critic.get("base_model.model.score.weight")!.some((x) => x !== 0)).toBe(true);
  expect(JSON.parse(readFileSync(join(whole, "critic/adapter_config.json"), "utf8"))).toMatchObject({
    ...{ task_type: "SEQ_CLS", modules_to_save: ["norm", "classifier", "score"] },
  });
  await train(cut, flags, { stopAfter: 1 });
  await train(cut, { ...flags, resume_from_checkpoint: true });
  expect(outcome(cut)).toEqual(outcome(whole));
});

test("a reward model: an adapter for sequence classification on a language model", async () => {
  const adapter = await writeRandomAdapter(work.at("judge"), golden("qwen3-qknorm"), { head: "lm" });
  // As PEFT writes it: the head among the adapter's tensors.
  const tensors = readTensors(join(adapter, "adapter_model.safetensors"));
  const { hiddenSize } = readModelConfig(golden("qwen3-qknorm"));
  const head = Float32Array.from({ length: hiddenSize }, (_, i) => Math.sin(i));
  const specs = parameterSpecs(
    withAdapters(readModelConfig(golden("qwen3-qknorm")), readAdapterConfig(adapter).settings),
  );
  const shapeOf = (name: string) => specs.find((spec) => spec.name === name)!.shape;
  await writeSafetensors(join(adapter, "adapter_model.safetensors"), [
    ...[...tensors].map(([name, values]) => ({
      name,
      dtype: "F32" as const,
      shape: shapeOf(name),
      chunks: () => [new Uint8Array(values.buffer as ArrayBuffer)],
    })),
    {
      name: "base_model.model.score.weight",
      dtype: "F32",
      shape: [1, hiddenSize],
      chunks: () => [new Uint8Array(head.buffer)],
    },
  ]);
  const path = join(adapter, "adapter_config.json");
  const json = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  writeFileSync(path, JSON.stringify({ ...json, task_type: "SEQ_CLS", modules_to_save: ["classifier", "score"] }));
  const merged = work.at("judge-merged");
  await exportMerged({ model: adapter, outputDir: merged, overwrite: false, note: () => {} });
  expect(readModelConfig(merged, "score").raw.architectures).toEqual(["Qwen3ForSequenceClassification"]);
  const device = await openRunDevice({ device: "cpu", threads: 2 }, () => {});
  const requests = [adapter, merged].map((folder) => ({ folder, longest: 32, microBatchTokens: 64 }));
  const planned = planSession(device, (plan) => ({
    models: planRewardModels(plan, requests, { dtype: null, duringRollout: false }),
  }));
  await withSession(planned, async ({ models }) => {
    const sequences = [Int32Array.from([5, 6, 7, 8]), Int32Array.from([90, 3])];
    const results = [];
    for (const { model, activations } of models)
      results.push(await scoreSequences(model, activations, sequences, { microBatchTokens: 64 }));
    expect(apart([...results[0]!], [...results[1]!])).toBeLessThan(2e-5);
    expect(Math.abs(results[0]![0]! - results[0]![1]!)).toBeGreaterThan(1e-2);
  });
  device.close();
  expect(train(work.at("judge as policy"), { model: adapter })).rejects.toThrow(/scores text and cannot generate it/);
});
