/** Places among ranks from launchers' variables, shares, and the tree that gradient shards are summed by. */
import { describe, expect, test } from "bun:test";
import { firstHost, placementOf } from "../../src/ranks/environment.ts";
import { own, shareOf } from "../../src/ranks/ranks.ts";
import { copiesNeeded, subtreesOf, sumTree } from "../../src/ranks/tree.ts";
import { joined, placed, roundsOf, unitsByRank, unitsOf } from "../../src/ranks/units.ts";
import { cutShards } from "../../src/session/gradient-shards.ts";

describe("placementOf", () => {
  const torchrun = { RANK: "3", WORLD_SIZE: "8", LOCAL_RANK: "3", LOCAL_WORLD_SIZE: "4" };
  const meeting = { MASTER_ADDR: "10.0.0.1", MASTER_PORT: "29500" };

  test("torchrun", () => {
    expect(placementOf({ ...torchrun, ...meeting, BUN_GRPO_SECRET: "s" })).toEqual({
      ...{ launcher: "torchrun", rank: 3, size: 8, localRank: 3, localSize: 4, parent: null, secret: "s" },
      rendezvous: { host: "10.0.0.1", port: 29500 },
    });
    expect(placementOf({ ...torchrun, ...meeting, BUN_GRPO_RANKS_PARENT: "77" })).toMatchObject({
      ...{ launcher: "--ranks", parent: 77 },
    });
  });

  test("Open MPI and MPICH", () => {
    const ompi = { OMPI_COMM_WORLD_RANK: "1", OMPI_COMM_WORLD_SIZE: "2", OMPI_COMM_WORLD_LOCAL_RANK: "0" };
    expect(placementOf({ ...ompi, OMPI_COMM_WORLD_LOCAL_SIZE: "1" })).toMatchObject({
      ...{ launcher: "Open MPI", rank: 1, size: 2, localRank: 0, localSize: 1, rendezvous: null, secret: null },
    });
    expect(placementOf({ PMI_RANK: "0", PMI_SIZE: "4", MPI_LOCALRANKID: "0", MPI_LOCALNRANKS: "4" })).toMatchObject({
      ...{ launcher: "MPICH", rank: 0, size: 4, localSize: 4 },
    });
  });

  test("Slurm: a task of a step, not a batch script", () => {
    const job = { SLURM_JOB_ID: "7", SLURM_PROCID: "0", SLURM_NTASKS: "4", SLURM_LOCALID: "0" };
    expect(placementOf(job)).toBeNull();
    const step = {
      ...{ SLURM_STEP_ID: "1", SLURM_STEP_NUM_TASKS: "4", SLURM_STEP_NUM_NODES: "2" },
      ...{ SLURM_STEP_NODELIST: "gpu[03-04]", SLURM_STEP_TASKS_PER_NODE: "2(x2)" },
    };
    expect(placementOf({ ...job, ...step })).toMatchObject({
      ...{ launcher: "Slurm", rank: 0, size: 4, localRank: 0, localSize: 2 },
      rendezvous: { host: "gpu03", port: 12_050 },
    });
    expect(placementOf({ ...job, ...step, SLURM_STEP_TASKS_PER_NODE: "3,1" })!.localSize).toBeNull();
    expect(placementOf({ ...job, ...step, ...meeting })!.rendezvous).toEqual({ host: "10.0.0.1", port: 29500 });
    expect(["a1,a2", "gpu[3,5]", "n[01-02],m"].map(firstHost)).toEqual(["a1", "gpu3", "n01"]);
  });

  test("no launcher, or one rank of one", () => {
    expect(placementOf({})).toBeNull();
    expect(placementOf({ RANK: "0" })).toBeNull();
    expect(placementOf({ RANK: "0", WORLD_SIZE: "1", ...meeting })).toBeNull();
  });

  test.each([
    [{ ...torchrun, RANK: "x" }, 'environment variable RANK is "x": it must be a whole number ≥ 0'],
    [{ ...torchrun, RANK: "8" }, "environment variable RANK is 8: WORLD_SIZE is 8"],
    [
      { ...torchrun, MASTER_ADDR: "a" },
      "environment variable MASTER_ADDR is set and MASTER_PORT is not; set both, or neither",
    ],
    [
      { ...torchrun, ...meeting, MASTER_PORT: "70000" },
      "environment variable MASTER_PORT is 70000: ports end at 65535",
    ],
  ])("%p is refused", (env, message) => {
    expect(() => placementOf(env)).toThrow(message);
  });
});

test("shares are neighbours and cover everything", () => {
  for (const parts of [1, 2, 3, 7]) {
    const shares = Array.from({ length: parts }, (_, i) => shareOf(5, i, parts));
    expect(shares[0]!.from).toBe(0);
    expect(shares.at(-1)!.to).toBe(5);
    for (const [i, { from }] of shares.entries()) if (i > 0) expect(from).toBe(shares[i - 1]!.to);
  }
  expect(own([1, 2, 3, 4, 5], { rank: 1, size: 2 })).toEqual([3, 4, 5]);
});

describe("the tree of shards", () => {
  /** The sum of a shard's name as a text that shows the order. */
  const sums = (shards: number, ranks: number, absent: readonly number[] = []): string | null => {
    const add = (left: string, right: string) => `(${left}+${right})`;
    const parts = Array.from({ length: ranks }, (_, r) => shareOf(shards, r, ranks)).flatMap(({ from, to }) =>
      subtreesOf(from, to).map((subtree) => {
        const own = Array.from({ length: subtree.to - subtree.from }, (_, i) => {
          const s = subtree.from + i;
          return { from: s, to: s + 1, sum: absent.includes(s) ? null : String(s) };
        });
        // A subtree's own sum is that of a tree of its size.
        const moved = own.map(({ sum }, i) => ({ from: i, to: i + 1, sum }));
        return { ...subtree, sum: sumTree(own.length, moved, add) };
      }),
    );
    return sumTree(shards, parts, add);
  };

  test("has one form for any number of ranks", () => {
    expect(sums(8, 1)).toBe("(((0+1)+(2+3))+((4+5)+(6+7)))");
    expect(sums(5, 1)).toBe("(((0+1)+(2+3))+4)");
    for (const shards of [1, 2, 5, 6, 8, 12, 16])
      for (let ranks = 1; ranks <= shards + 1; ranks++) expect(sums(shards, ranks)).toBe(sums(shards, 1)!);
  });

  test("leaves out shards without a gradient", () => {
    expect(sums(8, 1, [1, 2, 3])).toBe("(0+((4+5)+(6+7)))");
    for (const ranks of [2, 3, 5, 8]) expect(sums(8, ranks, [0, 1, 6])).toBe(sums(8, 1, [0, 1, 6])!);
    expect(sums(4, 2, [0, 1, 2, 3])).toBeNull();
  });

  test("needs few copies", () => {
    expect(subtreesOf(3, 8)).toEqual([
      { from: 3, to: 4 },
      { from: 4, to: 8 },
    ]);
    expect([1, 2, 4, 8].map((to) => copiesNeeded({ from: 0, to }))).toEqual([0, 1, 2, 3]);
    expect(copiesNeeded({ from: 2, to: 2 })).toBe(0);
  });
});

describe("which rank has which elements", () => {
  const parameters = [
    { name: "embedding", elements: 100_000 },
    { name: "norm", elements: 100 },
    { name: "matrix", elements: 70_000 },
    { name: "head", elements: 1 },
  ];
  const units = unitsOf(parameters);

  test("units cover all elements, the same for any number of ranks, and ranks have neighbours of about equal size", () => {
    for (const { name, elements } of parameters) {
      const own = joined(units.filter((unit) => unit.name === name));
      expect(own).toEqual([{ name, from: 0, count: elements }]);
    }
    for (const size of [1, 2, 3, 4, 8, 20]) {
      const owned = unitsByRank(units, size);
      expect(owned.flat()).toEqual(units);
      const counts = owned.map((own) => own.reduce((sum, { count }) => sum + count, 0));
      for (const count of counts) expect(Math.abs(count - 170_101 / size)).toBeLessThanOrEqual(2 ** 14);
    }
  });

  test("units grow with the model", () => {
    const large = unitsOf([{ name: "embedding", elements: 2 ** 30 }]);
    expect(large).toHaveLength(4096);
    expect(large[1]).toEqual({ name: "embedding", from: 2 ** 18, count: 2 ** 18 });
  });

  test.each([32, 4096, 50_016, 2 ** 20])("exchanges of %d elements have all, in order, and room for them", (most) => {
    const rounds = roundsOf(units, most);
    expect(joined(rounds.flat())).toEqual(joined(units));
    for (const round of rounds) {
      expect(round.reduce((sum, { count }) => sum + placed(count), 0)).toBeLessThanOrEqual(most);
      for (const { count } of round) expect(count).toBeGreaterThan(0);
    }
    const least = Math.ceil(170_101 / most);
    expect(rounds.length).toBeGreaterThanOrEqual(least);
    expect(rounds.length).toBeLessThanOrEqual(least + parameters.length);
  });
});

describe("cutShards", () => {
  const group = (lengths: readonly number[]) => ({
    promptIds: Int32Array.of(1),
    completions: lengths.map((length) => ({ completionIds: new Int32Array(length) })),
  });
  const equal = (count: number) => new Array<number>(count).fill(2);
  const cut = (groups: readonly (readonly number[])[], shards: number) =>
    cutShards(groups.map(group), shards).map(({ completions }) => completions);

  test("takes whole groups where there are enough", () => {
    expect(cut([2, 2, 2, 2].map(equal), 2)).toEqual([
      [0, 1, 4, 5],
      [2, 3, 6, 7],
    ]);
    expect(cut([2, 2, 2].map(equal), 2)).toEqual([
      [0, 1, 4, 5],
      [2, 3],
    ]);
  });

  test("splits groups where there are fewer than shards", () => {
    expect(cut([4, 4].map(equal), 4)).toEqual([
      [0, 1],
      [4, 5],
      [2, 3],
      [6, 7],
    ]);
    // Each of two ranks, which have two of the shards each, has something to do.
    expect(cut([1, 1].map(equal), 4)).toEqual([[0], [], [1], []]);
  });

  test("deals groups out by their tokens, each once, in order within a shard", () => {
    const lengths = [
      [9, 9],
      [1, 2],
      [8, 8],
      [5, 5],
      [2, 2],
      [6, 5],
      [1, 1],
      [30, 1],
    ];
    const groups = lengths.map(group);
    const shards = cutShards(groups, 4);
    expect(shards.flatMap(({ completions }) => completions).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 16 }, (_, i) => i),
    );
    const all = lengths.flat();
    for (const { groups: own, completions } of shards) {
      expect(completions).toEqual([...completions].sort((a, b) => a - b));
      const taken = own.flatMap((each) => each.completions.map(({ completionIds }) => completionIds.length));
      expect(taken).toEqual(completions.map((i) => all[i]!));
    }
    const tokens = (own: (typeof shards)[number]) =>
      own.groups.reduce(
        (sum, { promptIds, completions }) =>
          sum + promptIds.length + completions.reduce((s, c) => s + c.completionIds.length, 0),
        0,
      );
    // The group of 32 tokens is alone; the others have 71 in all.
    expect(shards.map(tokens).sort((a, b) => a - b)).toEqual([23, 23, 25, 32]);
  });

  test("has every completion once for any number of shards", () => {
    for (const shards of [1, 3, 8, 12, 16]) {
      const found = cut(
        [
          [3, 1, 4],
          [1, 5],
          [9, 2, 6, 5],
        ],
        shards,
      ).flat();
      expect(found.sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
  });
});
