/** The simulation of ranks that wait for each other: steps worked out by hand, and its limits. */
import { expect, test } from "bun:test";
import { simulate, uniform, waited, waitsOf } from "../../bench/balance.ts";

test("a step by hand", () => {
  // Two ranks with two slots: 3 and 4 decode steps of which the second rank needs all; 8 and 7 tokens.
  const groups = [
    [3, 1],
    [2, 2],
    [4, 1],
    [1, 1],
  ];
  const waits = waitsOf(groups, { ranks: 2, prompts: 2, samples: 2, slots: 2 });
  // Rank 0: slots end at 3 and 1 + 2 + 2 = 5; rank 1: at 4 and 1 + 1 + 1 = 3.
  expect(waits.rollout).toBeCloseTo(1 - 4.5 / 5, 12);
  expect(waits.update).toBeCloseTo(1 - 7.5 / 8, 12);
  expect(waits.updateNeighbours).toBeCloseTo(1 - 7.5 / 8, 12);
  expect(waited([1, 1, 2])).toBeCloseTo(1 / 3, 12);
});

test("equal lengths wait for nothing; more ranks wait longer, and groups of one length longer than others", () => {
  const shape = (ranks: number) => ({ ranks, prompts: 4, samples: 8, slots: 16 });
  const equal = simulate([7], shape(8), "independent", uniform(1), 3);
  expect(equal).toEqual({ rollout: 0, rolloutQueue: 0, update: 0, updateNeighbours: 0 });
  const lengths = Array.from({ length: 100 }, (_, i) => 10 + ((i * 37) % 100) ** 2 / 50);
  const [few, many] = [8, 64].map((ranks) => simulate(lengths, shape(ranks), "independent", uniform(1)));
  const grouped = simulate(lengths, shape(8), "equal", uniform(1));
  expect(many!.updateNeighbours).toBeGreaterThan(few!.updateNeighbours);
  expect(grouped.updateNeighbours).toBeGreaterThan(few!.updateNeighbours);
  for (const waits of [few!, many!, grouped]) expect(waits.update).toBeLessThan(waits.updateNeighbours);
});
