/**
 * LoRA against PEFT and TRL (test/golden/make_lora.py): an adapter that PEFT saved, its logprobs and those of its base, and the
 * updates of all settings, in the tolerances of the whole models' numbers.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { configFor } from "../../src/config/load.ts";
import { scoreGroups } from "../../src/grpo/learner/policy-update.ts";
import { recordedSamples } from "../../src/grpo/recorded-generation.ts";
import { runRecordedUpdate } from "../../src/grpo/recorded-update.ts";
import { readRollouts } from "../../src/grpo/rollout-file.ts";
import { openRunDevice } from "../../src/run/device.ts";
import { planPolicy, planScoring } from "../../src/session/policy.ts";
import { referenceWithoutAdapters } from "../../src/session/reference.ts";
import { planSession, withSession } from "../../src/session/session.ts";
import { expectClose, folderOf, gradientsOf, models } from "./golden.ts";
import {
  adapterAt,
  adapterUpdate,
  type ExpectedAdapter,
  expectAdapterUpdated,
  expectedAdapter,
  madeOf,
} from "./golden-lora.ts";
import { argvOf, type Flags, workFolder } from "./runs.ts";
import { readTensors, worstRelative } from "./tensors.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

const adapterOf = (model: string) => adapterAt(work.at(model), model);
const flagsOf = (model: string, name: string, outputDir: string): Flags => ({
  device: "cpu",
  ...adapterUpdate(model, name, adapterOf(model), outputDir),
});

const largest = (scores: readonly { logprobs: Float32Array }[], wanted: ExpectedAdapter["logprobs"]) =>
  Math.max(...scores.flatMap(({ logprobs }, i) => [...logprobs].map((x, t) => Math.abs(x - wanted[i]![t]!))));

describe.each(models)("%s", (model) => {
  const expected = expectedAdapter(model);

  test("logprobs with PEFT's adapter, and without", async () => {
    const device = await openRunDevice({ device: "cpu", threads: 2 }, () => {});
    const planned = planSession(device, (plan) => {
      const policy = planPolicy(plan, plan.folder(adapterOf(model)), { dtype: "float32", positions: 64 });
      const scorer = planScoring(plan, policy, { tokens: 2048, longestPrompt: 64 });
      return { scorer, reference: referenceWithoutAdapters(policy) };
    });
    await withSession(planned, async ({ scorer, reference }) => {
      const { vocabSize } = scorer.model.config;
      const groups = await readRollouts(join(folderOf(model), "rollouts.jsonl"), { vocabSize });
      const score = (one: typeof reference) =>
        scoreGroups(one, scorer.activations, groups, { temperature: 1, microBatchTokens: 2048 });
      expect(largest(await score(scorer.model), expected.logprobs)).toBeLessThan(2e-5);
      expect(largest(await score(reference), expected.reference_logprobs)).toBeLessThan(2e-5);
      expect(recordedSamples(groups)).toHaveLength(expected.logprobs.length);
    });
    device.close();
  });

  test.each(["grpo", "dapo"])("gradients of %s", async (name) => {
    const device = await openRunDevice({ device: "cpu", threads: 2 }, () => {});
    const { config } = configFor("update", argvOf(flagsOf(model, name, "unused")));
    const { gradients, metrics } = await gradientsOf(device, config, config.model!);
    device.close();
    const worst = worstRelative(gradients, readTensors(join(madeOf(model), `grads-${name}.safetensors`)));
    expectClose(worst.error, 0, 0, 1e-4, `gradient of ${worst.name}`);
    expectClose(Number(metrics.loss), expected.cases[name]!.loss[0]!, 1e-4, 1e-5, "loss");
  });

  test.each(Object.keys(expected.cases))("%s", async (name) => {
    const outputDir = work.at(`${model} ${name}`);
    const { config } = configFor("update", argvOf(flagsOf(model, name, outputDir)));
    await runRecordedUpdate({ config, folder: config.model!, resume: null, note: () => {}, onStep: () => {} });
    expectAdapterUpdated(model, name, outputDir);
  });
});
