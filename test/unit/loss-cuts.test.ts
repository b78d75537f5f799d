// Properties of every loss on random steps: the gradients have the same bits however a step is cut into micro-batches, and they
// equal finite differences of the loss, with one advantage per completion and one per token, under every option. A masked token
// behaves as if it were absent.
import { expect, test } from "bun:test";
import { type Random, randomFrom } from "../../bench/ops/random.ts";
import {
  type KlEstimator,
  LOSS_DEFAULTS,
  type LossCompletion,
  type LossConfig,
  type LossType,
  type SamplerCorrectionMode,
  type TokenValues,
} from "../../src/grpo/loss/config.ts";
import { computeLoss } from "../../src/grpo/loss/loss.ts";
import { LOSS_TYPES } from "../../src/grpo/loss/loss-types.ts";
import { foldMetrics } from "../../src/grpo/loss/metrics.ts";
import { stepDenominators } from "../../src/grpo/loss/step.ts";

const types = Object.keys(LOSS_TYPES) as LossType[];
const levels = ["token", "sequence"] as const;
const estimators: KlEstimator[] = ["k1", "k2", "k3"];
const modes: SamplerCorrectionMode[] = ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"];

function randomStep({ normal, integer, uniform }: Random, perToken: boolean): LossCompletion[] {
  return Array.from({ length: 2 + integer(7) }, (_, index) => {
    const T = 1 + integer(6);
    const oldLogprobs = normal(T).map((x) => x - 2);
    const near = (deviation: number) => normal(T, deviation).map((x, t) => x + oldLogprobs[t]!);
    return {
      ...{ index, oldLogprobs, logprobs: near(0.2), refLogprobs: near(0.4), samplingLogprobs: near(0.1) },
      entropies: normal(T, 0.5).map((x) => 2 + x),
      advantage: perToken ? normal(T) : normal(1)[0]!,
      finished: uniform() < 0.75,
    };
  });
}

/** Random options; `index` walks through the lists so that every value occurs with every loss type. */
function randomConfig({ uniform, integer }: Random, lossType: LossType, level: (typeof levels)[number], index: number) {
  const or = <T>(value: T, otherwise: T): T => (uniform() < 0.5 ? value : otherwise);
  const config: LossConfig = {
    ...LOSS_DEFAULTS,
    lossType,
    importanceSamplingLevel: level,
    maxCompletionLength: 8,
    perDeviceTrainBatchSize: or<number | null>(1 + integer(4), null),
    beta: or(0.3, 0),
    klEstimator: estimators[index % 3]!,
    useBiasCorrectionKl: or(true, false),
    epsilonHigh: or<number | null>(0.28, null),
    delta: or<number | null>(1.4, null),
    topEntropyQuantile: or(0.6, 1),
    entropyCoef: or(0.05, 0),
    maskTruncatedCompletions: or(true, false),
    offPolicyMaskThreshold: or<number | null>(0.02, null),
    importanceSamplingCorrection: or(true, false),
    importanceSamplingMode: modes[index % 4]!,
    importanceSamplingClipMax: 1.3,
    importanceSamplingClipMin: or<number | null>(0.8, null),
  };
  return config;
}

const cases = types.flatMap((type) => levels.map((level) => [type, level] as const));

test.each(cases)("%s, %s level: any cut, in any order, gives the same bits", (type, level) => {
  const random = randomFrom(`cuts ${type} ${level}`);
  for (let round = 0; round < 48; round++) {
    const config = randomConfig(random, type, level, round);
    const batch = randomStep(random, round % 2 === 1);
    const step = stepDenominators(batch, config);
    const uncut = computeLoss(batch, step, config);
    const starts = [0];
    for (const { logprobs } of batch) starts.push(starts.at(-1)! + logprobs.length);

    const order = random.permutation(batch.length);
    const dlogprobs = new Float64Array(uncut.dlogprobs.length).fill(Number.NaN);
    const dentropies = dlogprobs.slice();
    const parts = [];
    let [loss, entropySum] = [0, 0];
    for (let from = 0; from < order.length; ) {
      const end = from + 1 + random.integer(order.length - from);
      const members = order.slice(from, end);
      const part = computeLoss(
        members.map((i) => batch[i]!),
        step,
        config,
      );
      let at = 0;
      for (const i of members) {
        const next = at + batch[i]!.logprobs.length;
        dlogprobs.set(part.dlogprobs.subarray(at, next), starts[i]!);
        dentropies.set(part.dentropies.subarray(at, next), starts[i]!);
        at = next;
      }
      loss += part.loss;
      entropySum += part.entropySum;
      parts.push(part.metrics);
      from = end;
    }
    const title = JSON.stringify(config);
    expect([...dlogprobs], title).toEqual([...uncut.dlogprobs]);
    expect([...dentropies], title).toEqual([...uncut.dentropies]);
    expect(Math.abs(loss - uncut.loss), title).toBeLessThan(1e-12);
    expect(Math.abs(entropySum - uncut.entropySum), title).toBeLessThan(1e-10);
    const [metrics, want] = [foldMetrics(parts), foldMetrics([uncut.metrics])];
    expect(Object.keys(metrics).sort()).toEqual(Object.keys(want).sort());
    for (const [name, value] of Object.entries(want))
      if (value === null) expect(metrics[name], `${name} ${title}`).toBeNull();
      else expect(metrics[name], `${name} ${title}`).toBeCloseTo(value, 11);
  }
});

test.each(cases)("%s, %s level: gradients are finite differences of the loss", (type, level) => {
  const random = randomFrom(`differences ${type} ${level}`);
  const h = 1e-6;
  // cispo and vespo hold the ratio constant: there the old logprobs move along with ℓ. A KL that is multiplied by the ratio has
  // a gradient through it, so only the other losses test it.
  const detached = type === "cispo" || type === "vespo";
  let moving = 0;
  for (let round = 0; round < 12; round++) {
    const drawn = randomConfig(random, type, level, round);
    const config = detached ? { ...drawn, useBiasCorrectionKl: false } : drawn;
    const batch = randomStep(random, round % 2 === 1);
    const step = stepDenominators(batch, config);
    const { dlogprobs, dentropies } = computeLoss(batch, step, config);
    const masked = (shifted: readonly LossCompletion[]) => computeLoss(shifted, step, config).loss;
    let entry = 0;
    for (const [c, completion] of batch.entries())
      for (let t = 0; t < completion.logprobs.length; t++, entry++) {
        const by = (key: "logprobs" | "oldLogprobs" | "samplingLogprobs", d: number) =>
          completion[key]!.with(t, completion[key]![t]! + d);
        const lossAt = (d: number) => {
          const old = detached
            ? { oldLogprobs: by("oldLogprobs", d), samplingLogprobs: by("samplingLogprobs", d) }
            : {};
          const moved = { ...completion, logprobs: by("logprobs", d), ...old };
          return masked(batch.map((other, i) => (i === c ? moved : other)));
        };
        const title = `${JSON.stringify(config)} (${c}, ${t})`;
        expect(Math.abs(dlogprobs[entry]! - (lossAt(h) - lossAt(-h)) / (2 * h)), title).toBeLessThan(1e-7);
        const entropyAt = (d: number) => {
          const entropies = completion.entropies.with(t, completion.entropies[t]! + d);
          return masked(batch.map((other, i) => (i === c ? { ...other, entropies } : other)));
        };
        const difference = (entropyAt(h) - entropyAt(-h)) / (2 * h);
        // A token exactly on the entropy threshold drops out of the mask on one side.
        if (completion.entropies[t]! !== step.entropyThreshold)
          expect(Math.abs(dentropies[entry]! - difference), title).toBeLessThan(1e-7);
        if (dlogprobs[entry] !== 0) moving++;
      }
  }
  expect(moving).toBeGreaterThan(50);
});

/** The completion without the tokens whose mask is 0. */
function withoutMasked({ mask, ...completion }: LossCompletion): LossCompletion {
  const own = <V extends TokenValues | null>(values: V) => (values?.filter((_, t) => mask?.[t] !== 0) ?? null) as V;
  const { logprobs, entropies, oldLogprobs, refLogprobs, samplingLogprobs, advantage } = completion;
  return {
    ...completion,
    ...{ logprobs: own(logprobs), entropies: own(entropies), oldLogprobs: own(oldLogprobs) },
    ...{ refLogprobs: own(refLogprobs), samplingLogprobs: own(samplingLogprobs) },
    advantage: typeof advantage === "number" ? advantage : own(advantage),
  };
}

test.each(cases)("%s, %s level: masked tokens behave as if absent, to the bit", (type, level) => {
  const random = randomFrom(`masks ${type} ${level}`);
  for (let round = 0; round < 48; round++) {
    const config = randomConfig(random, type, level, round);
    const batch = randomStep(random, round % 2 === 1).map((completion) => {
      const mask = Uint8Array.from(completion.logprobs, () => (random.uniform() < 0.6 ? 1 : 0));
      return random.uniform() < 0.8 ? { ...completion, mask } : completion;
    });
    const without = batch.map(withoutMasked);
    const step = stepDenominators(batch, config);
    expect(step).toEqual(stepDenominators(without, config));
    const [masked, plain] = [computeLoss(batch, step, config), computeLoss(without, step, config)];
    const title = JSON.stringify(config);
    expect([masked.loss, masked.entropySum], title).toEqual([plain.loss, plain.entropySum]);
    expect(masked.metrics, title).toEqual(plain.metrics);
    const fed = batch.flatMap(({ logprobs, mask }) => Array.from(logprobs, (_, t) => mask?.[t] === 0));
    for (const key of ["dlogprobs", "dentropies"] as const) {
      expect([...masked[key].filter((_, entry) => !fed[entry])], title).toEqual([...plain[key]]);
      expect([...masked[key].filter((_, entry) => fed[entry]!)].every((d) => d === 0)).toBe(true);
    }
    const ofOnes = without.map((one) => ({ ...one, mask: new Uint8Array(one.logprobs.length).fill(1) }));
    expect(computeLoss(ofOnes, step, config)).toEqual(plain);
  }
});

test("an advantage per completion equals the same advantage at each token", () => {
  const random = randomFrom("one advantage or many");
  for (const [index, [type, level]] of cases.entries())
    for (let round = 0; round < 8; round++) {
      const config = randomConfig(random, type, level, index + round);
      const batch = randomStep(random, false);
      const spread = batch.map((c) => ({
        ...c,
        advantage: new Float64Array(c.logprobs.length).fill(c.advantage as number),
      }));
      const step = stepDenominators(batch, config);
      const [one, many] = [computeLoss(batch, step, config), computeLoss(spread, step, config)];
      expect(many.loss).toBeCloseTo(one.loss, 12);
      for (const [i, d] of one.dlogprobs.entries()) expect(many.dlogprobs[i]!).toBeCloseTo(d, 12);
    }
});

test("advantages that don't fit or aren't finite are named", () => {
  const batch = randomStep(randomFrom("broken advantages"), true);
  const config: LossConfig = { ...LOSS_DEFAULTS, beta: 0 };
  const step = stepDenominators(batch, config);
  const broken = (advantage: Float64Array) => () => computeLoss([{ ...batch[1]!, advantage }], step, config);
  const T = batch[1]!.logprobs.length;
  expect(broken(new Float64Array(T).fill(1).with(T - 1, Number.NaN))).toThrow(
    `advantage of completion 1, token ${T - 1} is NaN`,
  );
  expect(broken(new Float64Array(T + 1))).toThrow(`${T} logprobs and ${T + 1} advantages`);
});
