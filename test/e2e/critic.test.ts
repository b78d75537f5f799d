/**
 * PPO's models in a session: each one's share of the plan and of actual memory, where a critic may start from, resuming critic
 * and moving reference from a checkpoint bit for bit, and refusals.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, existsSync, readFileSync, rmSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { readModelFolder } from "../../src/checkpoint/huggingface.ts";
import { latestCheckpoint } from "../../src/checkpoint/state.ts";
import type { Device } from "../../src/device/device.ts";
import { InputError } from "../../src/errors.ts";
import { mixReference } from "../../src/grpo/learner/moving-reference.ts";
import { backward, forward } from "../../src/model/lm-head.ts";
import { cutMicroBatches, type PackedGroup } from "../../src/model/micro-batches.ts";
import type { Model } from "../../src/model/model.ts";
import { backwardValues, forwardValues, scoreValues } from "../../src/model/scalar-head.ts";
import { mastersOf, optimizerStep, zeroGradients } from "../../src/optim/adamw.ts";
import type { RolloutLimits } from "../../src/rollout/buffers.ts";
import { openRunDevice } from "../../src/run/device.ts";
import {
  readCheckpointState,
  restoreOptimizer,
  saveCheckpoint,
  savedReference,
  saveModel,
  type TrainedModels,
} from "../../src/session/checkpointing.ts";
import { type CriticRequest, planCritic } from "../../src/session/critic.ts";
import { anonymousBytes, describeMemory, memoryByModel } from "../../src/session/memory.ts";
import { planPolicy, planSampling, planTraining } from "../../src/session/policy.ts";
import { openReference, planReference } from "../../src/session/reference.ts";
import { planRewardModels, type RewardModelRequest } from "../../src/session/reward-model.ts";
import { planSession } from "../../src/session/session.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { writeTinyModel } from "../fixtures/scalar-model.ts";
import { workFolder } from "./runs.ts";
import { downloadTensors, type Tensors } from "./tensors.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
let device: Device;
let policy: string;
let scorer: string;
beforeAll(async () => {
  device = await openRunDevice({ device: "cpu", threads: 2 }, () => {});
  policy = await writeTinyModel(work.at("policy"), { head: "lm", config: { tie_word_embeddings: true } });
  scorer = await writeTinyModel(work.at("scorer"), { modelType: "qwen3", seed: 5 });
});
afterAll(() => {
  device.close();
  work.remove();
});

interface Request {
  readonly folder: string;
  readonly dtype: ComputeDType;
  readonly reference: string;
  readonly critic: CriticRequest | null;
  readonly rewardModels: readonly RewardModelRequest[];
  readonly rollout: RolloutLimits | null;
  readonly scoringDuringRollout: boolean;
}

/** A training policy, and the other requested models. */
function plan(request: Partial<Request>, tokens = 256) {
  return planSession(device, (tenants) => {
    const { dtype = "float32", rollout, critic, rewardModels = [], scoringDuringRollout = false } = request;
    const from = tenants.folder(request.folder ?? policy);
    const reference = request.reference ? openReference(tenants, request.reference, from, true) : null;
    const model = planPolicy(tenants, from, { dtype, positions: 64 });
    const sizes = { tokens, longestPrompt: 32 };
    return {
      reference: reference && planReference(tenants, reference, model),
      policy: planTraining(tenants, model, sizes),
      rollout: rollout ? planSampling(tenants, model, rollout) : null,
      critic: critic ? planCritic(tenants, critic, model, sizes) : null,
      rewardModels: planRewardModels(tenants, rewardModels, { dtype, duringRollout: scoringDuringRollout }),
    };
  });
}

type Opened = Awaited<ReturnType<ReturnType<typeof plan>["open"]>>;

/** The saved state of a session, including its moving reference if there is one. */
const saved = ({ policy: actor, critic, reference }: Opened): TrainedModels => ({
  ...{ policy: actor, critic, movingReference: reference, assets: { folder: policy, chatTemplate: null } },
});

const ids = (length: number, from: number) => Int32Array.from({ length }, (_, i) => (from + 37 * i) % 320);
const groups: readonly PackedGroup[] = [
  { promptIds: ids(6, 1), completions: [{ completionIds: ids(9, 4) }, { completionIds: ids(3, 8) }] },
  { promptIds: ids(2, 7), completions: [{ completionIds: ids(20, 2) }] },
];
const optimizerSettings = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01, maxGradNorm: 1 };

/** One step of each trained model: values towards 1, completions more likely. */
async function step({ policy: actor, critic }: Opened): Promise<void> {
  const { model, activations, optimizer } = actor;
  zeroGradients(device, optimizer);
  for (const batch of cutMicroBatches(groups, 64)) {
    const { logprobs, entropies } = await forward(model, batch, activations, 1);
    const derivatives = { dlogprobs: logprobs.map(() => -1), dentropies: entropies.map(() => 0) };
    await backward(model, batch, activations, optimizer.gradients, derivatives, 1);
  }
  await optimizerStep(device, optimizer, optimizerSettings, 1e-2);
  if (!critic) return;
  zeroGradients(device, critic.optimizer);
  for (const batch of cutMicroBatches(groups, 64)) {
    const values = await forwardValues(critic.model, batch, critic.activations);
    const dvalues = values.map((v) => v - 1);
    await backwardValues(critic.model, batch, critic.activations, critic.optimizer.gradients, dvalues);
  }
  await optimizerStep(device, critic.optimizer, optimizerSettings, 1e-2);
}

const weightsOf = (model: Model): Tensors =>
  downloadTensors(
    device,
    model.weights.all.map((weight) => ({ name: weight.name, weight })),
  );

describe("the plan", () => {
  const four = (): Partial<Request> => ({
    reference: policy,
    critic: { folder: scorer },
    rewardModels: [{ folder: scorer, longest: 64, microBatchTokens: 256 }],
    rollout: { maxSequences: 4, promptRoom: 2, longestPrompt: 32, maxCompletion: 32, penalized: false },
  });

  test("names PPO's four models, each with its own share", () => {
    const planned = plan(four());
    const models = memoryByModel(planned.memory.plan);
    expect(models.map(({ model }) => model)).toEqual(["policy", "reference", "critic", "reward model"]);
    const [actor, reference, critic, reward] = models as [(typeof models)[0], ...typeof models];
    // the reference is only weights; the reward model has weights and a forward pass; trained models have three times more
    expect(reference!.phaseBytes).toBe(0);
    expect(reward!.phaseBytes).toBeGreaterThan(0);
    expect(critic!.heldBytes).toBeGreaterThan(2.9 * reward!.heldBytes);
    expect(actor.heldBytes).toBeGreaterThan(2.9 * reference!.heldBytes);
    const text = describeMemory(planned.memory).join("\n");
    for (const name of ["critic weights", "critic Adam moments", "critic gradients", "reward model weights"])
      expect(text).toContain(name);
    expect(text).toMatch(/critic activations +critic /);
    expect(text).toMatch(/reward model activations +scoring /);
    planned.close();
  });

  test("no logits are planned for models with one output", () => {
    const planned = plan(four());
    const own = planned.memory.plan.buffers.filter(({ owner }) => owner === "critic" || owner === "reward model");
    expect(own.length).toBeGreaterThan(0);
    const withVocabulary = own.filter(({ shape }) => shape.includes(320));
    expect(withVocabulary.map(({ name }) => name)).toEqual([]);
    planned.close();
  });

  test("policy and critic share memory in turn; a reward model shares with both, and with rollouts unless it scores during them", () => {
    const range = (planned: ReturnType<typeof plan>, name: string) => {
      const { buffers, offsets } = planned.memory.plan;
      const own = buffers.filter((b) => b.group === name);
      expect(own.length).toBeGreaterThan(0);
      return own.map((b) => [offsets.get(b.name)!, offsets.get(b.name)! + b.bytes] as const);
    };
    const share = (planned: ReturnType<typeof plan>, a: string, b: string) =>
      range(planned, a).some(([from, end]) => range(planned, b).some((other) => from < other[1] && other[0] < end));
    const planned = plan(four());
    expect(share(planned, "update activations", "critic activations")).toBe(true);
    expect(share(planned, "critic activations", "critic gradients")).toBe(false);
    expect(share(planned, "update activations", "critic weights")).toBe(false);
    expect(share(planned, "reward model activations", "critic activations")).toBe(true);
    expect(share(planned, "reward model activations", "key-value cache")).toBe(true);
    const during = plan({ ...four(), scoringDuringRollout: true });
    expect(share(during, "reward model activations", "key-value cache")).toBe(false);
    expect(share(during, "reward model activations", "critic activations")).toBe(true);
    for (const one of [planned, during]) one.close();
  });

  test("a reward model that scores few sequences at once has buffers only for those", () => {
    const tokens = (sequences?: number) => {
      const one = { folder: scorer, longest: 64, microBatchTokens: 256, ...(sequences ? { sequences } : {}) };
      const planned = plan({ rewardModels: [one] });
      planned.close();
      return planned.memory.plan.buffers.find(({ name }) => name === "reward model/tokens")!.shape[0];
    };
    expect([tokens(), tokens(1), tokens(3), tokens(9)]).toEqual([256, 64, 192, 256]);
  });

  test("equals the memory then held", async () => {
    const tokens = 300_000;
    const planned = plan({ ...four(), rollout: null }, tokens);
    const { totalBytes } = planned.memory.plan;
    expect(totalBytes).toBeGreaterThan(600 * 2 ** 20);
    Bun.gc(true);
    const before = anonymousBytes();
    const session = await planned.open();
    // It is touched soon: until most of it is there, and no more comes.
    const held = () => anonymousBytes() - before;
    const started = performance.now();
    let opened = held();
    for (let last = -1; performance.now() - started < 60_000; opened = held()) {
      if (opened > 0.8 * totalBytes && opened <= last) break;
      last = opened;
      await Bun.sleep(300);
    }
    await step(session);
    const stepped = anonymousBytes() - before;
    session.close();
    // The arena is touched completely, and a step adds only threads' scratch and heap. Earlier tests leave a
    // heap that grows and shrinks by tens of MiB meanwhile.
    expect(Math.abs(opened - totalBytes)).toBeLessThan(0.1 * totalBytes);
    expect(stepped - opened).toBeLessThan(planned.memory.scratchBytes + 48 * 2 ** 20);
  });
});

describe("where a critic starts", () => {
  test("from a language model its values are 0, its body the model's; it learns", async () => {
    const session = await plan({ critic: { folder: policy } }).open();
    try {
      const { model, activations } = session.critic!;
      const score = () => scoreValues(model, activations, groups, { microBatchTokens: 64 });
      expect((await score()).flatMap((v) => [...v])).toEqual(new Array(32).fill(0));
      const [body, actor] = [weightsOf(model), weightsOf(session.policy.model)];
      for (const [name, values] of body) if (name !== "score.weight") expect(values).toEqual(actor.get(name)!);
      expect(body.has("lm_head.weight")).toBe(false);
      const error = (values: readonly Float32Array[]) =>
        values.flatMap((v) => [...v]).reduce((sum, v) => sum + (v - 1) ** 2, 0);
      const first = error(await score());
      for (let i = 0; i < 20; i++) await step(session);
      expect(error(await score())).toBeLessThan(0.2 * first);
    } finally {
      session.close();
    }
  });

  test("saved, it is a sequence classification model of one label, with the same values", async () => {
    const session = await plan({ critic: { folder: policy } }).open();
    await step(session);
    await saveModel(saved(session), work.at("out"));
    const { model, activations } = session.critic!;
    const values = await scoreValues(model, activations, groups, { microBatchTokens: 64 });
    session.close();

    const folder = work.at("out/critic");
    const json = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
    expect(json.architectures).toEqual(["LlamaForSequenceClassification"]);
    expect(json.id2label).toEqual({ "0": "LABEL_0" });
    const { checkpoint, config } = readModelFolder(folder, "score");
    expect(checkpoint.get("score.weight").shape).toEqual([1, 32]);
    expect(checkpoint.names.filter((name) => !name.startsWith("model."))).toEqual(["score.weight"]);
    expect(config.head).toBe("score");
    checkpoint.close();

    const again = await plan({ critic: { folder } }).open();
    const critic = again.critic!;
    const read = await scoreValues(critic.model, critic.activations, groups, { microBatchTokens: 64 });
    again.close();
    expect(read).toEqual(values);
  });
});

describe.each(["float32", "bfloat16"] as const)("checkpoints in %s", (dtype: ComputeDType) => {
  const folder = work.at(`run-${dtype}`);
  const started = (): Partial<Request> => ({
    dtype,
    reference: policy,
    critic: { folder: scorer },
  });

  test("critic and moving reference resume to the same bits", async () => {
    const session = await plan(started()).open();
    await step(session);
    await mixReference(session.reference!, session.policy.optimizer, 0.6);
    const checkpoint = await saveCheckpoint(saved(session), folder, 1, { step: 1 });
    await step(session);
    await mixReference(session.reference!, session.policy.optimizer, 0.3);
    const whole = [session.policy.model, session.reference!, session.critic!.model].map(weightsOf);
    session.close();
    expect(latestCheckpoint(folder)).toBe(checkpoint);
    expect(readCheckpointState(checkpoint, z.object({ step: z.int() }))).toEqual({ step: 1 });

    const resumed = await plan({
      ...started(),
      folder: checkpoint,
      reference: savedReference(checkpoint),
      critic: { folder: scorer, resumeFrom: checkpoint },
    }).open();
    restoreOptimizer(saved(resumed), checkpoint);
    expect(resumed.critic!.optimizer.step).toBe(1);
    await step(resumed);
    await mixReference(resumed.reference!, resumed.policy.optimizer, 0.3);
    const parts = [resumed.policy.model, resumed.reference!, resumed.critic!.model].map(weightsOf);
    resumed.close();
    for (const [i, weights] of whole.entries()) expect(parts[i]).toEqual(weights);
    expect(parts[1]).not.toEqual(parts[0]);
  });

  test.each([
    ["critic/model.safetensors", "torn"],
    ["critic/optimizer.safetensors", "torn"],
    ["critic/optimizer.safetensors", "missing"],
    ["critic", "missing"],
    ["critic/config.json", "torn"],
    ["reference", "missing"],
  ])("%s, %s: bad input, named", async (name, kind) => {
    const broken = work.at(`broken-${dtype}`);
    cpSync(join(folder, "checkpoint-1"), broken, { recursive: true });
    const path = join(broken, name);
    if (kind === "torn") truncateSync(path, 40);
    else rmSync(path, { recursive: true });
    const resume = async () => {
      const planned = plan({
        ...started(),
        folder: broken,
        reference: savedReference(broken),
        critic: { folder: scorer, resumeFrom: broken },
      });
      const session = await planned.open();
      try {
        restoreOptimizer(saved(session), broken);
      } finally {
        session.close();
      }
    };
    const error = await resume().then(
      () => null,
      (failure: unknown) => failure,
    );
    rmSync(broken, { recursive: true });
    expect(error).toBeInstanceOf(InputError);
    expect((error as Error).message).toContain(name.split("/")[0]!);
    expect((error as Error).message).not.toContain("\n");
  });
});

test("a checkpoint with a torn critic does not count as complete", async () => {
  const folder = work.at("newest");
  const session = await plan({ critic: { folder: scorer } }).open();
  const first = await saveCheckpoint(saved(session), folder, 1, {});
  const second = await saveCheckpoint(saved(session), folder, 2, {});
  session.close();
  expect(latestCheckpoint(folder)).toBe(second);
  truncateSync(join(second, "critic/optimizer.safetensors"), 100);
  expect(latestCheckpoint(folder)).toBe(first);
  expect(existsSync(join(first, "reference"))).toBe(false);
});

test("the reference moves by a fraction alpha of the distance, rounded once in bfloat16", async () => {
  for (const dtype of ["float32", "bfloat16"] as const) {
    const session = await plan({ dtype, reference: policy }).open();
    const before = weightsOf(session.reference!);
    for (let i = 0; i < 3; i++) await step(session);
    const masters = downloadTensors(
      device,
      session.policy.optimizer.parts.map((each) => ({
        name: each.name,
        weight: mastersOf({ ...each, master: each.master! }),
      })),
    );
    const alpha = 0.25;
    await mixReference(session.reference!, session.policy.optimizer, 0);
    expect(weightsOf(session.reference!)).toEqual(before);
    await mixReference(session.reference!, session.policy.optimizer, alpha);
    const rounding = dtype === "bfloat16" ? 2 ** -8 : 2 ** -22;
    for (const [name, values] of weightsOf(session.reference!)) {
      const [from, to] = [before.get(name)!, masters.get(name)!];
      const wanted = Float64Array.from(from, (v, i) => (1 - alpha) * v + alpha * to[i]!);
      const far = wanted.findIndex((v, i) => Math.abs(values[i]! - v) > 1.01 * rounding * (Math.abs(v) + 1e-3));
      expect([name, far]).toEqual([name, -1]);
      expect([name, to.some((v, i) => Math.abs(v - from[i]!) > 1e-3)]).toEqual([name, true]);
    }
    await mixReference(session.reference!, session.policy.optimizer, 1);
    const [moved, own] = [weightsOf(session.reference!), weightsOf(session.policy.model)];
    for (const [name, values] of moved) expect([name, values]).toEqual([name, own.get(name)!]);
    session.close();
  }
});

describe("refused, in one line that states the requirement", () => {
  const tiny = (name: string, options: Parameters<typeof writeTinyModel>[1]) => writeTinyModel(work.at(name), options);
  const reward = (folder: string) => ({ rewardModels: [{ folder, longest: 64, microBatchTokens: 64 }] });
  test.each<[string, () => Promise<Partial<Request>>, RegExp]>([
    ["a language model as reward model", async () => reward(policy), /without a head that scores; give a sequence/],
    ["a reward model as policy", async () => ({ folder: scorer }), /scores text and cannot generate it/],
    ["a reward model as reference", async () => ({ reference: scorer }), /scores text and cannot generate it/],
    [
      "no head's weight",
      async () => reward(await tiny("headless", { without: ["score.weight"] })),
      /headless: tensor score\.weight is missing/,
    ],
    [
      "no head's weight in a critic's folder",
      async () => ({ critic: { folder: await tiny("headless", { without: ["score.weight"] }) } }),
      /headless: tensor score\.weight is missing/,
    ],
    [
      "a critic of another vocabulary",
      async () => ({ critic: { folder: await tiny("small", { vocabSize: 200 }) } }),
      /critic_model .*small: vocab_size is 200, the policy's is 320/,
    ],
    [
      "a critic with a shorter context",
      async () => ({ critic: { folder: await tiny("short", { context: 40 }) } }),
      /critic_model .*short: prompt and completion take up to 64 tokens, the critic's context is 40/,
    ],
    [
      "a moving reference with its own head",
      async () => ({ reference: await tiny("untied", { head: "lm" }) }),
      /ref_model .*untied: only one of reference and policy has lm_head\.weight/,
    ],
  ])("%s", async (_, request, message) => {
    const asked = await request();
    try {
      plan(asked).close();
    } catch (error) {
      expect(error).toBeInstanceOf(InputError);
      expect((error as Error).message).toMatch(message);
      expect((error as Error).message).not.toContain("\n");
      return;
    }
    throw new Error("accepted");
  });
});
