// The packed layout: an example, and unpacking for many random steps and budgets.
import { describe, expect, test } from "bun:test";
import {
  cutMicroBatches,
  type MicroBatch,
  maxMicroBatchTokens,
  type PackedGroup,
  routesByCompletion,
} from "../../src/model/micro-batches.ts";

const group = (promptIds: number[], ...completions: number[][]): PackedGroup => ({
  promptIds: Int32Array.from(promptIds),
  completions: completions.map((ids) => ({ completionIds: Int32Array.from(ids) })),
});

test("an example, number by number", () => {
  const groups = [group([1, 2, 3], [10, 11, 12], [20], [30, 31]), group([4], [40, 41])];
  const batches = cutMicroBatches(groups, 100);
  expect(batches).toHaveLength(1);
  expect(batches[0]).toEqual({
    tokens: Int32Array.of(1, 2, 3, 10, 11, 30, 4, 40),
    positions: Int32Array.of(0, 1, 2, 3, 4, 3, 0, 1),
    segments: Int32Array.of(0, 3, 0, 0, 3, 2, 0, 3, 5, 1, 0, 3, 6, 1, 0, 0, 7, 1, 6, 1),
    headRows: Int32Array.of(2, 3, 4, 5, 6, 7),
    entryRows: Int32Array.of(0, 1, 2, 0, 0, 3, 4, 5),
    entryTargets: Int32Array.of(10, 11, 12, 20, 30, 31, 40, 41),
    completions: Int32Array.of(0, 1, 2, 3),
    entryStarts: Int32Array.of(0, 3, 4, 6, 8),
    rowWeights: Float32Array.of(3, 3, 3, 1, 1, 1, 1, 1),
    routes: null,
  });
});

describe("routes", () => {
  const shape = { layers: 2, experts: 7, perToken: 2 };
  const of = (salt: number, tokens: number) =>
    Uint16Array.from({ length: tokens * 4 }, (_, i) => (salt * 5 + i * 3 + (i % 4)) % shape.experts);
  const routed = (salt: number, prompt: number[], ...completions: number[][]): PackedGroup => ({
    promptIds: Int32Array.from(prompt),
    completions: completions.map((ids, i) => ({
      completionIds: Int32Array.from(ids),
      routes: { shape, prompt: of(salt, prompt.length), completion: of(salt + i + 1, ids.length - 1) },
    })),
  });
  const groups = [routed(1, [1, 2, 3], [10, 11, 12], [20], [30, 31]), routed(6, [4], [40, 41], [50], [60, 61, 62])];

  test("lie layer by layer, and are found again by completion however a step is cut", () => {
    const [batch] = cutMicroBatches(groups, 100);
    const T = batch!.tokens.length;
    expect(batch!.routes).toHaveLength(2 * T * 2);
    // The first completion's second token, in layer 1.
    expect([...batch!.routes!.subarray((T + 4) * 2, (T + 4) * 2 + 2)]).toEqual([...of(2, 2).subarray(6, 8)]);
    for (const budget of [100, 9, 4]) {
      const found: unknown[] = [];
      for (const cut of cutMicroBatches(groups, budget))
        for (const [i, routes] of routesByCompletion(cut, cut.routes!, shape).entries())
          found[cut.completions[i]!] = routes;
      expect(found).toEqual(groups.flatMap(({ completions }) => completions.map(({ routes }) => routes)));
    }
  });

  test("of some completions alone are an error", () => {
    const [first] = groups;
    const bare = { ...first!, completions: [...first!.completions, { completionIds: Int32Array.of(7) }] };
    expect(() => cutMicroBatches([bare], 100)).toThrow("some completions have routes and some have none");
  });
});

describe("cutting", () => {
  const shape = (groups: PackedGroup[], budget: number) =>
    cutMicroBatches(groups, budget).map(({ completions }) => [...completions]);
  const six = [...Array(3)].map(() => group([1, 2], [3, 4], [5, 6])); // each costs 2 + 4

  test("groups stay whole and share a micro-batch while they fit", () => {
    expect(shape(six, 18)).toEqual([[0, 1, 2, 3, 4, 5]]);
    expect(shape(six, 17)).toEqual([
      [0, 1, 2, 3],
      [4, 5],
    ]);
    expect(shape(six, 11)).toEqual([
      [0, 1],
      [2, 3],
      [4, 5],
    ]);
  });

  test("a group above the budget is split between completions, and its last part shares", () => {
    const large = group([1, 2], [3, 3, 3], [4, 4, 4], [5]);
    expect(shape([large], 8)).toEqual([[0, 1], [2]]);
    expect(shape([large, group([9], [9])], 8)).toEqual([
      [0, 1],
      [2, 3],
    ]);
    expect(shape([group([9], [9]), large], 8)).toEqual([
      [0, 1],
      [2, 3],
    ]);
  });

  test("a group above the budget joins the current micro-batch unless that takes one more copy of its prompt", () => {
    // Each costs 2 + 4 · 4: 3 and 1 completions, or 2 and 2.
    const large = group([1, 2], ...[3, 4, 5, 6].map((id) => [id, id, id, id]));
    expect(shape([large, large], 14)).toEqual([
      [0, 1, 2],
      [3, 4],
      [5, 6, 7],
    ]);
    expect(shape([group([9], [9, 9, 9]), large], 14)).toEqual([
      [0, 1, 2],
      [3, 4],
    ]);
    expect(shape([group([9], [9, 9, 9, 9, 9, 9]), large], 14)).toEqual([
      [0, 1],
      [2, 3, 4],
    ]);
    // 3 and 3 completions, which starting with 1 would make three parts.
    const six = group([1, 2], ...[3, 4, 5, 6, 7, 8].map((id) => [id, id, id, id]));
    expect(shape([group([9], [9, 9, 9, 9, 9, 9]), six], 14)).toEqual([[0], [1, 2, 3], [4, 5, 6]]);
  });

  test("a completion above the budget has its own part", () => {
    expect(shape([group([1], [2], [3, 3, 3, 3, 3, 3], [4], [5])], 4)).toEqual([[0], [1], [2, 3]]);
    expect(shape(six, 1)).toEqual([[0], [1], [2], [3], [4], [5]]);
  });

  test("no groups, and groups without completions, produce no work", () => {
    expect(cutMicroBatches([], 10)).toEqual([]);
    expect(cutMicroBatches([group([1, 2])], 10)).toEqual([]);
    expect(shape([group([1, 2]), group([1], [7]), group([3])], 10)).toEqual([[0]]);
  });

  test("an empty prompt or completion is refused", () => {
    expect(() => cutMicroBatches([group([], [1])], 10)).toThrow("empty prompt");
    expect(() => cutMicroBatches([group([1], [])], 10)).toThrow("no tokens");
  });
});

/** The tokens a row may attend to, itself included: in order of position, according to the segments. */
function context(batch: MicroBatch, row: number): number[] {
  for (let s = 0; s < batch.segments.length; s += 4) {
    const [start, length, prefixStart, prefixLength] = batch.segments.subarray(s, s + 4) as unknown as [
      number,
      number,
      number,
      number,
    ];
    if (row < start || row >= start + length) continue;
    const rows = [
      ...Array.from({ length: prefixLength }, (_, i) => prefixStart + i),
      ...Array.from({ length: row - start + 1 }, (_, i) => start + i),
    ];
    expect(rows.map((r) => batch.positions[r]!)).toEqual(rows.map((_, position) => position));
    return rows.map((r) => batch.tokens[r]!);
  }
  throw new Error(`row ${row} is in no segment`);
}

test("unpacked, every completion token is predicted from exactly the tokens before it", () => {
  let state = 12345;
  const random = (below: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % below;
  };
  const sequence = (length: number): number[] => Array.from({ length }, () => random(1000));
  for (let round = 0; round < 150; round++) {
    const groups = Array.from({ length: 1 + random(5) }, () =>
      group(sequence(1 + random(7)), ...Array.from({ length: 1 + random(6) }, () => sequence(1 + random(9)))),
    );
    const budget = 1 + random(60);
    const batches = cutMicroBatches(groups, budget);
    const all = groups.flatMap(({ promptIds, completions }) =>
      completions.map(({ completionIds }) => ({ prompt: [...promptIds], completion: [...completionIds] })),
    );
    const most = maxMicroBatchTokens({
      budget,
      longestPrompt: Math.max(...all.map(({ prompt }) => prompt.length)),
      longestCompletion: Math.max(...all.map(({ completion }) => completion.length)),
      groups: groups.length,
      completions: all.length,
    });
    expect(batches.flatMap(({ completions }) => [...completions])).toEqual(all.map((_, i) => i));
    for (const batch of batches) {
      for (const size of [batch.tokens, batch.headRows, batch.entryTargets])
        expect(size.length).toBeLessThanOrEqual(most);
      expect(batch.segments.length / 4).toBeLessThanOrEqual(most);
      const rows = [...batch.headRows];
      expect(rows).toEqual([...new Set(rows)].sort((a, b) => a - b));
      for (const [c, index] of batch.completions.entries()) {
        const { prompt, completion } = all[index]!;
        const [start, end] = [batch.entryStarts[c]!, batch.entryStarts[c + 1]!];
        expect([...batch.entryTargets.subarray(start, end)]).toEqual(completion);
        for (let t = 0; t < completion.length; t++) {
          const row = batch.headRows[batch.entryRows[start + t]!]!;
          expect(context(batch, row)).toEqual([...prompt, ...completion.slice(0, t)]);
        }
      }
      // Nothing unnecessary is computed: a prompt once per part, a completion without its last token.
      const parts = batch.segments
        .filter((_, i) => i % 4 === 3)
        .reduce((sum, prefix) => sum + (prefix === 0 ? 1 : 0), 0);
      expect(batch.headRows.length - parts).toBe(batch.entryTargets.length - batch.completions.length);
      if (batch.completions.length > 1)
        expect(batch.tokens.length + batch.completions.length).toBeLessThanOrEqual(budget);
    }
    const tokens = batches.reduce((sum, batch) => sum + batch.tokens.length, 0);
    const shared = groups.reduce((sum, { promptIds }) => sum + promptIds.length, 0);
    const needed = all.reduce((sum, { completion }) => sum + completion.length - 1, shared);
    if (batches.length === 1) expect(tokens).toBe(needed);
    else expect(tokens).toBeGreaterThanOrEqual(needed);
  }
});

test("maxMicroBatchTokens: the budget, the longest single completion, or a step smaller than the budget", () => {
  const longest = { longestPrompt: 100, longestCompletion: 50 };
  expect(maxMicroBatchTokens({ budget: 4096, ...longest })).toBe(4096);
  expect(maxMicroBatchTokens({ budget: 120, ...longest })).toBe(150);
  expect(maxMicroBatchTokens({ budget: 4096, ...longest, groups: 2, completions: 16 })).toBe(1000);
});
