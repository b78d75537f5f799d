import { describe, expect, test } from "bun:test";
import { sampleWithSignal } from "../../src/grpo/dynamic-sampling.ts";
import type { SampledCompletion, Sequence } from "../../src/rollout/sequence.ts";

interface Run {
  readonly wanted: number;
  readonly most: number;
  readonly ahead: number;
  readonly probe: number | null;
  readonly samples: number;
  /** Rewards of each group. */
  readonly rewards: (place: number) => readonly number[];
  /** Determines in which order completions end and how long scoring takes. */
  readonly seed: number;
}

const completionOf = (place: number, sample: number, reward: number): SampledCompletion => ({
  completionIds: Int32Array.of(place, sample, reward),
  logprobs: new Float32Array(3),
  samplingLogprobs: new Float32Array(3),
  mask: null,
  routes: null,
  finished: true,
});

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** A rollout in which one sample ends per step, in a scrambled order. */
function scrambledRollout(random: (n: number) => number, reward: (place: number, sample: number) => number) {
  let open: Sequence[] = [];
  let [added, finished] = [0, 0];
  return {
    get finished() {
      return finished;
    },
    get total() {
      return finished + open.length;
    },
    add({ samples, prompt }: { samples: number; prompt: number }) {
      expect(prompt).toBe(added);
      const ending = { finished: true };
      for (let sample = 0; sample < samples; sample++)
        open.push({ place: added, sample, ids: [], logprobs: [], ending });
      return added++;
    },
    drop(place: number) {
      open = open.filter((sequence) => sequence.place !== place);
    },
    async step() {
      if (random(3) === 0) await turn();
      return [open[random(open.length)]!];
    },
    end(sequence: Sequence) {
      const { place, sample } = sequence;
      open = open.filter((other) => other !== sequence);
      finished++;
      return completionOf(place, sample, reward(place, sample));
    },
  };
}

/** With a scorer of random latency. */
async function play({ wanted, most, ahead, probe, samples, rewards, seed }: Run) {
  let state = seed;
  const random = (n: number) => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return (state >> 12) % n;
  };
  let drawn = 0;
  const rollout = scrambledRollout(random, (place, sample) => rewards(place)[sample]!);
  const outcome = await sampleWithSignal<number, readonly number[]>(rollout, {
    ...{ wanted, most, ahead, probe, samples },
    draw: () => ({ drawn: drawn, promptIds: Int32Array.of(drawn++) }),
    score: async (_, completions) => {
      const turns = random(4);
      const rest = async () => {
        for (let i = 0; i < turns; i++) await turn();
        return completions.map((c) => c.completionIds[2]!);
      };
      return { rest: rest() };
    },
    hasSignal: (score) => new Set(score).size > 1,
    ...{ onProgress: () => {}, shouldStop: () => false, graceMs: 0 },
  });
  return { outcome: outcome!, sampled: rollout.finished, drawn };
}

/** Every other group is all right or all wrong. */
const half = (place: number): readonly number[] =>
  place % 2 === 0 ? [1, 1, 1, 1] : [1, 0, place % 3 === 0 ? 1 : 0, 0];

describe("dynamic sampling", () => {
  for (const ahead of [0, 3])
    for (const probe of [null, 2])
      test(`the same groups in every order of completion (ahead ${ahead}, probe ${probe})`, async () => {
        const runs = [];
        for (let seed = 1; seed <= 30; seed++)
          runs.push((await play({ wanted: 4, most: 40, ahead, probe, samples: 4, rewards: half, seed })).outcome);
        for (const outcome of runs) expect(outcome).toEqual(runs[0]!);
        expect(runs[0]!.withoutSignal).toBe(0);
        expect(runs[0]!.accepted).toHaveLength(4);
        for (const { score } of runs[0]!.accepted) expect(new Set(score).size).toBe(2);
        const places = runs[0]!.accepted.map(({ place }) => place);
        // Every odd group starts with one right and one wrong answer, so a probe of two finds the same groups.
        expect(places).toEqual([1, 3, 5, 7]);
        expect(runs[0]!.drawn).toBe(8);
        expect(runs[0]!.discarded).toBe(4);
        expect(runs[0]!.discardedTokens).toBe(4 * 3 * (probe ?? 4));
      });

  test("without `ahead` nothing is drawn beyond what is needed", async () => {
    for (let seed = 1; seed <= 20; seed++) {
      const { drawn, sampled } = await play({
        ...{ wanted: 3, most: 30, ahead: 0, probe: null, samples: 4, rewards: half, seed },
      });
      expect(drawn).toBe(6);
      expect(sampled).toBe(24);
    }
  });

  test("a probe stops a group before it is fully sampled", async () => {
    const plain = {
      wanted: 4,
      most: 40,
      ahead: 0,
      samples: 8,
      rewards: (p: number) => (p % 4 ? Array(8).fill(1) : [0, 1, 1, 1, 1, 1, 1, 1]),
    };
    let saved = 0;
    for (let seed = 1; seed <= 20; seed++) {
      const without = await play({ ...plain, probe: null, seed });
      const probed = await play({ ...plain, probe: 2, seed });
      expect(probed.outcome.accepted.map((a) => a.place)).toEqual(without.outcome.accepted.map((a) => a.place));
      saved += without.sampled - probed.sampled;
    }
    expect(saved).toBeGreaterThan(0);
  });

  test("at the bound groups without signal fill up, in order, and are counted", async () => {
    for (let seed = 1; seed <= 20; seed++) {
      const rewards = (place: number) => (place === 4 ? [0, 1, 0, 1] : [0, 0, 0, 0]);
      const { outcome } = await play({ wanted: 3, most: 6, ahead: 1, probe: null, samples: 4, rewards, seed });
      expect(outcome.accepted.map((a) => a.place)).toEqual([0, 1, 4]);
      expect(outcome.withoutSignal).toBe(2);
      expect(outcome.drawn).toBe(6);
      expect(outcome.discarded).toBe(3);
    }
  });

  test.each([1, 2, 4])("a probe leaves enough whole groups to fill up at the bound of %d batches", async (batches) => {
    for (let seed = 1; seed <= 20; seed++) {
      const rewards = (place: number) => (place === 2 ? [0, 1, 0, 1] : [0, 0, 0, 0]);
      const most = 3 * batches;
      const { outcome } = await play({ wanted: 3, most, ahead: 1, probe: 2, samples: 4, rewards, seed });
      expect(outcome.accepted).toHaveLength(3);
      for (const { completions, score } of outcome.accepted) expect([completions.length, score.length]).toEqual([4, 4]);
      expect(outcome.accepted.some(({ place }) => place === 2)).toBe(true);
      expect(outcome.withoutSignal).toBe(2);
      expect(outcome.drawn).toBe(most);
    }
  });

  /** One group of one completion. */
  function playOne(score: () => Promise<number>, shouldStop: (finished: number) => boolean) {
    const rollout = scrambledRollout(
      () => 0,
      () => 1,
    );
    return sampleWithSignal<number, number>(rollout, {
      ...{ wanted: 1, most: 2, ahead: 0, probe: null, samples: 1 },
      draw: () => ({ drawn: 0, promptIds: Int32Array.of(1) }),
      score: async () => ({ rest: score() }),
      hasSignal: () => true,
      ...{ onProgress: () => {}, shouldStop: () => shouldStop(rollout.finished), graceMs: 0 },
    });
  }

  test("a scorer that fails ends the rollout with its error", async () => {
    await expect(
      playOne(
        () => Promise.reject(new Error("no verdict")),
        () => false,
      ),
    ).rejects.toThrow("no verdict");
  });

  test("stopped between two tokens, or while waiting for a score", async () => {
    let asked = 0;
    const never = () => {
      asked++;
      return new Promise<number>(() => {});
    };
    expect(await playOne(never, (finished) => finished === 1)).toBeNull();
    expect(asked).toBe(0);
    expect(await playOne(never, () => asked === 1)).toBeNull();
    expect(asked).toBe(1);
  });
});
