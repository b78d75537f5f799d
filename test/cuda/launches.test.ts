/**
 * Launches of a decode step and of a training layer, counted on the emulated driver: as many for one sequence as for many, and
 * one graph launch per step by the host.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { openModel } from "../../bench/roofline/phases.ts";
import { type CudaDevice, openCudaDevice } from "../../src/device/cuda/device.ts";
import type { ModelConfig } from "../../src/families/config.ts";
import { parseModelConfig } from "../../src/families/families.ts";
import { backward, forward } from "../../src/model/lm-head.ts";
import { cutMicroBatches } from "../../src/model/micro-batches.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { tensor } from "../../src/tensor/tensor.ts";
import { buildEmulator } from "../emulator/build.ts";
import { type EmulatorControl, openControl } from "../emulator/control.ts";

let device: CudaDevice;
let control: EmulatorControl;

beforeAll(async () => {
  const { folder: libraryFolder } = await buildEmulator();
  control = openControl(libraryFolder);
  device = await openCudaDevice({ libraryFolder });
});
afterAll(() => device.close());

/** The bundled model's shape, with the given number of layers. */
function config(layers: number): ModelConfig {
  const json = {
    model_type: "llama",
    vocab_size: 432,
    hidden_size: 128,
    intermediate_size: 256,
    num_hidden_layers: layers,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 32,
    tie_word_embeddings: true,
    eos_token_id: 1,
  };
  return parseModelConfig(json, `a model of ${layers} layers`);
}

const shape = { groups: 1, samples: 4, promptTokens: 40, completionTokens: 40, sequences: 24, microBatchTokens: 512 };

function open(layers: number, dtype: ComputeDType) {
  const opened = openModel(device, config(layers), shape, dtype);
  const { address, byteLength } = opened.arena;
  device.ops.fill(tensor("arena", address, "float32", [Math.floor(byteLength / 4)]), 0);
  return opened;
}

const total = (counts: Readonly<Record<string, number>>) => Object.values(counts).reduce((a, b) => a + b, 0);

/** Kernels and products of one replayed decode step, and the host's calls for it: what one more token adds to a rollout. */
async function decodeStep(layers: number, dtype: ComputeDType, sequences: number) {
  const { rollout } = open(layers, dtype);
  const sampling = { seed: 1, stream: 0, temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, step: 1 };
  const counted = async (maxCompletionLength: number) => {
    control.clearCounters();
    const requests = [{ promptIds: new Int32Array(7).fill(3), samples: sequences, prompt: 0 }];
    await rollout.generate(requests, { ...sampling, maxCompletionLength, isStop: () => false });
    return { launches: total(control.launches()), calls: control.calls() };
  };
  await counted(3); // records the step
  const [short, long] = [await counted(4), await counted(5)];
  rollout.close();
  const calls = Object.entries(long.calls).map(([name, count]) => [name, count - (short.calls[name] ?? 0)] as const);
  return {
    launches: long.launches - short.launches,
    calls: Object.fromEntries(calls.filter(([, count]) => count > 0)) as Record<string, number>,
  };
}

/** Kernels and products of a forward and a backward pass over completions of `length` tokens. */
async function trainingPass(layers: number, dtype: ComputeDType, samples: number, length: number): Promise<number> {
  const { model, activations, optimizer } = open(layers, dtype);
  const completions = Array.from({ length: samples }, () => ({ completionIds: new Int32Array(length).fill(5) }));
  const batches = cutMicroBatches([{ promptIds: new Int32Array(9).fill(3), completions }], 512);
  expect(batches.length).toBe(1);
  const [batch] = batches;
  control.clearCounters();
  await forward(model, batch!, activations, 1);
  const zero = new Float32Array(batch!.entryRows.length);
  await backward(model, batch!, activations, optimizer.gradients, { dlogprobs: zero, dentropies: zero }, 1);
  await device.read(optimizer.sums); // launches are counted as they run, and the stream may lag behind
  return total(control.launches());
}

for (const dtype of ["float32", "bfloat16"] as const)
  describe(dtype, () => {
    test("a decode step launches as much for one sequence as for many, in one graph", async () => {
      const [one, many] = [await decodeStep(2, dtype, 1), await decodeStep(2, dtype, 21)];
      expect(one.launches).toBeGreaterThan(20);
      expect(many.launches).toBe(one.launches);
      for (const { calls } of [one, many]) expect(calls).toMatchObject({ cuGraphLaunch: 1, cuMemcpyHtoDAsync_v2: 1 });
      expect(one.calls.cuMemcpyDtoHAsync_v2).toBe(1);
      expect(one.calls.cuLaunchKernel).toBeUndefined();
      expect(one.calls.cublasGemmEx).toBeUndefined();
      const [oneLayer, manyLayer] = [await decodeStep(1, dtype, 1), await decodeStep(1, dtype, 21)];
      expect(many.launches - manyLayer.launches).toBe(one.launches - oneLayer.launches);
      // two norms, four products, attention with all that a token goes through before, the gated unit
      const perLayer = one.launches - oneLayer.launches;
      expect(perLayer).toBe(8);
      expect(oneLayer.launches + 27 * perLayer).toBeLessThan(250); // a model of 28 layers
    });

    test("a training layer launches as much for few tokens as for many", async () => {
      const layer = async (samples: number, length: number) =>
        (await trainingPass(2, dtype, samples, length)) - (await trainingPass(1, dtype, samples, length));
      const [few, many] = [await layer(1, 2), await layer(4, 40)];
      expect(few).toBeGreaterThan(30);
      expect(many).toBe(few);
      expect(few).toBeLessThanOrEqual(65);
    });
  });
