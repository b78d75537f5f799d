/**
 * If activations are stored in bfloat16, a token's logprob stays close to float32's (logprob-line.ts), and sampling records
 * exactly what training computes, to the bit. Tested on the bundled, trained model, and at the depth and width of SmolLM2-135M
 * with random weights. The weights are the same bfloat16 ones throughout; float32 means paths without bfloat16 products.
 *
 * A processor without such products can still store activations in bfloat16: its kernels accept them, and multiply the same
 * values as the bfloat16 paths, only summed in another order. This imitation runs on every machine, along with each bfloat16
 * path of the processor. Paths with emulated instructions also run everywhere, and must agree with the imitation, on the
 * bundled model; at SmolLM2-135M's size that would take many minutes (some 300 GFLOP per pass at a few GFLOP/s), so there the
 * imitation replaces paths that the processor lacks.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { openDataset } from "../../src/data/dataset.ts";
import { type CpuDevice, openCpuDevice } from "../../src/device/cpu/device.ts";
import { bfloat16Paths } from "../../src/device/cpu/path.ts";
import { scoreGroups } from "../../src/grpo/learner/policy-update.ts";
import type { SampledCompletion } from "../../src/rollout/sequence.ts";
import { planPolicy, planSampling, planScoring, type ScoringModel } from "../../src/session/policy.ts";
import { planSession, withSession } from "../../src/session/session.ts";
import type { SessionPlan } from "../../src/session/tenant.ts";
import { loadTokenizer } from "../../src/tokenizer/tokenizer.ts";
import { writeSmollm2Shape } from "../fixtures/smollm2-shape.ts";
import { emulatedLibrary } from "../ops/emulated.ts";
import { logprobsApart, overBfloat16Line } from "./logprob-line.ts";
import { bundledModel, problems, workFolder } from "./runs.ts";

// The kernels may have to be compiled first, and a slow path may be forced.
setDefaultTimeout(600_000);

const work = workFolder();
afterAll(work.remove);

const { library, path: usual } = await openCpuDevice();
afterAll(() => library.selectPath(usual));
const supported = library.paths.flatMap(({ name, supported }) => (supported ? name : []));
/** The requested path if it computes in float32, else the fastest that does. */
const float32Path = bfloat16Paths.includes(usual)
  ? supported.findLast((name) => !bfloat16Paths.includes(name))!
  : usual;

/** Open a device right before its use: the path is global to the library, so the last one opened counts. */
type Opener = () => Promise<CpuDevice>;
const inFloat32: Opener = () => openCpuDevice({ path: float32Path });
const imitation: Opener = async () => ({ ...(await inFloat32()), activationDType: (dtype) => dtype });
const native = supported
  .filter((name) => bfloat16Paths.includes(name))
  .map((path): [string, Opener] => [path, () => openCpuDevice({ path })]);
const emulated = bfloat16Paths.map((path): [string, Opener] => [
  `${path}, emulated`,
  async () => openCpuDevice({ path, libraryFile: await emulatedLibrary() }),
]);

interface Model {
  readonly folder: string;
  readonly promptIds: readonly Int32Array[];
  readonly samples: number;
  readonly maxCompletion: number;
  readonly isStop: (id: number) => boolean;
}

const longestPromptOf = ({ promptIds }: Model) => Math.max(...promptIds.map((ids) => ids.length));

function planScorer(plan: SessionPlan, model: Model) {
  const longestPrompt = longestPromptOf(model);
  const positions = longestPrompt + model.maxCompletion;
  const policy = planPolicy(plan, plan.folder(model.folder), { dtype: "bfloat16", positions });
  return { policy, scorer: planScoring(plan, policy, { tokens: 2048, longestPrompt }) };
}

const sampling = {
  ...{ temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 },
  seed: 5,
  step: 0,
  stream: 0,
};
type Groups = readonly { readonly promptIds: Int32Array; readonly completions: readonly SampledCompletion[] }[];

async function scored({ model, activations }: ScoringModel, groups: Groups): Promise<Float32Array[]> {
  const scores = await scoreGroups(model, activations, groups, { temperature: 1, microBatchTokens: 2048 });
  return scores.map(({ logprobs }) => logprobs);
}

/** Scores samples from one device on another. */
async function scoredOn(open: Opener, model: Model, groups: Groups): Promise<Float32Array[]> {
  const planned = planSession(await open(), (plan) => ({ scorer: planScorer(plan, model).scorer }));
  return withSession(planned, ({ scorer }) => scored(scorer, groups));
}

/** Samples and scores on the same device; also scores in float32. */
async function sampleAndScore(open: Opener, model: Model) {
  const { promptIds, samples, maxCompletion, isStop } = model;
  const device = await open();
  const planned = planSession(device, (plan) => {
    const { policy, scorer } = planScorer(plan, model);
    const slots = { maxSequences: promptIds.length * samples, promptRoom: promptIds.length };
    const longestPrompt = longestPromptOf(model);
    return {
      scorer,
      rollout: planSampling(plan, policy, { ...slots, longestPrompt, maxCompletion, penalized: false }),
    };
  });
  const { groups, trained } = await withSession(planned, async ({ scorer, rollout }) => {
    expect(device.activationDType(scorer.model.weights.dtype)).toBe("bfloat16");
    const sampled = await rollout.generate(
      promptIds.map((ids, prompt) => ({ promptIds: ids, samples, prompt })),
      { ...sampling, maxCompletionLength: maxCompletion, isStop },
    );
    const groups = sampled.map((completions, i) => ({ promptIds: promptIds[i]!, completions }));
    return { groups, trained: await scored(scorer, groups) };
  });
  return { groups, trained, float32: await scoredOn(inFloat32, model, groups) };
}

async function expectNear(open: Opener, model: Model, tokens: number) {
  const { groups, trained, float32 } = await sampleAndScore(open, model);
  const recorded = groups.flatMap(({ completions }) => completions.map(({ logprobs }) => logprobs));
  expect(logprobsApart(recorded, trained)).toMatchObject({ worst: 0 });
  const apart = logprobsApart(trained, float32);
  expect(apart.tokens).toBeGreaterThanOrEqual(tokens);
  expect(overBfloat16Line(apart)).toEqual([]);
  expect(apart.mean).toBeGreaterThan(1e-4); // otherwise nothing was stored in bfloat16
  return { groups, trained, mean: apart.mean };
}

describe("the bundled model", () => {
  let model: Model;
  beforeAll(() => {
    const [tokenizer, dataset] = [loadTokenizer(bundledModel), openDataset(problems)];
    const prompt = (row: number) => [{ role: "user", content: String(dataset.row(row).question) }];
    const promptIds = Array.from({ length: 32 }, (_, row) => Int32Array.from(tokenizer.encodePrompt(prompt(row))));
    dataset.close();
    const isStop = (id: number) => tokenizer.isStop(id);
    model = { folder: bundledModel, promptIds, samples: 16, maxCompletion: 48, isStop };
  });

  test("imitated: logprobs are close to float32's", async () => {
    await expectNear(imitation, model, 3000);
  });

  test.each([...native, ...emulated])(
    "%s: logprobs are close to float32's, and equal the imitated ones",
    async (_, open) => {
      const { groups, trained, mean } = await expectNear(open, model, 3000);
      const imitated = await scoredOn(imitation, model, groups);
      // A different summation order occasionally changes the direction of a rounding.
      expect(logprobsApart(trained, imitated).mean).toBeLessThan(mean / 20);
    },
  );
});

describe("the shape of SmolLM2-135M", () => {
  let model: Model;
  beforeAll(async () => {
    const ids = (prompt: number) =>
      Int32Array.from({ length: 24 + 5 * prompt }, (_, t) => (7919 * prompt + 104_729 * t + 31 * t * t) % 49152);
    model = {
      folder: await writeSmollm2Shape(work.at("smollm2-shape")),
      promptIds: [0, 1, 2, 3].map(ids),
      ...{ samples: 8, maxCompletion: 32, isStop: () => false },
    };
  });

  test.each([["imitated", imitation] as const, ...native])("%s: logprobs are close to float32's", async (_, open) => {
    await expectNear(open, model, 1024);
  });
});
