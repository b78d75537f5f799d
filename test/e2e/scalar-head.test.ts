/**
 * Models with a scalar head: values, scores and gradients against a float64 transformer; bits that do not depend on the rest of
 * the pack, on threads or on the cut into micro-batches. Every family, plus one that only this test knows.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { readModelConfig } from "../../src/checkpoint/huggingface.ts";
import type { Device } from "../../src/device/device.ts";
import { families } from "../../src/families/families.ts";
import { cutMicroBatches, type PackedGroup } from "../../src/model/micro-batches.ts";
import { backwardValues, forwardValues, scoreSequences, scoreValues } from "../../src/model/scalar-head.ts";
import { zeroGradients } from "../../src/optim/adamw.ts";
import { openRunDevice } from "../../src/run/device.ts";
import { planCritic } from "../../src/session/critic.ts";
import { planPolicy } from "../../src/session/policy.ts";
import { planRewardModels } from "../../src/session/reward-model.ts";
import { planSession } from "../../src/session/session.ts";
import { invented } from "../fixtures/invented-family.ts";
import { writeTinyModel } from "../fixtures/scalar-model.ts";
import { type Parameters, referenceValues } from "./reference-model.ts";
import { workFolder } from "./runs.ts";
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

const ids = (length: number, from: number) => Int32Array.from({ length }, (_, i) => (from + 37 * i) % 320);

/** Three groups, with completions of one token and of more than a page of keys. */
const groups: readonly PackedGroup[] = [
  { promptIds: ids(5, 3), completions: [9, 1, 4].map((n, i) => ({ completionIds: ids(n, 50 + i) })) },
  { promptIds: ids(1, 8), completions: [70, 2].map((n, i) => ({ completionIds: ids(n, 90 + i) })) },
  { promptIds: ids(17, 11), completions: [6, 6].map((n, i) => ({ completionIds: ids(n, 200 + i) })) },
];

async function openCritic(folder: string, on = device) {
  const policy = await writeTinyModel(work.at("policy"), { head: "lm" });
  const planned = planSession(on, (plan) => {
    const actor = planPolicy(plan, plan.folder(policy), { dtype: "float32", positions: 96 });
    const requests = [{ folder, longest: 96, microBatchTokens: 128 }];
    return {
      critic: planCritic(plan, { folder }, actor, { tokens: 512, longestPrompt: 64 }),
      rewardModels: planRewardModels(plan, requests, { dtype: "float32", duringRollout: false }),
    };
  });
  return planned.open();
}

const model = (modelType: string) => writeTinyModel(work.at(modelType), { modelType, seed: 7 });

function float64(folder: string): Map<string, Float64Array> {
  const tensors = readTensors(join(folder, "model.safetensors"));
  return new Map([...tensors].map(([name, values]) => [name, Float64Array.from(values)]));
}

/** V(s_t) of each completion token: the head's output at the token before it. */
function wantedValues(folder: string, parameters: Parameters): number[][] {
  const config = readModelConfig(folder, "score");
  return groups.flatMap(({ promptIds, completions }) =>
    completions.map(({ completionIds }) => {
      const all = referenceValues(config, parameters, [...promptIds, ...completionIds]);
      return all.slice(promptIds.length - 1, -1);
    }),
  );
}

const bits = (values: Float32Array) => [...new Uint32Array(values.buffer, values.byteOffset, values.length)];

describe.each([...families.keys()])("%s", (modelType) => {
  test("values of every completion token, and scores at a sequence's end, equal the float64 model's", async () => {
    const folder = await model(modelType);
    const session = await openCritic(folder);
    try {
      const { critic, rewardModels } = session;
      const parameters = float64(folder);
      const options = { microBatchTokens: 60 };
      const values = await scoreValues(critic.model, critic.activations, groups, options);
      const wanted = wantedValues(folder, parameters);
      expect(values.map((v) => v.length)).toEqual(wanted.map((v) => v.length));
      for (const [i, each] of wanted.entries())
        for (const [t, value] of each.entries()) expect(Math.abs(values[i]![t]! - value)).toBeLessThan(2e-5);
      expect(Math.max(...wanted.flat()) - Math.min(...wanted.flat())).toBeGreaterThan(0.5);

      const sequences = [ids(12, 1), ids(1, 5), ids(80, 9), ids(33, 2)];
      const [rewardModel] = rewardModels;
      const scores = await scoreSequences(rewardModel!.model, rewardModel!.activations, sequences, options);
      const config = readModelConfig(folder, "score");
      for (const [i, sequence] of sequences.entries())
        expect(Math.abs(scores[i]! - referenceValues(config, parameters, sequence).at(-1)!)).toBeLessThan(2e-5);
    } finally {
      session.close();
    }
  });

  test("the gradient of every parameter equals the slope of the float64 model", async () => {
    const folder = await model(modelType);
    const session = await openCritic(folder);
    try {
      const { critic } = session;
      const { optimizer, activations } = critic;
      // L = Σ c · V + ½ Σ V², so that the derivative differs by entry and depends on the values
      const weight = (e: number) => Math.sin(3 * e + 1);
      zeroGradients(device, optimizer);
      let entry = 0;
      for (const batch of cutMicroBatches(groups, 60)) {
        const values = await forwardValues(critic.model, batch, activations);
        const dvalues = Array.from(values, (v) => weight(entry++) + v);
        await backwardValues(critic.model, batch, activations, optimizer.gradients, dvalues);
      }
      const entries = optimizer.parameters.map(({ weight: w, gradient }) => ({
        name: w.name,
        weight: { ...w, address: gradient.address, dtype: "float32" as const },
      }));
      const gradients = downloadTensors(device, entries);
      const parameters = float64(folder);
      const loss = (): number =>
        wantedValues(folder, parameters)
          .flat()
          .reduce((sum, v, e) => sum + weight(e) * v + 0.5 * v * v, 0);
      for (const [name, gradient] of gradients) {
        const own = parameters.get(name)!;
        const kept = own.slice();
        const direction = kept.map((_, i) => Math.cos(7 * i + 2));
        const at = (step: number) => {
          for (let i = 0; i < own.length; i++) own[i] = kept[i]! + step * direction[i]!;
          return loss();
        };
        const h = 1e-5;
        const slope = (at(h) - at(-h)) / (2 * h);
        own.set(kept);
        const found = gradient.reduce((sum, g, i) => sum + g * direction[i]!, 0);
        const size = Math.sqrt(gradient.reduce((sum, g) => sum + g * g, 0));
        expect({ name, close: Math.abs(found - slope) <= 1e-4 * size * Math.sqrt(own.length), size: size > 0 }).toEqual(
          {
            name,
            close: true,
            size: true,
          },
        );
      }
    } finally {
      session.close();
    }
  });
});

test("bits do not depend on the rest of the pack, or on threads", async () => {
  const folder = await model("qwen3");
  const runs: number[][] = [];
  for (const threads of [1, 2]) {
    const own = await openRunDevice({ device: "cpu", threads }, () => {});
    const session = await openCritic(folder, own);
    const { critic, rewardModels } = session;
    const [rewardModel] = rewardModels;
    const sequences = groups.flatMap(({ promptIds, completions }) =>
      completions.map(({ completionIds }) => Int32Array.from([...promptIds, ...completionIds])),
    );
    for (const microBatchTokens of [1, 40, 128]) {
      const values = await scoreValues(critic.model, critic.activations, groups, { microBatchTokens });
      const scores = await scoreSequences(rewardModel!.model, rewardModel!.activations, sequences, {
        microBatchTokens,
      });
      runs.push([...values.flatMap(bits), ...bits(scores)]);
    }
    const alone: number[] = [];
    for (const group of groups)
      for (const completion of group.completions) {
        const one = [{ promptIds: group.promptIds, completions: [completion] }];
        const values = await scoreValues(critic.model, critic.activations, one, { microBatchTokens: 512 });
        alone.push(...values.flatMap(bits));
      }
    expect(runs[0]!.slice(0, alone.length)).toEqual(alone);
    session.close();
    own.close();
  }
  for (const run of runs) expect(run).toEqual(runs[0]!);
});

test("parameter gradients accumulate, and equal those of the cut up to float32 rounding", async () => {
  const folder = await model("qwen2");
  const session = await openCritic(folder);
  try {
    const { model: own, activations, optimizer } = session.critic!;
    const sums: Float32Array[] = [];
    for (const budget of [30, 512]) {
      zeroGradients(device, optimizer);
      for (const batch of cutMicroBatches(groups, budget)) {
        const values = await forwardValues(own, batch, activations);
        await backwardValues(own, batch, activations, optimizer.gradients, values);
      }
      const all = optimizer.parameters.map(({ gradient }) => device.download(gradient) as Float32Array);
      sums.push(Float32Array.from(all.flatMap((g) => [...g])));
    }
    const [cut, whole] = sums as [Float32Array, Float32Array];
    const size = Math.sqrt(whole.reduce((sum, g) => sum + g * g, 0));
    const apart = Math.sqrt(whole.reduce((sum, g, i) => sum + (g - cut[i]!) ** 2, 0));
    expect(size).toBeGreaterThan(1);
    expect(apart / size).toBeLessThan(1e-5);
  } finally {
    session.close();
  }
});
