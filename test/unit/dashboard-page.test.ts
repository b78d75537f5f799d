/** What the page computes, without a browser: many steps on few pixels, smoothing, filters, colours of tokens, formulas. */
import { describe, expect, test } from "bun:test";
import { charts, otherCharts } from "../../src/dashboard/page/chart-list.ts";
import { GrowingColumn } from "../../src/dashboard/page/columns.ts";
import {
  createDecimator,
  decimate,
  decimateOverview,
  gridOf,
  rowAt,
  type Series,
} from "../../src/dashboard/page/decimate.ts";
import { bytesText, durationText, numberText, tickText } from "../../src/dashboard/page/format.ts";
import { arranged, groupsOf, judges, type Listed } from "../../src/dashboard/page/groups.ts";
import { mathPieces } from "../../src/dashboard/page/math-text.ts";
import { createSmoother } from "../../src/dashboard/page/smooth.ts";
import { possible, scaleOf, tokensOf } from "../../src/dashboard/page/token-values.ts";
import { createTable } from "../../src/dashboard/table.ts";
import { completionLine, metricsLine } from "../fixtures/made-run.ts";

/** Steps from `first`, with gaps and values that are missing here and there. */
function series(rows: number, first = 1, gaps = false): Series {
  const steps = new Float64Array(rows);
  const values = new Float32Array(rows);
  let step = first;
  for (let i = 0; i < rows; i++) {
    steps[i] = step;
    step += gaps && i % 37 === 0 ? 5 : 1;
    values[i] = i % 53 === 7 ? Number.NaN : Math.sin(i / 40) + ((i * 7919) % 101) / 300 + (i % 997 === 0 ? 30 : 0);
  }
  return { steps, values, rows };
}

describe("decimation", () => {
  /** The values of a bucket by looking at every row. */
  const slowly = ({ steps, values, rows }: Series, from: number, to: number): number[] => {
    const inside: number[] = [];
    for (let i = 0; i < rows; i++)
      if (steps[i]! >= from && steps[i]! < to && !Number.isNaN(values[i]!)) inside.push(values[i]!);
    return inside;
  };

  for (const [rows, gaps] of [
    [1, false],
    [15, false],
    [1000, true],
    [70_001, false],
    [70_001, true],
  ] as const)
    test(`${rows} rows${gaps ? " with gaps" : ""}: each bucket has its mean, its least and its largest value`, () => {
      const all = series(rows, 3, gaps);
      const decimator = createDecimator();
      const last = all.steps[rows - 1]!;
      for (const [min, max, buckets] of [
        [0, last, 300],
        [last / 3, last / 2, 200],
        [last - 10, last, 200],
        [-50, 2, 10],
      ] as const) {
        const grid = gridOf(min, max, buckets);
        const { mean, low, high } = decimate(all, decimator, grid);
        expect([mean.length, low.length, high.length]).toEqual(new Array(3).fill(grid.x.length));
        for (const [i, first] of grid.first.entries()) {
          const inside = slowly(all, first, first + grid.stride);
          if (inside.length === 0) expect(mean[i]).toBeNull();
          else expect(mean[i]).toBeCloseTo(inside.reduce((a, b) => a + b, 0) / inside.length, 6);
          if (inside.length > 1) expect([low[i], high[i]]).toEqual([Math.min(...inside), Math.max(...inside)]);
          expect(grid.x[i]! - first).toBe((grid.stride - 1) / 2);
        }
      }
    });

  test("rows that are added later are seen, and buckets stay where they are while a view moves", () => {
    const whole = series(5000);
    const decimator = createDecimator();
    const grid = gridOf(1, 5000, 100);
    for (const rows of [1, 999, 1000, 3777]) decimate({ ...whole, rows }, decimator, grid);
    expect(decimate(whole, decimator, grid)).toEqual(decimate(whole, createDecimator(), grid));
    const [a, b] = [gridOf(1000, 2000, 100), gridOf(1003, 2003, 100)];
    expect(a.stride).toBe(b.stride);
    const shared = [...a.first].filter((step) => b.first.includes(step));
    expect(shared.length).toBeGreaterThan(a.first.length - 4);
  });

  test("a point per bucket, whatever the number of steps", () => {
    for (const steps of [10, 1000, 100_000, 10_000_000]) expect(gridOf(0, steps, 300).x.length).toBeLessThan(304);
  });

  test("an overview from the server is drawn as the column itself, up to its buckets", () => {
    const all = series(50_000);
    const table = createTable();
    for (let i = 0; i < all.rows; i++) table.add(all.steps[i]!, { a: all.values[i]! });
    const bytes = table.overview(3, ["a", "none"]);
    const length = new DataView(bytes.buffer).getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
    expect(head).toMatchObject({
      epoch: 3,
      names: ["a", "none"],
      stride: 32,
      ends: [
        [all.values[0], all.values.at(-1)],
        [null, null],
      ],
    });
    expect(bytes.length).toBeLessThan(64_000);
    const start = Math.ceil((4 + length) / 8) * 8;
    const part = (k: number) => new Float32Array(bytes.buffer, start + 4 * head.buckets * k, head.buckets);
    const overview = { stride: 32, ends: head.ends[0], mean: part(0), low: part(1), high: part(2) };
    expect(part(3).every(Number.isNaN)).toBe(true);
    for (const [min, max] of [
      [0, 50_000],
      [7000, 31_000],
    ] as const) {
      const grid = gridOf(min, max, 150);
      const [own, whole] = [decimateOverview(overview, grid), decimate(all, createDecimator(), grid)];
      expect([own.low, own.high]).toEqual([whole.low, whole.high]);
      for (const [i, mean] of own.mean.entries())
        if (mean === null) expect(whole.mean[i]).toBeNull();
        else expect(Math.abs(mean - whole.mean[i]!)).toBeLessThan(0.05);
    }
    // Nearer than its buckets it is coarse, but there.
    expect(decimateOverview(overview, gridOf(100, 140, 150)).mean.every((value) => value !== null)).toBe(true);
  });

  test("the first row of a step", () => {
    const all = series(100, 1, true);
    for (const step of [0, 1, 7, 8, 50, 1e9]) {
      const slow = all.steps.findIndex((each) => each >= step);
      expect(rowAt(all, step)).toBe(slow < 0 ? 100 : slow);
    }
  });
});

test("smoothing starts without a bias, passes over what is missing, and goes on where it stopped", () => {
  const values = Float32Array.of(1, 1, Number.NaN, 1, 5);
  const smooth = createSmoother(0.9);
  const first = Array.from(smooth.update(values, 4).subarray(0, 4));
  expect(first.map((value) => (Number.isNaN(value) ? null : Number(value.toFixed(6))))).toEqual([1, 1, null, 1]);
  const again = smooth.update(values, 5)[4]!;
  expect(again).toBeCloseTo((0.1 * (5 + 0.9 + 0.81 + 0.729)) / (1 - 0.9 ** 4), 5);
  expect(again).toBe(createSmoother(0.9).update(values, 5)[4]!);
});

describe("completions", () => {
  const listed = (line: Partial<Listed>, index = 0): Listed => ({
    ...{
      group: 0,
      reward: 0,
      finished: true,
      tokens: 5,
      advantage: null,
      verdict: null,
      prompt: "p",
      text: "t",
      index,
    },
    ...line,
  });
  const lines = [
    listed({ reward: 1, verdict: "equal" }, 0),
    listed({ reward: 0, verdict: "unparsed", prompt: "", finished: false, tokens: 9 }, 1),
    listed({ group: 1, reward: 0, verdict: "different" }, 2),
    listed({ group: 1, reward: 0, verdict: "timeout", tokens: 2 }, 3),
  ];
  const groups = groupsOf(lines);
  const shown = (filter: Parameters<typeof arranged>[1], order: Parameters<typeof arranged>[2] = "file") =>
    arranged(groups, filter, order).flatMap(({ members }) => members.map(({ index }) => index));

  test("groups keep their prompt, mean and whether they teach anything", () => {
    expect(groups.map(({ prompt, mean, isFlat }) => [prompt, mean, isFlat])).toEqual([
      ["p", 0.5, false],
      ["p", 0, true],
    ]);
    expect(groupsOf([listed({})])[0]!.isFlat).toBe(false);
  });

  test("filters and orders", () => {
    const by = judges(lines);
    expect(shown(by.all)).toEqual([0, 1, 2, 3]);
    expect(shown(by.wrong)).toEqual([1, 2, 3]);
    expect(shown(by.right)).toEqual([0]);
    expect(shown(by.unparsed)).toEqual([1]);
    expect(shown(by.truncated)).toEqual([1]);
    expect(shown(by.flat)).toEqual([2, 3]);
    expect(shown(by.all, "reward down")[0]).toBe(0);
    expect(shown(by.all, "reward up").at(-1)).toBe(0);
    expect(shown(by.all, "longest")).toEqual([1, 0, 2, 3]);
    expect(shown(by.all, "shortest")).toEqual([3, 0, 2, 1]);
  });

  test("without a verifier, the extreme rewards count as wrong and right; equal ones as neither", () => {
    const plain = [listed({ reward: 0.1 }), listed({ reward: 0.7 }, 1), listed({ reward: null }, 2)];
    const by = judges(plain);
    const [group] = groupsOf(plain);
    expect(plain.map((line) => [by.wrong(line, group!), by.right(line, group!)])).toEqual([
      [true, false],
      [false, true],
      [false, false],
    ]);
    const equal = judges([listed({ reward: 1 })]);
    expect([equal.wrong(lines[0]!, group!), equal.wrong(listed({ reward: 1 }), group!)]).toEqual([false, false]);
  });
});

describe("tokens", () => {
  const row = JSON.parse(completionLine(1, 2));
  test("cut the text where they end, each with its numbers", () => {
    const tokens = tokensOf(row)!;
    expect(tokens.map(({ text }) => text).join("")).toBe(row.completion);
    expect(possible(tokens)).toEqual(["logprob", "entropy", "ratio", "advantage", "shift"]);
    const [first] = tokens;
    expect(first!.ratio).toBeCloseTo(Math.exp(row.old_logprobs[0] - row.sampling_logprobs[0]), 10);
    expect(first!.shift).toBeCloseTo(row.old_logprobs[0] - row.details.ref_logprobs[0], 10);
    expect(first!.advantage).toBe(row.details.advantage);
  });

  test("what is not recorded, or has another length, has no colour", () => {
    expect(tokensOf({ ...row, details: undefined })).toBeNull();
    expect(tokensOf({ ...row, details: { ...row.details, ends: [1] } })).toBeNull();
    const { old_logprobs: _, ...without } = row;
    const bare = tokensOf({ ...without, details: { ends: row.details.ends, entropies: [1] } })!;
    expect(possible(bare)).toEqual([]);
    const masked = tokensOf({ ...row, mask: row.completion_ids.map((_: number, i: number) => (i === 1 ? 0 : 1)) })!;
    expect(masked.map(({ isOwn }) => isOwn).indexOf(false)).toBe(1);
  });

  test("scales reach from nothing to the completion's own extreme, two-sided ones around their middle", () => {
    const tokens = [-0.001, -4].map((logprob, i) => ({
      id: i,
      text: "x",
      isOwn: true,
      logprob,
      ratio: Math.exp(i - 1),
    }));
    const { strength, ends } = scaleOf(tokens, "logprob");
    expect(tokens.map(strength)).toEqual([0.00025, 1]);
    expect(ends).toEqual([0, -4]);
    const ratio = scaleOf(tokens, "ratio");
    expect(tokens.map(ratio.strength)).toEqual([-1, 0]);
    expect(ratio.isTwoSided).toBe(true);
    expect(scaleOf(tokens, "advantage").strength(tokens[0]!)).toBe(0);
  });
});

describe("rows that come with an event", () => {
  test("are all values of a table from a row on, told from their neighbours, unless they are too many or not of JSON", () => {
    const table = createTable();
    const values = (step: number) => ({ a: step / 3, b: step % 2 === 0 ? "text" : 1e-30 * step });
    for (let step = 1; step <= 50; step++) table.add(step, values(step));
    expect(table.fresh(50)).toBeNull();
    const { from, steps, values: found } = table.fresh(48)!;
    expect({ from, steps }).toEqual({ from: 48, steps: [49, 50] });
    const back = JSON.parse(JSON.stringify(found)) as (number | null)[][];
    expect(back[0]!.map((value) => Math.fround(value!))).toEqual([49 / 3, 50 / 3].map(Math.fround));
    expect(back[1]).toEqual([expect.any(Number), null]);
    expect(Math.fround(back[1]![0]!)).toBe(Math.fround(49e-30));
    for (let step = 51; step <= 20_000; step++) table.add(step, values(step));
    expect(table.fresh(0)).toBeNull();
    table.add(20_001, { a: 1e300, b: 1 });
    expect(table.fresh(20_000)).toBeNull();
  });

  test("are taken once, and not where some before them are missing", () => {
    const column = new GrowingColumn({ steps: Float64Array.of(1, 2, 3, 4, 5) });
    const rows = (...values: number[]) => Float32Array.from(values);
    column.append(rows(1, 2), 0);
    column.append(rows(9), 3);
    expect(column.rows).toBe(2);
    column.append(rows(2, 3), 1);
    column.append(rows(1, 2), 0);
    expect([...column.values.subarray(0, column.rows)]).toEqual([1, 2, 3]);
  });
});

describe("formulas", () => {
  const kinds = (text: string) => mathPieces(text).map((piece) => (piece.kind === "math" ? piece.source : null));
  test("are found between their delimiters; what is not theirs stays", () => {
    expect(kinds("a $x^2$ b")).toEqual([null, "x^2", null]);
    expect(kinds("$$\\frac{1}{2}$$\\[y\\]\\(z\\)")).toEqual(["\\frac{1}{2}", "y", "z"]);
    expect(kinds("so \\boxed{\\frac{1}{2}} ends")).toEqual([null, "\\boxed{\\frac{1}{2}}", null]);
    for (const text of ["costs $5 and $6 more", "a $ b $ c", "$", "\\(", "\\boxed{", "$ x$", "no\n\n$x\n\ny$", "$$ $$"])
      expect({ text, found: kinds(text) }).toEqual({ text, found: [null] });
  });
  test("joined, the pieces are the text, and long texts take no long time", () => {
    const texts = ["a $x$ $5 b \\(c\\) \\[d", "\\boxed{".repeat(3000), "$".repeat(20_001), "\\(".repeat(20_000)];
    for (const text of texts) {
      const started = performance.now();
      expect(
        mathPieces(text)
          .map((piece) => piece.text)
          .join(""),
      ).toBe(text);
      expect(performance.now() - started).toBeLessThan(2000);
    }
  });
});

test("charts draw the columns of a run, every other column has a chart of its own", () => {
  const steps = Object.keys(JSON.parse(metricsLine(1, 9))).filter((name) => name !== "step");
  const names = { steps: [...steps, "own/metric"], evaluations: ["eval_accuracy", "eval_pass@4"] };
  const drawn = Object.fromEntries(charts.map(({ id, lines }) => [id, lines(names).map(({ label }) => label)]));
  expect(drawn).toMatchObject({
    reward: ["training"],
    rewards: ["gsm8k", "think_format"],
    accuracy: ["accuracy", "pass@4"],
    clip: ["either", "below", "above"],
    phases: ["rollout", "reward", "reference", "update"],
  });
  expect(otherCharts(names).map(({ title }) => title)).toEqual(["epoch", "num_tokens", "step_time", "own/metric"]);
});

test("numbers as people read them", () => {
  expect([0, 1, 0.01234, 1.5, 12.3456, 12_345.6, 1e-7, -2.5, Number.NaN, null].map(numberText)).toEqual([
    ..."0 1 0.0123 1.500 12.35 12,346 1.00e−7 −2.500 – –".split(" "),
  ]);
  expect([0, 0.25, 15_000, 2e6, -1e-5].map(tickText)).toEqual(["0", "0.25", "15k", "2M", "−1e−5"]);
  expect([0, 1536, 3.2e9].map(bytesText)).toEqual(["0 B", "1.5 KiB", "3.0 GiB"]);
  expect([0.256, 4, 75, 3700].map(durationText)).toEqual(["0.26 s", "4 s", "1 min 15 s", "1 h 1 min"]);
});
