/**
 * Each model family against numbers of transformers, TRL and torch.optim.AdamW (test/golden/make_families.py): logprobs,
 * losses, gradients, weights after three steps. And promise 2 on each: a sampled token's logprob has the bits that training
 * computes for it.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { score } from "../../src/cli/score.ts";
import { openCpuDevice } from "../../src/device/cpu/device.ts";
import { scoreGroups } from "../../src/grpo/learner/policy-update.ts";
import { withSession } from "../../src/session/session.ts";
import { expectOnlyRounding } from "./expect-rerouted.ts";
import {
  expectClose,
  expectUpdated,
  familyModels,
  firstGradients,
  folderOf,
  mixtures,
  runUpdate,
  scoreFlags,
  scoresApart,
} from "./golden.ts";
import { planGolden } from "./rollout-session.ts";
import { affected, roundingOf, routedPass } from "./rounded-routes.ts";
import { argvOf, workFolder } from "./runs.ts";
import { readTensors, worstRelative } from "./tensors.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

test("every family's folder is tested", () => {
  const folders = readdirSync(folderOf("families")).map((name) => `families/${name}`);
  expect(familyModels.toSorted()).toEqual(folders.sort());
});

describe.each(familyModels)("%s", (model) => {
  test.each([2048, 16])("logprobs and entropies, micro-batches of %i tokens", async (budget) => {
    const output = work.at(`${model.replace("/", "-")}-${budget}.jsonl`);
    await score.run(argvOf(scoreFlags(model, output, { micro_batch_tokens: budget })));
    const apart = scoresApart(model, output);
    expect(apart.logprob).toBeLessThanOrEqual(2e-5);
    expect(apart.entropy).toBeLessThanOrEqual(1e-4);
  });

  test("losses, gradient norms, metrics, weights", async () => {
    const output = work.at(`${model.replace("/", "-")}-update`);
    await runUpdate(model, "grpo", output);
    expectUpdated(model, "grpo", output);
  });

  test("every tensor's gradient, whole and cut into micro-batches", async () => {
    const reference = readTensors(join(folderOf(model), "grads-grpo.safetensors"));
    const device = await openCpuDevice();
    for (const [budget, checkpointing] of [
      [2048, true],
      [24, false],
    ] as const) {
      const flags = { micro_batch_tokens: budget };
      const { gradients } = await firstGradients(device, model, "grpo", flags, checkpointing);
      expect([...gradients.keys()].sort()).toEqual([...reference.keys()].sort());
      const worst = worstRelative(gradients, reference);
      expectClose(worst.error, 0, 0, 1e-4, `gradient of ${worst.name}, budget ${budget}`);
    }
  });

  test.each(["float32", "bfloat16"] as const)("%s: sampled logprobs equal training's", async (dtype) => {
    const settings = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 5, stream: 0, step: 1 };
    let first: unknown = null;
    for (const [threads, maxSequences] of [
      [2, 12],
      [1, 3],
    ] as const) {
      const device = await openCpuDevice({ threads });
      const size = { maxSequences, longestPrompt: 70, maxCompletion: 30, penalized: false };
      await withSession(planGolden(device, model, dtype, size), async ({ scorer, rollout }) => {
        const { vocabSize } = scorer.model.config;
        const prompts = [1, 9, 64, 70].map((length, p) =>
          Int32Array.from({ length }, (_, t) => (31 * p + 11 * t + t * t) % vocabSize),
        );
        const sampled = await rollout.generate(
          prompts.map((promptIds, prompt) => ({ promptIds, samples: 3, prompt })),
          { ...settings, maxCompletionLength: 30, isStop: (id) => id % 31 === 5 },
        );
        const groups = sampled.map((completions, i) => ({ promptIds: prompts[i]!, completions }));
        for (const microBatchTokens of [4096, 100]) {
          const scores = await scoreGroups(scorer.model, scorer.activations, groups, {
            temperature: 1,
            microBatchTokens,
          });
          expect(scores.map(({ logprobs }) => [...logprobs])).toEqual(sampled.flat().map((one) => [...one.logprobs]));
        }
        first ??= sampled;
        expect(sampled).toEqual(first as typeof sampled);
      });
      device.close();
    }
  });
});

describe.each(mixtures)("%s", (model) => {
  test("in bfloat16, other experts only where rounding explains it", async () => {
    const device = await openCpuDevice();
    await expectOnlyRounding(device, device, model);
    device.close();
  });

  test("an expert that rounding does not explain is found, with the tokens that it affects", async () => {
    const device = await openCpuDevice();
    const free = await routedPass(device, model, "float32");
    const { experts, layers, perToken } = free.shape;
    expect(roundingOf(free, free).map(({ rerouted, margin, moved }) => [rerouted, margin, moved])).toEqual(
      Array.from({ length: layers }, () => [0, 0, 0]),
    );
    expect(affected(free, free).flat()).not.toContain(true);
    // In the first layer the third token of one completion goes to the experts after its own.
    const forgedOf = free.routes.findIndex(({ completion }) => completion.length > 3 * layers * perToken);
    const routes = free.routes.map((own) => ({ ...own, completion: own.completion.slice() }));
    const forged = routes[forgedOf]!.completion.subarray(2 * layers * perToken, (2 * layers + 1) * perToken);
    for (const [k, expert] of forged.entries()) forged[k] = (expert + 1) % experts;
    const other = await routedPass(device, model, "float32", routes);
    const [first, ...later] = roundingOf(other, other);
    expect(first!.rerouted).toBe(1);
    expect(first!.margin).toBeGreaterThan(first!.bound);
    expect(later.length).toBe(layers - 1);
    const moved = other.logprobs.map((own, c) =>
      Array.from(own, (lp, t) => Math.abs(lp - free.logprobs[c]![t]!) > 2e-5),
    );
    expect(moved).toEqual(affected(other, free));
    expect(moved.map((own) => own.indexOf(true))).toEqual(moved.map((_, c) => (c === forgedOf ? 3 : -1)));
    device.close();
  });
});
