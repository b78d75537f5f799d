/**
 * Mixtures of experts in training: routes are recorded and replayed, the loss of an unbalanced load is that of the whole step
 * however it is cut, bits depend neither on the order of tokens nor on that of experts, and a resumed run has the same bytes.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fillKnown } from "../../bench/model.ts";
import { openModel } from "../../bench/roofline/phases.ts";
import { writeWeights } from "../../src/checkpoint/safetensors-write.ts";
import { openCpuDevice } from "../../src/device/cpu/device.ts";
import type { Device } from "../../src/device/device.ts";
import { checkAdapters } from "../../src/families/adapters.ts";
import { parameterSpecs } from "../../src/families/parameters.ts";
import { findRoutes } from "../../src/model/expert-load.ts";
import { backward, forward } from "../../src/model/lm-head.ts";
import { cutMicroBatches, type MicroBatch, type PackedGroup } from "../../src/model/micro-batches.ts";
import { fillRopeTables } from "../../src/model/rope-tables.ts";
import { routeShape, type TokenRoutes } from "../../src/model/routes.ts";
import { loadWeights } from "../../src/model/weights.ts";
import { zeroGradients } from "../../src/optim/adamw.ts";
import { openModelFolder, parameterSource } from "../../src/session/planned-model.ts";
import { withSession } from "../../src/session/session.ts";
import { writeTinyModel } from "../fixtures/scalar-model.ts";
import { firstGradients, folderOf } from "./golden.ts";
import { logprobsApart } from "./logprob-line.ts";
import { onRanks, ranksBytes, rankTraining } from "./rank-runs.ts";
import { planGolden } from "./rollout-session.ts";
import { bundledModel, fingerprint, grpo, metricsOf, problems, train, untimed, update, workFolder } from "./runs.ts";
import { downloadTensors, readTensors, type Tensors, worstRelative } from "./tensors.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
let twoThreads: Device;
beforeAll(async () => {
  twoThreads = await openCpuDevice({ threads: 2 });
});
afterAll(() => {
  twoThreads.close();
  work.remove();
});

const golden = "families/qwen3-moe-tied";
const shape = routeShape(openModelFolder(folderOf(golden)).config)!;

const ids = (length: number, salt = 0) => Int32Array.from({ length }, (_, t) => (31 * salt + 11 * t + t * t) % 97);
const groups: PackedGroup[] = [
  { promptIds: ids(9), completions: [7, 1, 12].map((n, i) => ({ completionIds: ids(n, i + 1) })) },
  { promptIds: ids(5, 4), completions: [3, 8].map((n, i) => ({ completionIds: ids(n, i + 5) })) },
];

/** The golden model with gradients. */
async function open(folder = folderOf(golden), device = twoThreads) {
  const { config, checkpoint } = openModelFolder(folder);
  const sizes = { groups: 2, samples: 3, promptTokens: 16, completionTokens: 16, sequences: 4, microBatchTokens: 128 };
  const opened = openModel(device, config, sizes, "float32");
  await loadWeights(device, opened.model.weights, parameterSource(checkpoint));
  fillRopeTables(device, config, opened.model.rope);
  checkpoint.close();
  return opened;
}
type Opened = Awaited<ReturnType<typeof open>>;

/** Σ slope · logprob and its gradients, over batches. */
async function passes({ model, activations, optimizer }: Opened, batches: readonly MicroBatch[]) {
  const { device } = model;
  zeroGradients(device, optimizer);
  let loss = 0;
  const logprobs: number[][] = [];
  for (const batch of batches) {
    const scores = await forward(model, batch, activations, 1);
    const dlogprobs = new Float64Array(scores.logprobs.length);
    for (const [c, completion] of batch.completions.entries())
      for (let i = batch.entryStarts[c]!; i < batch.entryStarts[c + 1]!; i++)
        dlogprobs[i] = Math.cos(7 * completion + i - batch.entryStarts[c]!);
    for (const [i, logprob] of scores.logprobs.entries()) loss += dlogprobs[i]! * logprob;
    loss += scores.experts!.balanceLoss;
    const dentropies = new Float64Array(dlogprobs.length);
    await backward(model, batch, activations, optimizer.gradients, { dlogprobs, dentropies }, 1);
    for (const [c, completion] of batch.completions.entries())
      logprobs[completion] = [...scores.logprobs.subarray(batch.entryStarts[c]!, batch.entryStarts[c + 1]!)];
  }
  const gradients = downloadTensors(
    device,
    optimizer.parameters.map(({ weight, gradient }) => ({
      name: weight.name,
      weight: { ...weight, address: gradient.address, dtype: "float32" as const },
    })),
  );
  return { loss, logprobs, gradients };
}

/** The groups with each token's experts moved on by `by`. */
function routed(routes: readonly TokenRoutes[], by = 0): PackedGroup[] {
  let at = 0;
  const moved = (all: Uint16Array) => all.map((expert) => (expert + by) % shape.experts);
  return groups.map((group) => ({
    ...group,
    completions: group.completions.map((one) => {
      const { prompt, completion } = routes[at++]!;
      return { ...one, routes: { shape, prompt: moved(prompt), completion: moved(completion) } };
    }),
  }));
}

describe("routes", () => {
  test("a rollout records those that training finds, for any batch", async () => {
    const sampling = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 5, stream: 0, step: 1 };
    for (const maxSequences of [12, 3]) {
      const size = { maxSequences, longestPrompt: 70, maxCompletion: 30, penalized: false };
      await withSession(planGolden(twoThreads, golden, "float32", size), async ({ scorer, rollout }) => {
        const prompts = [1, 9, 64, 70].map((length, p) => ids(length, p));
        const requests = prompts.map((promptIds, prompt) => ({ promptIds, samples: 3, prompt }));
        const settings = { ...sampling, maxCompletionLength: 30, isStop: (id: number) => id % 31 === 5 };
        const sampled = await rollout.generate(requests, { ...settings, recordsRoutes: true });
        const recorded = sampled.flat().map(({ routes }) => routes!);
        for (const [i, { completionIds }] of sampled.flat().entries())
          expect(recorded[i]!.completion).toHaveLength((completionIds.length - 1) * shape.layers * shape.perToken);
        const packed = sampled.map((completions, i) => ({
          promptIds: prompts[i]!,
          completions: completions.map(({ completionIds }) => ({ completionIds })),
        }));
        for (const budget of [4096, 100])
          expect(await findRoutes(scorer.model, scorer.activations, packed, budget)).toEqual(recorded);
        const without = await rollout.generate(requests, settings);
        expect(without.flat().every(({ routes }) => routes === null)).toBe(true);
        expect(without.flat().map(({ completionIds }) => completionIds)).toEqual(
          sampled.flat().map(({ completionIds }) => completionIds),
        );
      });
    }
  });

  test("given ones are taken: the router's own change nothing, others do, and gradients follow them", async () => {
    const opened = await open();
    const { model, activations } = opened;
    const own = await findRoutes(model, activations, groups, 128);
    const free = await passes(opened, cutMicroBatches(groups, 128));
    const same = await passes(opened, cutMicroBatches(routed(own), 128));
    expect(same).toEqual(free);
    const other = routed(own, 1);
    const replayed = await passes(opened, cutMicroBatches(other, 128));
    expect(replayed.logprobs).not.toEqual(free.logprobs);
    // Cut into parts, where a prompt is computed several times, only sums differ.
    const parts = await passes(opened, cutMicroBatches(other, 24));
    expect(parts.logprobs).toEqual(replayed.logprobs);
    expect(worstRelative(parts.gradients, replayed.gradients).error).toBeLessThan(1e-5);
    await expectSlopes(opened, replayed.gradients, () => passes(opened, cutMicroBatches(other, 128)));
    opened.arena.free();
  });
});

/** Compares gradients with central differences of `loss` in elements of the router and of experts. */
async function expectSlopes({ model }: Opened, gradients: Tensors, run: () => Promise<{ loss: number }>) {
  const { device } = model;
  const step = 2e-2;
  for (const name of ["mlp.gate.weight", "experts.2.up_proj.weight", "experts.5.down_proj.weight", "q_norm.weight"]) {
    const weight = model.weights.all.find((one) => one.name.startsWith("model.layers.3.") && one.name.endsWith(name))!;
    const values = downloadTensors(device, [{ name, weight }]).get(name)!;
    const gradient = gradients.get(weight.name)!;
    // The steepest element is the least lost in rounding.
    const place = gradient.reduce((best, g, i) => (Math.abs(g) > Math.abs(gradient[best]!) ? i : best), 0);
    const at = async (move: number) => {
      const moved = Float32Array.from(values);
      moved[place]! += move;
      fillKnown(device, [weight], () => Float64Array.from(moved));
      const { loss } = await run();
      return loss;
    };
    const slope = ((await at(step)) - (await at(-step))) / (2 * step);
    await at(0);
    const got = gradient[place]!;
    expect({ name, close: Math.abs(got - slope) <= 2e-2 * Math.abs(slope) + 2e-3 }).toEqual({
      ...{ name, close: true },
    });
  }
}

describe("the loss of an unbalanced load", () => {
  test("has the same gradients however a step is cut", async () => {
    const whole = await firstGradients(twoThreads, golden, "grpo", {
      router_aux_loss_coef: 1,
      micro_batch_tokens: 2048,
    });
    const parts = await firstGradients(
      twoThreads,
      golden,
      "grpo",
      { router_aux_loss_coef: 1, micro_batch_tokens: 24 },
      false,
    );
    expect(worstRelative(parts.gradients, whole.gradients).error).toBeLessThan(1e-4);
    expect(parts.metrics.aux_loss!).toBeCloseTo(whole.metrics.aux_loss!, 5);
    expect(parts.metrics.loss!).toBeCloseTo(whole.metrics.loss!, 5);
    for (const name of ["experts/max_load", "experts/min_load", "experts/unused"])
      expect({ name, value: parts.metrics[name] }).toEqual({ name, value: whole.metrics[name]! });
    const none = await firstGradients(twoThreads, golden, "grpo", {
      router_aux_loss_coef: 0,
      micro_batch_tokens: 2048,
    });
    expect(none.metrics.aux_loss).toBeUndefined();
    expect(worstRelative(none.gradients, whole.gradients).error).toBeGreaterThan(1e-2);
  });

  test("of a model without experts is refused in one line", async () => {
    for (const [command, ...flags] of [
      ["train", "--dataset", problems, "--reward_funcs", "gsm8k"],
      ["sft", "--dataset", problems],
      ["update", "--rollouts", join(folderOf("llama-tied"), "rollouts.jsonl")],
    ]) {
      const argv = [command!, "--model", folderOf("llama-tied"), ...flags, "--router_aux_loss_coef", "0.01"];
      const { code, err } = await grpo([...argv, "--output_dir", work.at(`refused-${command}`)]);
      expect({ command, code }).toEqual({ command, code: 2 });
      const line = err.trim().split("\n").at(-1);
      expect(line).toMatch(
        /router_aux_loss_coef 0\.01: .*llama-tied has no experts whose load it could balance; leave/,
      );
    }
  });
});

describe("order", () => {
  test("of tokens and groups changes no bit, and neither do threads", async () => {
    const opened = await open();
    const first = await passes(opened, cutMicroBatches(groups, 128));
    const { logprobs } = first;
    const reversed = await passes(opened, cutMicroBatches([groups[1]!, groups[0]!], 128));
    expect(reversed.logprobs).toEqual([...logprobs.slice(3), ...logprobs.slice(0, 3)]);
    opened.arena.free();
    const single = await openCpuDevice({ threads: 1 });
    const other = await open(folderOf(golden), single);
    const again = await passes(other, cutMicroBatches(groups, 128));
    expect(again).toEqual(first);
    other.arena.free();
    single.close();
  });

  test("of experts changes nothing but the rounding of the router's softmax: the same model with its experts in another order", async () => {
    const plain = await open();
    const before = await passes(plain, cutMicroBatches(groups, 128));
    plain.arena.free();
    const renamed = (name: string) =>
      name.replace(/experts\.(\d+)\./, (_, e) => `experts.${(Number(e) + 3) % shape.experts}.`);
    const folder = work.at("reordered");
    const source = readTensors(join(folderOf(golden), "model.safetensors"));
    const tensors = new Map([...source].map(([name, values]) => [renamed(name), values] as const));
    for (const [name, values] of tensors) {
      if (!name.endsWith("mlp.gate.weight")) continue;
      const width = values.length / shape.experts;
      const rows = new Float32Array(values.length);
      for (let e = 0; e < shape.experts; e++)
        rows.set(values.slice(e * width, (e + 1) * width), ((e + 3) % shape.experts) * width);
      tensors.set(name, rows);
    }
    await writeLike(folder, tensors);
    const opened = await open(folder);
    const after = await passes(opened, cutMicroBatches(groups, 128));
    expect(logprobsApart(after.logprobs, before.logprobs).worst).toBeLessThan(1e-5);
    const experts = (all: Tensors, name = (text: string) => text) =>
      new Map(
        [...all].flatMap(([key, values]) => (key.endsWith("mlp.gate.weight") ? [] : [[name(key), values] as const])),
      );
    expect(worstRelative(experts(after.gradients), experts(before.gradients, renamed)).error).toBeLessThan(1e-4);
    opened.arena.free();
  });
});

/** A copy of the golden model with other weights. */
async function writeLike(folder: string, tensors: Tensors): Promise<void> {
  const { config } = openModelFolder(folderOf(golden));
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "config.json"), readFileSync(join(folderOf(golden), "config.json")));
  await writeWeights(
    folder,
    parameterSpecs(config).map(({ name, shape }) => ({
      ...{ name, shape, dtype: "F32" as const },
      chunks: () => [new Uint8Array(Float32Array.from(tensors.get(name)!).buffer)],
    })),
  );
}

test("experts and routers have no adapters: their names are refused as what they are", () => {
  const { config } = openModelFolder(folderOf(golden));
  const check = (target: string) => () =>
    checkAdapters(
      config,
      { rank: 4, alpha: 8, rslora: false, targets: [target], saved: [] },
      { targets: "lora_target_modules", saved: "modules_to_save" },
    );
  for (const name of ["experts", "mlp.experts", "experts.0", "experts.0.down_proj", "mlp.gate", "gate"])
    expect(check(name)).toThrow(
      `lora_target_modules: "${name}" is a part of the layers' mixtures of experts, which have no adapters; leave it out: there are q_proj`,
    );
  expect(check("exp")).toThrow('no layer has "exp"');
  expect(check("q_proj")).not.toThrow();
});

describe("training", () => {
  let model: string;
  const flags = { steps_per_generation: 2, num_iterations: 2, per_device_train_batch_size: 8, beta: 0.04 };
  beforeAll(async () => {
    model = await writeTinyModel(work.at("mixture"), {
      ...{ modelType: "qwen3_moe", head: "lm", tokenizer: bundledModel, vocabSize: 432, context: 512 },
      config: { num_experts: 6, num_experts_per_tok: 2, moe_intermediate_size: 24, router_aux_loss_coef: 0.01 },
    });
  });

  test("logs the experts' load; replayed routes change later steps of a generation alone", async () => {
    const [replayed, free] = [work.at("replayed"), work.at("free")];
    await train(replayed, { ...flags, model, max_steps: 4 });
    await train(free, { ...flags, model, max_steps: 4, router_replay: false });
    const [one, other] = [metricsOf(replayed), metricsOf(free)];
    for (const record of one) {
      expect(Number(record.aux_loss)).toBeGreaterThan(1.9);
      expect(Number(record["experts/max_load"])).toBeGreaterThanOrEqual(1);
      expect(Number(record["experts/min_load"])).toBeLessThanOrEqual(1);
      expect(Number(record["experts/unused"])).toBeLessThan(1);
      expect(record["sampling/sampling_logp_difference/max"]).toBe(0);
    }
    expect(one[0]!.loss).toBe(other[0]!.loss!);
    expect(one[0]!.grad_norm).toBe(other[0]!.grad_norm!);
    expect(one.map(({ loss }) => loss)).not.toEqual(other.map(({ loss }) => loss));
  });

  test("a resumed run has the bytes of one that never stopped; so has `update` on its recorded rollouts", async () => {
    const [whole, stopped] = [work.at("whole"), work.at("stopped")];
    await train(whole, { ...flags, model, max_steps: 8, save_steps: 4 });
    await train(stopped, { ...flags, model, max_steps: 8, save_steps: 4 }, { stopAfter: 4 });
    await train(stopped, { ...flags, model, max_steps: 8, save_steps: 4, resume_from_checkpoint: true });
    const own = (folder: string) => fingerprint(folder, "model.safetensors");
    expect(own(stopped)).toBe(own(whole));
    const again = work.at("again");
    const rollouts = join(whole, "completions/step-000005.jsonl");
    await update({
      rollouts,
      output_dir: again,
      resume_from_checkpoint: join(whole, "checkpoint-4"),
    });
    expect(fingerprint(again, "model.safetensors")).toBe(fingerprint(join(whole, "checkpoint-8"), "model.safetensors"));
    expect(untimed(metricsOf(stopped))).toEqual(untimed(metricsOf(whole)));
  });

  test("two ranks give the bytes of one", async () => {
    const of = { ...rankTraining, ...flags, per_device_train_batch_size: 8, model, max_steps: 4 };
    const [one, two] = [work.at("one rank"), work.at("two ranks")];
    await Promise.all([onRanks(1, one, of), onRanks(2, two, of)]);
    expect(ranksBytes(two)).toEqual(ranksBytes(one));
  });
});
