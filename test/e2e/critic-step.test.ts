/**
 * The critic's optimizer step on a tiny model: metrics against separately scored values, gradients independent of the cut into
 * micro-batches, completions that are left out, and learning the returns.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { randomFrom } from "../../bench/ops/random.ts";
import type { Device } from "../../src/device/device.ts";
import { type CriticUpdateSettings, criticStep } from "../../src/grpo/learner/critic-update.ts";
import { explainedVariance } from "../../src/grpo/loss/value.ts";
import { packed, type Sample } from "../../src/grpo/sample.ts";
import { scoreValues } from "../../src/model/scalar-head.ts";
import { openRunDevice } from "../../src/run/device.ts";
import { type Critic, planCritic } from "../../src/session/critic.ts";
import { planPolicy } from "../../src/session/policy.ts";
import { planSession, withSession } from "../../src/session/session.ts";
import { writeTinyModel } from "../fixtures/scalar-model.ts";
import { workFolder } from "./runs.ts";
import { downloadTensors, norm, worstRelative } from "./tensors.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
let device: Device;
let policy: string;
let scorer: string;
beforeAll(async () => {
  device = await openRunDevice({ device: "cpu", threads: 2 }, () => {});
  policy = await writeTinyModel(work.at("policy"), { head: "lm" });
  scorer = await writeTinyModel(work.at("scorer"), { seed: 5 });
});
afterAll(() => {
  device.close();
  work.remove();
});

function withCritic<T>(run: (critic: Critic) => Promise<T>): Promise<T> {
  const planned = planSession(device, (plan) => {
    const actor = planPolicy(plan, plan.folder(policy), { dtype: "float32", positions: 64 });
    return { critic: planCritic(plan, { folder: scorer }, actor, { tokens: 256, longestPrompt: 32 }) };
  });
  return withSession(planned, ({ critic }) => run(critic));
}

const { normal, integer } = randomFrom("critic step");
const ids = (length: number) => Int32Array.from({ length }, () => integer(320));
const samples: readonly Sample[] = [9, 4].flatMap((prompt, group) => {
  const promptIds = ids(prompt);
  return [3, 11, 6].map((length, i) => ({
    ...{ group, promptIds, completionIds: ids(length), mask: null, finished: i !== 1 },
  }));
});
const returns = samples.map(({ completionIds }) => normal(completionIds.length));
/** The samples with values before the update, and their target returns. */
const valued = (old: readonly Float32Array[], targets: readonly (Float64Array | null)[]) =>
  samples.map((sample, i) => ({ ...sample, values: old[i]!, returns: targets[i]! }));
const settings: CriticUpdateSettings = {
  value: { cliprangeValue: 0.2, vfCoef: 0.5, maskTruncatedCompletions: false },
  optimizer: { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, maxGradNorm: 0 },
  microBatchTokens: 256,
};

const score = ({ model, activations }: Critic) => scoreValues(model, activations, packed(samples), settings);
const gradientsOf = ({ optimizer }: Critic) =>
  downloadTensors(
    device,
    optimizer.parameters.map(({ weight, gradient }) => ({
      name: weight.name,
      weight: { ...weight, address: gradient.address, dtype: "float32" as const },
    })),
  );

test("metrics are those of separately scored values; a cut into micro-batches changes nothing", async () => {
  await withCritic(async (critic) => {
    const old = await score(critic);
    const seen: number[] = [];
    const metrics = await criticStep(critic, valued(old, returns), settings, 0, (tokens) => seen.push(tokens));
    expect(seen.length).toBe(1);
    const whole = gradientsOf(critic);
    const errors = old.flatMap((values, i) => Array.from(values, (v, t) => (v - returns[i]![t]!) ** 2 / 2));
    const mean = errors.reduce((a, b) => a + b, 0) / errors.length;
    expect(metrics["value/loss"]).toBeCloseTo(mean, 6);
    expect(metrics["value/clip_ratio"]).toBe(0);
    const total = Math.sqrt([...whole.values()].reduce((sum, of) => sum + norm(of) ** 2, 0));
    expect(metrics["value/grad_norm"]! / total).toBeCloseTo(1, 5);
    expect(total).toBeGreaterThan(1e-3);

    const cut = { ...settings, microBatchTokens: 16 };
    const again = await criticStep(critic, valued(old, returns), cut, 0, (tokens) => seen.push(tokens));
    expect(seen.length).toBeGreaterThan(3);
    expect(worstRelative(gradientsOf(critic), whole).error).toBeLessThan(1e-5);
    expect(again["value/loss"]).toBeCloseTo(metrics["value/loss"]!, 6);
  });
});

test("completions without a return, and those dropped by the mask, give no gradient", async () => {
  await withCritic(async (critic) => {
    const old = await score(critic);
    const unscored = returns.map(() => null);
    const none = await criticStep(critic, valued(old, unscored), settings, 1e-2);
    // There is no mean over zero tokens.
    expect([none["value/loss"], none["value/grad_norm"]]).toEqual([null, 0]);
    // Without the masked completions, the step is the same as if they had no return.
    const masking = { ...settings, value: { ...settings.value, maskTruncatedCompletions: true } };
    await criticStep(critic, valued(old, returns), masking, 0);
    const masked = gradientsOf(critic);
    const kept = returns.map((of, i) => (samples[i]!.finished ? of : null));
    await criticStep(critic, valued(old, kept), settings, 0);
    expect(worstRelative(gradientsOf(critic), masked).error).toBe(0);
  });
});

test("values learn returns: 30 steps explain most of their variance, and clipping occurs on the way", async () => {
  await withCritic(async (critic) => {
    let clipped = 0;
    const before = await score(critic);
    for (let step = 0; step < 15; step++) {
      const old = await score(critic);
      for (let iteration = 0; iteration < 2; iteration++) {
        const metrics = await criticStep(critic, valued(old, returns), settings, 1e-2);
        clipped = Math.max(clipped, metrics["value/clip_ratio"]!);
      }
    }
    const after = await score(critic);
    expect(explainedVariance(before, returns)).toBeLessThan(0.2);
    expect(explainedVariance(after, returns)).toBeGreaterThan(0.7);
    expect(clipped).toBeGreaterThan(0);
  });
});
