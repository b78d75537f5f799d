/**
 * LoRA adapters: logprobs and gradients against a float64 model, sampler and trainer to the bit, the reference, what is
 * planned and saved, resuming, and folders that do not fit.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type Parameters, referenceScores } from "../../bench/reference-model.ts";
import { openCpuDevice } from "../../src/device/cpu/device.ts";
import type { Device } from "../../src/device/device.ts";
import { families } from "../../src/families/families.ts";
import { parameterSpecs } from "../../src/families/parameters.ts";
import { scoreGroups } from "../../src/grpo/learner/policy-update.ts";
import { forwardBackward } from "../../src/model/lm-head.ts";
import { cutMicroBatches } from "../../src/model/micro-batches.ts";
import { zeroGradients } from "../../src/optim/adamw.ts";
import { openRunDevice } from "../../src/run/device.ts";
import { type AdapterPlan, adaptersOf } from "../../src/session/adapters.ts";
import { planPolicy, planSampling, planScoring, planTraining } from "../../src/session/policy.ts";
import { planReference, referenceWithoutAdapters } from "../../src/session/reference.ts";
import { planSession, withSession } from "../../src/session/session.ts";
import type { SessionPlan } from "../../src/session/tenant.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { type RandomAdapter, writeRandomAdapter } from "../fixtures/adapter.ts";
import { invented } from "../fixtures/invented-family.ts";
import { writeTinyModel } from "../fixtures/scalar-model.ts";
import { outcome, tinyTraining, train, workFolder } from "./runs.ts";
import { downloadTensors, readTensors } from "./tensors.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

families.set("invented", invented);
const work = workFolder();
let device: Device;
beforeAll(async () => {
  device = await openRunDevice({ device: "cpu", threads: 2 }, () => {});
});
afterAll(() => {
  device.close();
  work.remove();
  families.delete("invented");
});

const golden = (name: string) => join(import.meta.dir, "../golden", name);
const ids = (length: number, from: number, vocab = 250) =>
  Int32Array.from({ length }, (_, i) => (from + 37 * i) % vocab);
const groups = [
  { promptIds: ids(5, 3), completions: [9, 1, 4].map((n, i) => ({ completionIds: ids(n, 50 + i) })) },
  { promptIds: ids(1, 8), completions: [12, 2].map((n, i) => ({ completionIds: ids(n, 90 + i) })) },
];
const scoring = { temperature: 1, microBatchTokens: 24 };

const policyOf = (plan: SessionPlan, folder: string, dtype: ComputeDType = "float32", adapters?: AdapterPlan | null) =>
  planPolicy(plan, plan.folder(folder), { dtype, positions: 96, ...(adapters !== undefined && { adapters }) });

/** Base and adapter in float64, by the names that the adapted model has. */
function float64(...files: readonly string[]): Map<string, Float64Array> {
  return new Map(
    files.flatMap((file) => [...readTensors(file)].map(([name, values]) => [name, Float64Array.from(values)] as const)),
  );
}

const models: readonly (readonly [name: string, options: { readonly modelType: string } & RandomAdapter])[] = [
  ["llama", { modelType: "llama", rank: 4, saved: [] }],
  ["qwen2", { modelType: "qwen2", rank: 16, saved: ["norm", "lm_head"] }],
  [
    "qwen3",
    { modelType: "qwen3", rank: 16, rslora: true, targets: ["q_proj", "v_proj", "down_proj"], saved: ["embed_tokens"] },
  ],
  ["invented", { modelType: "invented", rank: 3, saved: ["ln_q"] }],
];
describe.each(models)("%s", (name, { modelType, ...options }) => {
  let base: string;
  let adapter: string;
  beforeAll(async () => {
    base = await writeTinyModel(work.at(name), { head: "lm", modelType, seed: 5, vocabSize: 256 });
    adapter = await writeRandomAdapter(work.at(`${name}-adapter`), base, options);
  });

  test("logprobs, and the gradient of what is trained, equal a float64 model's", async () => {
    const planned = planSession(device, (plan) => {
      const from = plan.folder(adapter);
      const model = planPolicy(plan, from, { dtype: "float32", positions: 96, adapters: adaptersOf(from) });
      return { policy: planTraining(plan, model, { tokens: 64, longestPrompt: 16 }) };
    });
    const { config } = planned.tenants.policy.model;
    const parameters = float64(join(base, "model.safetensors"), join(adapter, "adapter_model.safetensors"));
    const scoresOf = (given: Parameters) =>
      groups.flatMap(({ promptIds, completions }) =>
        completions.map(({ completionIds }) => referenceScores(config, given, [...promptIds], [...completionIds])),
      );
    const slope = (e: number) => Math.sin(3 * e + 1);
    const loss = () =>
      scoresOf(parameters)
        .flatMap(({ logprobs }) => logprobs)
        .reduce((sum, x, e) => sum + slope(e) * x, 0);
    await withSession(planned, async ({ policy: { model, activations, optimizer } }) => {
      zeroGradients(device, optimizer);
      const logprobs: number[] = [];
      for (const batch of cutMicroBatches(groups, scoring.microBatchTokens)) {
        const first = logprobs.length;
        const derive = (entries: Int32Array) => ({
          dlogprobs: Float64Array.from(entries, (e) => slope(first + e)),
          dentropies: new Float64Array(entries.length),
        });
        logprobs.push(...(await forwardBackward(model, batch, activations, optimizer.gradients, derive, 1)).logprobs);
      }
      const wanted = scoresOf(parameters).flatMap((scores) => scores.logprobs);
      for (const [e, want] of wanted.entries()) expect(Math.abs(logprobs[e]! - want)).toBeLessThan(2e-5);
      const trained = parameterSpecs(config)
        .filter(({ trainable }) => trainable)
        .map((spec) => spec.name);
      expect(optimizer.parameters.map(({ weight }) => weight.name)).toEqual(trained);
      expect(trained.every((one) => one.startsWith("base_model.model."))).toBe(true);
      const gradients = downloadTensors(
        device,
        optimizer.parameters.map(({ weight, gradient }) => ({
          name: weight.name,
          weight: { ...weight, address: gradient.address, dtype: "float32" as const },
        })),
      );
      for (const [parameter, gradient] of gradients) {
        const own = parameters.get(parameter)!;
        const kept = own.slice();
        const direction = kept.map((_, i) => Math.cos(7 * i + 2));
        const at = (step: number) => {
          for (let i = 0; i < own.length; i++) own[i] = kept[i]! + step * direction[i]!;
          return loss();
        };
        const want = (at(1e-5) - at(-1e-5)) / 2e-5;
        own.set(kept);
        const found = gradient.reduce((sum, g, i) => sum + g * direction[i]!, 0);
        const size = Math.sqrt(gradient.reduce((sum, g) => sum + g * g, 0));
        const close = Math.abs(found - want) <= 1e-4 * size * Math.sqrt(own.length);
        expect({ parameter, close, some: size > 0 }).toEqual({ parameter, close: true, some: true });
      }
    });
  });

  test("the reference is the base model, to the bit, on the policy's own weights", async () => {
    const planned = planSession(device, (plan) => {
      const policy = policyOf(plan, adapter);
      return {
        reference: referenceWithoutAdapters(policy),
        scorer: planScoring(plan, policy, { tokens: 64, longestPrompt: 16 }),
        alone: planReference(plan, plan.folder(base), policy),
      };
    });
    await withSession(planned, async ({ reference, scorer, alone }) => {
      const score = (model: typeof reference) => scoreGroups(model, scorer.activations, groups, scoring);
      const [adapted, without, plain] = [await score(scorer.model), await score(reference), await score(alone)];
      expect(without).toEqual(plain);
      expect(adapted).not.toEqual(plain);
      expect(await score(scorer.model)).toEqual(adapted);
    });
  });
});

describe("sampling", () => {
  test.each<[ComputeDType, number]>([
    ["float32", 16],
    ["float32", 5],
    ["bfloat16", 16],
  ])("%s, rank %i: sampled logprobs are the trainer's, for any batch, threads and path", async (dtype, rank) => {
    const adapter = await writeRandomAdapter(work.at(`sampled-${rank}`), golden("qwen3-qknorm"), { rank });
    const { library } = await openCpuDevice();
    for (const { name: path, supported } of library.paths) {
      if (!supported) continue;
      let first: unknown = null;
      for (const [threads, maxSequences] of [
        [2, 16],
        [1, 3],
      ] as const) {
        const own = await openCpuDevice({ path, threads });
        const planned = planSession(own, (plan) => {
          const policy = policyOf(plan, adapter, dtype);
          const limits = { maxSequences, longestPrompt: 40, maxCompletion: 20, penalized: false, promptRoom: 3 };
          return {
            rollout: planSampling(plan, policy, limits),
            scorer: planScoring(plan, policy, { tokens: 512, longestPrompt: 40 }),
          };
        });
        await withSession(planned, async ({ rollout, scorer }) => {
          const promptIds = [1, 7, 40].map((length) => ids(length, length));
          const sampled = await rollout.generate(
            promptIds.map((prompt, i) => ({ promptIds: prompt, samples: 4, prompt: i })),
            {
              ...{ seed: 7, stream: 0, step: 3, temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 },
              ...{ maxCompletionLength: 20, isStop: (id: number) => id % 23 === 5 },
            },
          );
          const all = sampled.map((completions, i) => ({ promptIds: promptIds[i]!, completions }));
          for (const microBatchTokens of [512, 50]) {
            const scored = await scoreGroups(scorer.model, scorer.activations, all, {
              temperature: 1,
              microBatchTokens,
            });
            expect(scored.map(({ logprobs }) => logprobs)).toEqual(sampled.flat().map(({ logprobs }) => logprobs));
          }
          first ??= sampled;
          expect(sampled).toEqual(first as typeof sampled);
        });
      }
    }
  });
});

const lora = { use_peft: true, lora_r: 4, lora_target_modules: "all-linear", learning_rate: 1e-2 };

describe("training", () => {
  test("learns, saves adapters alone, and resumes to the same bytes", async () => {
    const [whole, cut] = [work.at("whole"), work.at("cut")];
    const flags = { ...lora, save_steps: 2, beta: 0.04, num_iterations: 2, max_steps: 4, modules_to_save: "norm" };
    const { steps } = await train(whole, flags);
    const kl = steps.map((record) => Number(record.kl));
    expect(kl[0]).toBe(0);
    expect(kl.at(-1)!).toBeGreaterThan(0);
    await train(cut, { ...flags, max_steps: 4 }, { stopAfter: 2 });
    await train(cut, { ...flags, resume_from_checkpoint: true });
    expect(outcome(cut)).toEqual(outcome(whole));
    const names = readdirSync(join(whole, "checkpoint-4")).sort();
    expect(names).toContain("adapter_config.json");
    expect(names.filter((name) => name.endsWith(".safetensors"))).toEqual([
      "adapter_model.safetensors",
      "optimizer.safetensors",
    ]);
    const saved = readTensors(join(whole, "adapter_model.safetensors"));
    const states = readTensors(join(whole, "checkpoint-4/optimizer.safetensors"));
    expect([...states.keys()].sort()).toEqual(
      [...saved.keys()].flatMap((name) => [`exp_avg.${name}`, `exp_avg_sq.${name}`]).sort(),
    );
    expect(JSON.parse(readFileSync(join(whole, "adapter_config.json"), "utf8"))).toMatchObject({
      ...{
        peft_type: "LORA",
        task_type: "CAUSAL_LM",
        r: 4,
        lora_alpha: 32,
        base_model_name_or_path: tinyTraining.model,
      },
      ...{ bias: "none", lora_dropout: 0, use_rslora: false, modules_to_save: ["norm"] },
    });
  });

  test("new adapters start as in PEFT: the second matrix 0, the first uniform within 1/√inputs", async () => {
    const folder = work.at("started");
    await train(folder, { ...lora, lora_r: 16, learning_rate: 0, max_steps: 1 });
    for (const [name, values] of readTensors(join(folder, "adapter_model.safetensors"))) {
      const inputs = values.length / 16;
      if (name.includes("lora_B")) expect(values.every((x) => x === 0)).toBe(true);
      else {
        const bound = Math.fround(1 / Math.sqrt(inputs));
        expect(values.every((x) => Math.abs(x) <= bound)).toBe(true);
        const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
        const spread = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
        expect(Math.abs(mean)).toBeLessThan((4 * bound) / Math.sqrt(3 * values.length));
        expect(spread / (bound / Math.sqrt(3))).toBeCloseTo(1, 1);
      }
    }
  });
});

describe("refused in one line", () => {
  const refused = async (folder: string, message: RegExp) => {
    const planned = () => planSession(device, (plan) => ({ policy: policyOf(plan, folder) })).close();
    expect(planned).toThrow(message);
  };
  const base = golden("llama-tied");
  test.each<[string, RandomAdapter, RegExp]>([
    [
      "a missing tensor",
      { without: /1\.self_attn\.v_proj\.lora_B/ },
      /layers\.1\.self_attn\.v_proj\.lora_B\.weight is missing; the adapter is incomplete/,
    ],
    ["another rank", { config: { r: 8 } }, /has shape \[4,64\], base model and adapter_config.json imply \[8,64\]/],
    ["another base", { config: { base_model_name_or_path: golden("qwen2-bias") } }, /of another base model/],
    [
      "no such base",
      { config: { base_model_name_or_path: "./nowhere" } },
      /base_model_name_or_path: there is no \.\/nowhere/,
    ],
    [
      "a target that no layer has",
      { config: { target_modules: ["q_proj", "c_attn"] } },
      /target_modules: no layer has "c_attn"; there are q_proj/,
    ],
    ["fewer targets than tensors", { config: { target_modules: ["q_proj"] } }, /belongs to no module/],
    ["DoRA", { config: { use_dora: true } }, /use_dora: DoRA/],
    ["another method", { config: { peft_type: "IA3" } }, /peft_type: "IA3" is not supported/],
    ["rank 0", { config: { r: 0 } }, /adapter_config.json: r: /],
  ])("%s", async (name, options, message) => {
    await refused(await writeRandomAdapter(work.at(`refused ${name}`), base, options), message);
  });

  test("settings", async () => {
    const from = async (flags: Record<string, string | number | boolean>, message: RegExp) =>
      expect(train(work.at("never"), { ...lora, ...flags })).rejects.toThrow(message);
    await from({ lora_dropout: 0.05 }, /lora_dropout 0.05: must be 0/);
    await from({ lora_target_modules: "q_prj" }, /lora_target_modules: no layer has "q_prj"; there are q_proj/);
    await from({ lora_target_modules: "lm_head" }, /lora_target_modules: lm_head has no adapter here/);
    await from({ modules_to_save: "q_proj" }, /modules_to_save: "q_proj" is the projection/);
    await from({ modules_to_save: "nothing" }, /modules_to_save: no module is called "nothing"/);
    await from({ sync_ref_model: true }, /sync_ref_model: with use_peft/);
  });

  test("a checkpoint of other settings", async () => {
    const folder = work.at("other");
    await train(folder, { ...lora, max_steps: 1, save_steps: 1 });
    const again = (flags: Record<string, string | number | boolean>) => {
      const place = work.at("other again");
      rmSync(place, { recursive: true, force: true });
      cpSync(folder, place, { recursive: true });
      return train(place, { ...lora, ...flags, max_steps: 2, resume_from_checkpoint: true });
    };
    expect(again({ lora_r: 8 })).rejects.toThrow(/r is 4, lora_r is now 8/);
    expect(again({ use_peft: false })).rejects.toThrow(/was written with use_peft; resume with that setting/);
  });
});
