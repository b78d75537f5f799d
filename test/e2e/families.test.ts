/**
 * The effects of a family's description, tested with an invented one: shapes and names that differ by layer in rollout,
 * training and files, and parameters that are not trained.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openModel } from "../../bench/roofline/phases.ts";
import { readModelConfig, writeConfig } from "../../src/checkpoint/huggingface.ts";
import { writeWeights } from "../../src/checkpoint/safetensors-write.ts";
import type { Device } from "../../src/device/device.ts";
import type { ModelConfig } from "../../src/families/config.ts";
import { families } from "../../src/families/families.ts";
import { mapLayer, type ParameterSpec } from "../../src/families/layer.ts";
import { parameterSpecs } from "../../src/families/parameters.ts";
import { backward, forward } from "../../src/model/lm-head.ts";
import { cutMicroBatches, type PackedGroup } from "../../src/model/micro-batches.ts";
import { fillRopeTables } from "../../src/model/rope-tables.ts";
import { loadWeights, savedTensors } from "../../src/model/weights.ts";
import { optimizerStep, startOptimizer, zeroGradients } from "../../src/optim/adamw.ts";
import { openRunDevice } from "../../src/run/device.ts";
import { openModelFolder, parameterSource } from "../../src/session/planned-model.ts";
import { invented } from "../fixtures/invented-family.ts";
import { type TinyModel, writeTinyModel } from "../fixtures/scalar-model.ts";
import { workFolder } from "./runs.ts";
import { downloadTensors, type Tensors } from "./tensors.ts";

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

let folders = 0;
/** A language model with random weights, in its own folder. */
const languageModel = (options: TinyModel) => writeTinyModel(work.at(`${folders++}`), { head: "lm", ...options });

const shape = { groups: 1, samples: 2, promptTokens: 70, completionTokens: 12, sequences: 4, microBatchTokens: 128 };
const promptIds = (length: number) => Int32Array.from({ length }, (_, i) => (5 + 37 * i) % 320);

/** Opens a model folder as a run does; `described` may override the family's description of its parameters. */
async function open(folder: string, described = (config: ModelConfig) => config) {
  const { config, checkpoint } = openModelFolder(folder);
  const opened = openModel(device, described(config), shape, "float32");
  await loadWeights(device, opened.model.weights, parameterSource(checkpoint));
  fillRopeTables(device, config, opened.model.rope);
  startOptimizer(device, opened.optimizer);
  checkpoint.close();
  return opened;
}
type Opened = Awaited<ReturnType<typeof open>>;

const sampling = { seed: 1, stream: 0, temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, step: 1 };
const adamw = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01, maxGradNorm: 1 };

/** Gradients of Σ logprob, the weights after a step along them, and the gradients' norm. */
async function trainOnce({ model, activations, optimizer }: Opened, groups: readonly PackedGroup[]) {
  zeroGradients(device, optimizer);
  for (const batch of cutMicroBatches(groups, 128)) {
    await forward(model, batch, activations, 1);
    const dlogprobs = new Float32Array(batch.entryRows.length).fill(1);
    const derivatives = { dlogprobs, dentropies: dlogprobs.map(() => 0) };
    await backward(model, batch, activations, optimizer.gradients, derivatives, 1);
  }
  const gradients = downloadTensors(
    device,
    optimizer.parameters.map(({ weight, gradient }) => ({
      name: weight.name,
      weight: { ...weight, address: gradient.address, dtype: "float32" },
    })),
  );
  const norm = await optimizerStep(device, optimizer, adamw, 1e-2);
  return { gradients, norm, weights: weightsOf(model) };
}

const weightsOf = ({ weights: { all } }: Opened["model"]): Tensors =>
  downloadTensors(
    device,
    all.map((weight) => ({ name: weight.name, weight })),
  );

describe("layers of different shapes, under other names than Llama's", () => {
  for (const tied of [false, true])
    test(`${tied ? "tied" : "untied"}: sampled logprobs equal training's, every parameter learns and is restored from a file`, async () => {
      const folder = await languageModel({ modelType: "invented", config: { tie_word_embeddings: tied } });
      const opened = await open(folder);
      const { model, activations, rollout } = opened;
      const requests = [3, 64, 70].map((length, prompt) => ({ promptIds: promptIds(length), samples: 2, prompt }));
      const settings = { ...sampling, maxCompletionLength: 12, isStop: (id: number) => id % 31 === 3 };
      const sampled = await rollout.generate(requests, settings);
      const groups = sampled.map((completions, i) => ({ promptIds: requests[i]!.promptIds, completions }));
      const scored: number[] = [];
      for (const batch of cutMicroBatches(groups, 128))
        scored.push(...(await forward(model, batch, { ...activations, gradient: null }, 1)).logprobs);
      expect(scored).toEqual(sampled.flat().flatMap(({ logprobs }) => [...logprobs]));

      const before = weightsOf(model);
      const { gradients, weights } = await trainOnce(opened, groups);
      const names = parameterSpecs(model.config).map(({ name }) => name);
      expect([...gradients.keys()]).toEqual(names);
      expect(names.includes("output.weight")).toBe(!tied);
      for (const name of names) {
        expect({ name, learns: gradients.get(name)!.some((g) => g !== 0) }).toEqual({ name, learns: true });
        expect({ name, moved: weights.get(name)!.some((w, i) => w !== before.get(name)![i]) }).toMatchObject({
          moved: true,
        });
      }

      const saved = work.at(`${folders++}`);
      mkdirSync(saved);
      const entries = model.weights.all.map((weight) => ({ name: weight.name, weight }));
      const { tensors, free } = savedTensors(device, entries, "float32");
      await writeWeights(saved, tensors);
      free();
      writeConfig(saved, model.config, "float32");
      rollout.close();
      opened.arena.free();
      expect(JSON.parse(readFileSync(join(saved, "config.json"), "utf8")).architectures).toEqual([
        "InventedForCausalLM",
      ]);
      const again = await open(saved);
      expect(weightsOf(again.model)).toEqual(weights);
      again.arena.free();
    });

  test("layers are counted under the family's names", async () => {
    const folder = await languageModel({ modelType: "invented" });
    const path = join(folder, "config.json");
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), num_hidden_layers: 3 }));
    expect(() => openModelFolder(folder)).toThrow(/the checkpoint holds 2 layers, config\.json says 3/);
  });
});

/** The model with the parameters selected by `isFrozen` not trained. */
function freeze(config: ModelConfig, isFrozen: (name: string) => boolean): ModelConfig {
  const mark = (spec: ParameterSpec) => ({ ...spec, trainable: !isFrozen(spec.name) });
  const { embedding, finalNorm, lmHead, layer } = config;
  return {
    ...config,
    ...{ embedding: mark(embedding), finalNorm: mark(finalNorm), lmHead: mark(lmHead) },
    layer: (index) => mapLayer(layer(index), mark),
  };
}

describe("parameters that are not trained", () => {
  const biased = { attention_bias: true, mlp_bias: true };
  test.each<[what: string, TinyModel, RegExp]>([
    ["the embedding, and the head tied to it", { config: { tie_word_embeddings: true } }, /embed_tokens/],
    ["the LM head", {}, /lm_head/],
    ["a layer", { modelType: "qwen2" }, /layers\.0\./],
    ["matrices", { config: biased }, /(proj|embed_tokens|lm_head)\.weight/],
    ["norms and biases", { modelType: "qwen3", config: biased }, /norm|bias/],
  ])("%s: no gradient, no optimizer state, the others' bits as ever", async (_, options, pattern) => {
    const folder = await languageModel(options);
    const groups = [
      { promptIds: promptIds(9), completions: [7, 3].map((n) => ({ completionIds: promptIds(n) })) },
      { promptIds: promptIds(66), completions: [{ completionIds: promptIds(12) }] },
    ];
    const names = parameterSpecs(readModelConfig(folder)).map(({ name }) => name);
    const [held, trained] = [names.filter((name) => pattern.test(name)), names.filter((name) => !pattern.test(name))];
    expect(Math.min(held.length, trained.length)).toBeGreaterThan(0);

    const whole = await open(folder);
    const before = weightsOf(whole.model);
    const all = await trainOnce(whole, groups);
    const part = await open(folder, (config) => freeze(config, (name) => pattern.test(name)));
    const { gradients, norm, weights } = await trainOnce(part, groups);

    expect(part.optimizer.parameters.map(({ weight }) => weight.name)).toEqual(trained);
    for (const name of held) {
      expect({ name, gradient: part.optimizer.gradients.get(name) }).toEqual({ name, gradient: null });
      expect({ name, values: weights.get(name)! }).toEqual({ name, values: before.get(name)! });
    }
    for (const name of trained)
      expect({ name, values: gradients.get(name)! }).toEqual({ name, values: all.gradients.get(name)! });
    const squares = [...gradients.values()].flatMap((values) => [...values]).reduce((sum, g) => sum + g * g, 0);
    expect(Math.abs(norm - Math.sqrt(squares))).toBeLessThan(1e-5 * norm);
    expect(part.arena.byteLength).toBeLessThan(whole.arena.byteLength);
    for (const { arena } of [whole, part]) arena.free();
  });
});
