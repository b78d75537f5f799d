// The loss against TRL's numbers (test/golden/*/expected.json), its gradients against torch's (test/golden/loss-cases.json)
// and against finite differences; that cutting a step changes nothing; and the NaN guard.
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { RunError } from "../../src/errors.ts";
import { computeAdvantages, type ScaleRewards } from "../../src/grpo/advantages.ts";
import { LOSS_DEFAULTS, type LossCompletion, type LossConfig, type LossType } from "../../src/grpo/loss/config.ts";
import { KL_ESTIMATORS } from "../../src/grpo/loss/kl.ts";
import { computeLoss, isTokenwise, tokenDerivatives } from "../../src/grpo/loss/loss.ts";
import { foldMetrics } from "../../src/grpo/loss/metrics.ts";
import { quantile, stepDenominators } from "../../src/grpo/loss/step.ts";
import { readRollouts } from "../../src/grpo/rollout-file.ts";

const GOLDEN = join(import.meta.dir, "..", "golden");
const LOSS_TYPES: LossType[] = ["grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"];

const LEVELS = ["token", "sequence", "sequence_product"] as const;

/** TRL's names of settings mapped to ours. */
function fromSnake(settings: Record<string, unknown>): Partial<LossConfig> {
  const camel = (name: string): string => name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
  return Object.fromEntries(Object.entries(settings).map(([name, value]) => [camel(name), value]));
}

const whole = (batch: readonly LossCompletion[], config: LossConfig) =>
  computeLoss(batch, stepDenominators(batch, config), config);

/** |a − b| relative to the larger of |b| and 1e-3. */
const relative = (a: number, b: number): number => Math.abs(a - b) / Math.max(Math.abs(b), 1e-3);

describe("TRL's first step", () => {
  interface Expected {
    settings: { max_completion_length: number };
    logprobs: number[][];
    entropies: number[][];
    cases: Record<
      string,
      {
        config: Record<string, unknown> & { scale_rewards: ScaleRewards; temperature: number };
        advantages: number[];
        loss: number[];
        metrics_first_iteration: Record<string, number>;
      }
    >;
  }

  for (const model of ["llama-tied", "qwen2-bias", "qwen3-qknorm"]) {
    test(`${model}: advantages, loss and metrics of every case at temperature 1`, async () => {
      const expected = (await Bun.file(join(GOLDEN, model, "expected.json")).json()) as Expected;
      const { vocab_size } = (await Bun.file(join(GOLDEN, model, "config.json")).json()) as { vocab_size: number };
      const groups = await readRollouts(join(GOLDEN, model, "rollouts.jsonl"), { vocabSize: vocab_size });
      const rows = groups.flatMap(({ group, completions }) => completions.map((completion) => ({ group, completion })));
      let checked = 0;
      for (const [name, golden] of Object.entries(expected.cases)) {
        const config: LossConfig = {
          ...LOSS_DEFAULTS,
          maxCompletionLength: expected.settings.max_completion_length,
          ...fromSnake(golden.config),
        };
        const { advantages } = computeAdvantages({
          rewards: rows.map(({ completion }) => completion.reward),
          groups: rows.map(({ group }) => group),
          scaleRewards: golden.config.scale_rewards,
        });
        for (const [i, advantage] of golden.advantages.entries()) {
          expect(Math.abs(advantages[i]! - advantage), `${name}: advantage ${i}`).toBeLessThan(1e-6);
        }
        if (golden.config.temperature !== 1) continue;
        const batch = rows.map(({ completion }, index) => ({
          index,
          logprobs: Float64Array.from(expected.logprobs[index]!),
          entropies: Float64Array.from(expected.entropies[index]!),
          oldLogprobs: completion.oldLogprobs ?? null,
          refLogprobs: completion.refLogprobs ?? null,
          samplingLogprobs: completion.samplingLogprobs ?? null,
          advantage: advantages[index]!,
          finished: completion.finished,
        }));
        const result = whole(batch, config);
        const loss = golden.loss[0]!;
        expect(Math.abs(result.loss - loss), `${name}: loss`).toBeLessThan(1e-5 * Math.abs(loss) + 1e-6);
        const metrics = foldMetrics([result.metrics]);
        for (const [metric, value] of Object.entries(golden.metrics_first_iteration)) {
          expect(Math.abs(metrics[metric]! - value), `${name}: ${metric}`).toBeLessThan(1e-5);
        }
        checked++;
      }
      expect(checked).toBe(15);
    });
  }
});

/** Random completions as in the torch cases and the tests below. */
interface TorchCases {
  finished: boolean[];
  advantages: number[];
  defaults: Record<string, unknown>;
  batches: Record<
    string,
    Record<"logprobs" | "entropies" | "ref_logprobs" | "sampling_logprobs", number[][]> & {
      old_logprobs: number[][] | null;
    }
  >;
  cases: {
    batch: string;
    config: Record<string, unknown>;
    loss: number;
    dlogprobs: number[][];
    dentropies: number[][] | null;
  }[];
}
const torch = (await Bun.file(join(GOLDEN, "loss-cases.json")).json()) as TorchCases;
const torchDefaults: LossConfig = { ...LOSS_DEFAULTS, ...fromSnake(torch.defaults) };

function torchBatch(name: string): LossCompletion[] {
  const batch = torch.batches[name]!;
  return torch.advantages.map((advantage, index) => ({
    index,
    logprobs: Float64Array.from(batch.logprobs[index]!),
    entropies: Float64Array.from(batch.entropies[index]!),
    oldLogprobs: batch.old_logprobs && Float64Array.from(batch.old_logprobs[index]!),
    refLogprobs: Float64Array.from(batch.ref_logprobs[index]!),
    samplingLogprobs: Float64Array.from(batch.sampling_logprobs[index]!),
    advantage,
    finished: torch.finished[index]!,
  }));
}

test("loss and gradients equal torch's autograd: every type, every option, on kinks too", () => {
  const types = new Set<unknown>();
  for (const { batch, config, loss, dlogprobs, dentropies } of torch.cases) {
    const result = whole(torchBatch(batch), { ...torchDefaults, ...fromSnake(config) });
    const title = `${batch} ${JSON.stringify(config)}`;
    expect(Math.abs(result.loss - loss), title).toBeLessThan(1e-12);
    const off = (ours: Float64Array, theirs: number[]): number =>
      theirs.reduce((worst, value, i) => Math.max(worst, Math.abs(ours[i]! - value)), 0);
    expect(off(result.dlogprobs, dlogprobs.flat()), title).toBeLessThan(1e-12);
    if (dentropies) expect(off(result.dentropies, dentropies.flat()), title).toBeLessThan(1e-12);
    else expect(result.dentropies.every((d) => d === 0)).toBe(true);
    types.add(config.loss_type);
  }
  expect([...types].sort()).toEqual([...LOSS_TYPES].sort());
});

test("where a token's derivatives depend on that token alone, they are those of the whole completion to the bit", () => {
  let [tokenwise, others] = [0, 0];
  for (const { batch: name, config: given } of torch.cases) {
    const [batch, config] = [torchBatch(name), { ...torchDefaults, ...fromSnake(given) }];
    const step = stepDenominators(batch, config);
    const { dlogprobs, dentropies } = computeLoss(batch, step, config);
    if (!isTokenwise(batch, config)) {
      others++;
      continue;
    }
    tokenwise++;
    const each = batch.flatMap(({ logprobs, entropies, ...completion }) => {
      const derivatives = tokenDerivatives(completion, logprobs.length, step, config);
      return Array.from(logprobs, (logprob, t) => derivatives(t, logprob, entropies[t]!));
    });
    const title = `${name} ${JSON.stringify(given)}`;
    expect(
      each.map(({ dlogprob }) => dlogprob),
      title,
    ).toEqual([...dlogprobs]);
    expect(
      each.map(({ dentropy }) => dentropy),
      title,
    ).toEqual([...dentropies]);
  }
  expect(tokenwise).toBeGreaterThan(50);
  expect(others).toBeGreaterThan(50);
});

test("gradients equal central finite differences of the loss", () => {
  const options: Partial<LossConfig>[] = [
    {},
    { beta: 0.3 },
    { beta: 0.3, klEstimator: "k1" },
    { beta: 0.3, klEstimator: "k2" },
    { entropyCoef: 0.1, topEntropyQuantile: 0.47, offPolicyMaskThreshold: 0.02, importanceSamplingCorrection: true },
    { delta: 1.25, epsilonHigh: 0.1, maskTruncatedCompletions: true },
  ];
  const h = 1e-6;
  for (const lossType of LOSS_TYPES) {
    for (const importanceSamplingLevel of LEVELS) {
      // The part after the ratio is the same for both kinds of sequence.
      for (const option of importanceSamplingLevel === "sequence_product" ? options.slice(0, 2) : options) {
        const config = { ...torchDefaults, lossType, importanceSamplingLevel, ...option };
        const { dlogprobs, dentropies } = whole(torchBatch("random"), config);
        // cispo and vespo hold the ratio constant: there the old logprobs move along with ℓ.
        const detached = lossType === "cispo" || lossType === "vespo";
        const shifted = (c: number, t: number, what: "logprobs" | "entropies", by: number): number => {
          const batch = torchBatch("random");
          // Denominators and the entropy threshold do not depend on the token.
          const step = stepDenominators(batch, config);
          const { logprobs, oldLogprobs, samplingLogprobs, entropies } = batch[c]!;
          (what === "logprobs" ? logprobs : entropies)[t]! += by;
          if (detached && what === "logprobs") {
            oldLogprobs![t]! += by;
            samplingLogprobs![t]! += by;
          }
          return computeLoss(batch, step, config).loss;
        };
        let entry = 0;
        for (const [c, { logprobs }] of torchBatch("random").entries()) {
          for (let t = 0; t < logprobs.length; t++, entry++) {
            const title = `${lossType} ${importanceSamplingLevel} ${JSON.stringify(option)} (${c}, ${t})`;
            const dl = (shifted(c, t, "logprobs", h) - shifted(c, t, "logprobs", -h)) / (2 * h);
            expect(Math.abs(dlogprobs[entry]! - dl), title).toBeLessThan(1e-7);
            const de = (shifted(c, t, "entropies", h) - shifted(c, t, "entropies", -h)) / (2 * h);
            expect(Math.abs(dentropies[entry]! - de), title).toBeLessThan(1e-7);
          }
        }
      }
    }
  }
});

test("sequence_product is the loss of TRL's RLOOTrainer: the product of a completion's ratios, clipped as one", () => {
  const config: LossConfig = { ...torchDefaults, importanceSamplingLevel: "sequence_product", epsilonHigh: 0.25 };
  const batch = torchBatch("random");
  const { loss, dlogprobs } = whole(batch, config);
  let expected = 0;
  const gradients: number[] = [];
  for (const { logprobs, oldLogprobs, advantage } of batch) {
    const A = Number(advantage);
    const ratio = Math.exp([...logprobs].reduce((sum, logprob, t) => sum + logprob - oldLogprobs![t]!, 0));
    const clipped = Math.min(Math.max(ratio, 1 - config.epsilon), 1.25);
    expected -= Math.min(ratio * A, clipped * A) / batch.length;
    const slope = ratio * A <= clipped * A ? ratio * A : 0;
    for (const _ of logprobs) gradients.push(-slope / batch.length);
  }
  expect(loss).toBeCloseTo(expected, 12);
  for (const [i, gradient] of gradients.entries()) expect(dlogprobs[i]).toBeCloseTo(gradient, 12);
  expect(new Set(gradients).size).toBeGreaterThan(batch.length / 2);
});

test("any cut of a step gives the same gradients to the bit, and the same loss and metrics", () => {
  for (const lossType of LOSS_TYPES) {
    for (const importanceSamplingLevel of LEVELS) {
      const config: LossConfig = {
        ...torchDefaults,
        lossType,
        importanceSamplingLevel,
        beta: 0.1,
        perDeviceTrainBatchSize: 3,
        topEntropyQuantile: 0.6,
        entropyCoef: 0.03,
        maskTruncatedCompletions: true,
        importanceSamplingCorrection: true,
      };
      const batch = torchBatch("random");
      const step = stepDenominators(batch, config);
      const uncut = computeLoss(batch, step, config);
      for (const cuts of [[1, 2, 3, 4, 5, 6], [2], [4, 5], [6]]) {
        const parts = [0, ...cuts].map((start, i) => computeLoss(batch.slice(start, cuts[i]), step, config));
        expect(parts.flatMap(({ dlogprobs }) => [...dlogprobs])).toEqual([...uncut.dlogprobs]);
        expect(parts.flatMap(({ dentropies }) => [...dentropies])).toEqual([...uncut.dentropies]);
        expect(parts.reduce((sum, { loss }) => sum + loss, 0)).toBeCloseTo(uncut.loss, 12);
        const metrics = foldMetrics(parts.map((part) => part.metrics));
        const uncutMetrics = foldMetrics([uncut.metrics]);
        expect(Object.keys(metrics).sort()).toEqual(Object.keys(uncutMetrics).sort());
        for (const [name, value] of Object.entries(uncutMetrics)) expect(metrics[name], name).toBeCloseTo(value!, 12);
      }
    }
  }
});

describe("masks and denominators", () => {
  test("on-policy: the ratio is 1 and its gradient is −A, each token a share of its completion", () => {
    const config = { ...torchDefaults, lossType: "grpo" as const };
    const batch = torchBatch("on_policy");
    const { dlogprobs } = whole(batch, config);
    let entry = 0;
    for (const { logprobs, advantage } of batch) {
      for (let t = 0; t < logprobs.length; t++) {
        expect(dlogprobs[entry++]! + Number(advantage) / (batch.length * logprobs.length)).toBeCloseTo(0, 15);
      }
    }
  });

  test("mask_truncated_completions leaves tokens out of dapo's denominator, and completions in grpo's", () => {
    const config = { ...torchDefaults, maskTruncatedCompletions: true };
    const batch = torchBatch("random");
    const step = stepDenominators(batch, config);
    expect(step).toMatchObject({ completions: 7, tokens: 1 + 3 + 4 + 2 + 6 });
    const { dlogprobs } = computeLoss([batch[1]!], step, config);
    expect(dlogprobs).toEqual(new Float64Array(6));
  });

  test("a completion without reward has advantage 0 but still a KL", () => {
    const batch = torchBatch("random").map((completion) => ({ ...completion, advantage: 0 }));
    const withKl = whole(batch, { ...torchDefaults, beta: 0.04 });
    expect(withKl.loss).toBeGreaterThan(0);
    expect(withKl.dlogprobs.every((d) => d !== 0)).toBe(true);
    expect(whole(batch, torchDefaults).dlogprobs.every((d) => d === 0)).toBe(true);
  });

  test("bnpo: the mean of its blocks, each over its own tokens", () => {
    const batch = torchBatch("random");
    const config: LossConfig = { ...torchDefaults, lossType: "bnpo", perDeviceTrainBatchSize: 3 };
    const blocks = [batch.slice(0, 3), batch.slice(3, 6), batch.slice(6)];
    const alone = blocks.map((block) =>
      whole(
        block.map((completion, index) => ({ ...completion, index })),
        { ...config, perDeviceTrainBatchSize: null },
      ),
    );
    expect(whole(batch, config).loss).toBeCloseTo((alone[0]!.loss + alone[1]!.loss + alone[2]!.loss) / 3, 13);
  });

  test("a step whose completions are all dropped has loss 0, and no token means", () => {
    const batch = torchBatch("random").map((completion) => ({ ...completion, finished: false }));
    for (const lossType of LOSS_TYPES) {
      const config = { ...torchDefaults, lossType, maskTruncatedCompletions: true, beta: 0.1, topEntropyQuantile: 0.5 };
      const result = whole(batch, { ...config, entropyCoef: 0.1 });
      expect(result.loss).toBeCloseTo(0, 15);
      const { entropy, kl, ...others } = foldMetrics([result.metrics]);
      expect({ entropy, kl }).toEqual({ entropy: null, kl: null });
      for (const [name, value] of Object.entries(others)) expect(value ?? 0, name).toBeFinite();
    }
  });

  test("a completion masked by the sampler's ratio is left out, even if its own ratio overflows", () => {
    const batch: LossCompletion[] = [
      {
        index: 0,
        logprobs: Float64Array.of(0),
        entropies: Float64Array.of(1),
        oldLogprobs: Float64Array.of(-1000),
        refLogprobs: null,
        samplingLogprobs: Float64Array.of(-1010),
        advantage: -1,
        finished: true,
      },
    ];
    const config = { ...torchDefaults, importanceSamplingCorrection: true };
    expect(whole(batch, config).loss).toBe(0);
    expect(() => whole(batch, torchDefaults)).toThrow(/completion 0, token 0 is not finite \(ratio Infinity/);
  });

  test("sampler metrics", () => {
    const batch = torchBatch("random");
    const config: LossConfig = {
      ...torchDefaults,
      importanceSamplingCorrection: true,
      importanceSamplingMode: "token_truncate",
      importanceSamplingClipMax: 1.2,
    };
    const metrics = foldMetrics([whole(batch, config).metrics]);
    const differences = batch.flatMap(({ oldLogprobs, samplingLogprobs }) =>
      Array.from(oldLogprobs!, (old, t) => old - samplingLogprobs![t]!),
    );
    const ratios = differences.map((difference) => Math.min(Math.exp(difference), 1.2));
    const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
    const close = (name: string, value: number) => expect(metrics[name], name).toBeCloseTo(value, 13);
    close("sampling/sampling_logp_difference/mean", mean(differences.map(Math.abs)));
    close("sampling/sampling_logp_difference/max", Math.max(...differences.map(Math.abs)));
    close("sampling/importance_sampling_ratio/min", Math.min(...ratios));
    close("sampling/importance_sampling_ratio/mean", mean(ratios));
    close("sampling/importance_sampling_ratio/max", 1.2);
  });
});

describe("quantile", () => {
  test("interpolates, and gives an order statistic if the position is whole up to rounding", () => {
    expect(quantile(Float64Array.of(3, 1, 2, 10), 0.5)).toBe(2.5);
    expect(quantile(Float64Array.of(4), 0.3)).toBe(4);
    expect(quantile(new Float64Array(0), 0.3)).toBe(-Infinity);
    // 1 − 0.9 is 0.09999999999999998: for 11 values it means the second.
    const values = Float64Array.from({ length: 11 }, (_, i) => i / 3);
    for (let tenth = 0; tenth <= 10; tenth++) expect(quantile(values, 1 - tenth / 10)).toBe(values[10 - tenth]!);
  });

  test("top_entropy_quantile keeps that share of the step's tokens", () => {
    const batch = torchBatch("random");
    const step = stepDenominators(batch, { ...torchDefaults, topEntropyQuantile: 0.2 });
    expect(step.entropyTokens).toBe(6); // of 27
    const { dlogprobs } = computeLoss(
      batch.map((completion) => ({ ...completion, advantage: 1, oldLogprobs: null })),
      step,
      torchDefaults,
    );
    expect(dlogprobs.filter((d) => d !== 0).length).toBe(6);
  });
});

describe("KL", () => {
  test("k3 neither overflows nor pushes away, however distant the reference is", () => {
    for (const distance of [25, 800, 1e5]) {
      const above = KL_ESTIMATORS.k3(-distance, 0);
      expect(above.kl).toBe(Math.exp(20) - 21);
      expect(above.dkl).toBe(0);
      const below = KL_ESTIMATORS.k3(0, -distance);
      expect(relative(below.kl, distance - 1)).toBeLessThan(1e-9);
      expect(below.dkl).toBe(1);
    }
  });

  test("within the clamp the derivative is that of the value", () => {
    const h = 1e-6;
    for (const estimator of ["k1", "k2", "k3"] as const) {
      for (const x of [-19.9, -3, 0, 0.5, 4]) {
        const at = (logprob: number) => KL_ESTIMATORS[estimator](logprob, x);
        expect(relative(at(0).dkl, (at(h).kl - at(-h).kl) / (2 * h))).toBeLessThan(1e-5);
      }
    }
  });

  test("a distant reference gives a finite loss and finite gradients", () => {
    const batch = torchBatch("random").map((completion) => ({
      ...completion,
      refLogprobs: completion.refLogprobs!.map((_, t) => (t % 2 === 0 ? 900 : -900)),
    }));
    const { loss, dlogprobs } = whole(batch, { ...torchDefaults, beta: 0.04 });
    expect(Number.isFinite(loss)).toBe(true);
    expect(dlogprobs.every(Number.isFinite)).toBe(true);
  });
});

describe("NaN guard", () => {
  const broken = (change: (completion: LossCompletion) => Partial<LossCompletion>): LossCompletion[] =>
    torchBatch("random").map((completion) =>
      completion.index === 4 ? { ...completion, ...change(completion) } : completion,
    );

  for (const [field, name] of [
    ["logprobs", "logprob"],
    ["entropies", "entropy"],
    ["oldLogprobs", "old logprob"],
    ["refLogprobs", "reference logprob"],
    ["samplingLogprobs", "sampling logprob"],
  ] as const) {
    for (const value of [Number.NaN, Infinity, -Infinity]) {
      test(`${value} as ${name} is reported by completion and token`, () => {
        const batch = broken((completion) => ({ [field]: completion[field]!.with(1, value) }));
        expect(() => whole(batch, torchDefaults)).toThrow(RunError);
        expect(() => whole(batch, torchDefaults)).toThrow(`the ${name} of completion 4, token 1 is ${value}`);
      });
    }
  }

  test("advantages, and entropies that the threshold needs", () => {
    expect(() =>
      whole(
        broken(() => ({ advantage: Number.NaN })),
        torchDefaults,
      ),
    ).toThrow("the advantage of completion 4 is NaN");
    const batch = broken(({ entropies }) => ({ entropies: entropies.with(0, Number.NaN) }));
    expect(() => stepDenominators(batch, { ...torchDefaults, topEntropyQuantile: 0.5 })).toThrow(
      "completion 4, token 0 is NaN",
    );
  });

  test("arrays that don't fit, a missing reference, a step out of order", () => {
    expect(() =>
      whole(
        broken(() => ({ entropies: new Float64Array(1) })),
        torchDefaults,
      ),
    ).toThrow(/2 logprobs and 1 values of entropy/);
    expect(() =>
      whole(
        broken(() => ({ refLogprobs: null })),
        { ...torchDefaults, beta: 0.1 },
      ),
    ).toThrow(/no reference logprobs/);
    expect(() => stepDenominators(torchBatch("random").reverse(), torchDefaults)).toThrow(
      "completion 6 is at position 0 of its step",
    );
  });
});
