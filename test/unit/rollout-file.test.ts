// Reading and writing rollout files: round trips of the format, and one clear line for each kind of bad input.
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { InputError } from "../../src/errors.ts";
import {
  formatRollout,
  type ReadRolloutsOptions,
  type RolloutGroup,
  readRollouts,
  streamRollouts,
} from "../../src/grpo/rollout-file.ts";

const folder = mkdtempSync(join(tmpdir(), "rollouts-"));
afterAll(() => rmSync(folder, { recursive: true }));
let files = 0;

function file(content: string | Uint8Array, name = "rollouts.jsonl"): string {
  const path = join(folder, `${files++}-${name}`);
  writeFileSync(path, content);
  return path;
}

const read = (content: string, options: Partial<ReadRolloutsOptions> = {}) =>
  readRollouts(file(content), { vocabSize: 100, ...options });

const line = (fields: Record<string, unknown> = {}): string =>
  JSON.stringify({ group: 0, prompt_ids: [1, 2], completion_ids: [3, 4], reward: 1, ...fields });

describe("reading", () => {
  test("advantages: one per completion, or one per token; written and read back bit for bit", async () => {
    const [{ completions }] = (await read(
      [line({ advantages: -1 / 3 }), line({ advantages: [0.1, 2] }), line({ advantages: null })].join("\n"),
    )) as [RolloutGroup];
    expect(completions.map((c) => c.advantages)).toEqual([-1 / 3, Float64Array.of(0.1, 2), undefined]);
    const group = { group: 0, promptIds: Int32Array.of(1, 2) };
    const [again] = await read(completions.map((completion) => formatRollout(group, completion)).join("\n"));
    expect(again!.completions).toEqual(completions);
  });

  test("mask: which tokens were sampled; written only if present, and read back", async () => {
    const [{ completions }] = (await read(
      [line({ mask: [1, 0] }), line({ mask: [1, 1] }), line({ mask: null }), line()].join("\n"),
    )) as [RolloutGroup];
    expect(completions.map(({ mask }) => mask)).toEqual([
      Uint8Array.of(1, 0),
      Uint8Array.of(1, 1),
      undefined,
      undefined,
    ]);
    const group = { group: 0, promptIds: Int32Array.of(1, 2) };
    const written = completions.map((completion) => formatRollout(group, completion));
    expect(written.map((text) => text.includes('"mask"'))).toEqual([true, true, false, false]);
    expect((await read(written.join("\n")))[0]!.completions).toEqual(completions);
  });

  test("step and place; rewards by function with their weights: written and read back", async () => {
    const own = { rewards: { math: 1, "a b": -0.25 }, reward_weights: { math: 1, "a b": 0.5 }, reward: 0.875 };
    const [{ completions }] = (await read(
      [
        line({ step: 7, place: 0 }),
        line(own),
        line({ rewards: { math: 1 } }),
        line({ rewards: null, step: null }),
      ].join("\n"),
    )) as [RolloutGroup];
    expect(completions.map(({ step, place, rewards }) => [step, place, rewards])).toEqual([
      [7, 0, undefined],
      [undefined, undefined, own.rewards],
      // Without weights the key belongs to another program and is ignored.
      [undefined, undefined, undefined],
      [undefined, undefined, undefined],
    ]);
    const group = { group: 0, promptIds: Int32Array.of(1, 2) };
    const [again] = await read(completions.map((completion) => formatRollout(group, completion)).join("\n"));
    expect(again!.completions).toEqual(completions);
  });

  test.each([
    [{ reward: 1e308 }, '"reward" is 1e+308; a reward must be within ±3.40e+38 (a 32-bit float): scale it down'],
    [{ step: 0 }, '"step" is 0; it counts from 1'],
    [{ place: -1 }, '"place" is -1; it counts from 0'],
    [{ step: 1.5 }, '"step" is 1.5; give an integer'],
    [{ rewards: [1], reward_weights: {} }, '"rewards" is [1]; give an object of numbers'],
    [{ rewards: { a: 1 }, reward_weights: { b: 1 } }, '"reward_weights" has no "a"'],
    [{ rewards: { a: "1" }, reward_weights: { a: 1 } }, '"rewards" has "1" for "a"; give a finite number'],
    [{ rewards: { a: 2 }, reward_weights: { a: 1 } }, '"reward" is 1, and "rewards" by "reward_weights" are 2'],
    [{ rewards: { a: null }, reward_weights: { a: 1 } }, '"reward" is 1, and "rewards" by "reward_weights" are null'],
    [{ mask: "10" }, '"mask" is "10"; give one number per token: 1 if the policy sampled it, 0 if it was inserted'],
    [{ mask: [1] }, '"mask" has 1 numbers for 2 tokens of "completion_ids"; give one number per token'],
    [{ mask: [1, 0.5] }, '"mask"[1] is 0.5; give one number per token'],
    [{ mask: [true, 1] }, '"mask"[0] is true; give one number per token'],
    [
      { advantages: "1" },
      'rollouts.jsonl:1: "advantages" is "1"; give a finite number, or an array with one per token',
    ],
    [{ advantages: [1] }, '"advantages" has 1 numbers for 2 tokens of "completion_ids"; give one per token'],
    [{ advantages: [1, null] }, '"advantages"[1] is null; give a finite number'],
  ])("%j is refused", async (fields, message) => {
    expect(read(line(fields))).rejects.toThrow(InputError);
    expect(read(line(fields))).rejects.toThrow(message);
  });

  test("all keys; defaults of the optional ones", async () => {
    const groups = await read(
      [
        line({ finished: false, old_logprobs: [-0.5, -1], ref_logprobs: [-2, 0], sampling_logprobs: [-3, -4] }),
        line({ completion_ids: [5], reward: null }),
        line({ group: -7, prompt: "1+1=", completion: "2", old_logprobs: null }),
      ].join("\n"),
    );
    expect(groups).toEqual([
      {
        group: 0,
        promptIds: Int32Array.of(1, 2),
        completions: [
          {
            completionIds: Int32Array.of(3, 4),
            finished: false,
            reward: 1,
            oldLogprobs: Float64Array.of(-0.5, -1),
            refLogprobs: Float64Array.of(-2, 0),
            samplingLogprobs: Float64Array.of(-3, -4),
          },
          { completionIds: Int32Array.of(5), finished: true, reward: null },
        ],
      },
      {
        group: -7,
        promptIds: Int32Array.of(1, 2),
        promptText: "1+1=",
        completions: [{ completionIds: Int32Array.of(3, 4), finished: true, reward: 1, text: "2" }],
      },
    ]);
  });

  test("blank lines, CRLF, a byte order mark, no newline at the end, unknown keys", async () => {
    const groups = await read(`\uFEFF${line({ extra: [1] })}\r\n\r\n\n${line({ group: 1 })}`);
    expect(groups.map(({ group }) => group)).toEqual([0, 1]);
  });

  test("gzip, larger than a chunk of the stream, with lines and characters across chunks", async () => {
    const text = "π≈3.14159 ".repeat(40);
    const lines = Array.from({ length: 3000 }, (_, i) => line({ group: i >> 2, completion: `${i}${text}` }));
    const content = `${lines.join("\n")}\n`;
    expect(Buffer.byteLength(content)).toBeGreaterThan(1 << 20);
    for (const path of [file(content), file(gzipSync(content), "rollouts.jsonl.gz")]) {
      const groups = await readRollouts(path, { vocabSize: 100 });
      expect(groups).toHaveLength(750);
      expect(groups.flatMap(({ completions }) => completions.map((completion) => completion.text))).toEqual(
        lines.map((_, i) => `${i}${text}`),
      );
    }
  });

  test("streamRollouts yields a group before it reads the next, and may be abandoned", async () => {
    const path = file(`${line()}\n${line({ group: 1 })}\n{broken\n`);
    for await (const { group } of streamRollouts(path, { vocabSize: 100 })) {
      expect(group).toBe(0);
      break;
    }
    await expect(readRollouts(path, { vocabSize: 100 })).rejects.toThrow(`${path}:3: not JSON`);
  });

  test("score's input needs no rewards", async () => {
    const [group] = await read(line({ reward: undefined }), { requireReward: false });
    expect(group!.completions[0]!.reward).toBeNull();
  });
});

describe("refusals, with their line and the cure", () => {
  const cases: [string, string, RegExp][] = [
    ["not JSON", `${line()}\n{"group": 0,`, /:2: not JSON \(.*\); write one whole JSON object per line$/],
    ["NaN", line().replace("1}", "NaN}"), /:1: not JSON .*NaN and Infinity are not JSON/],
    [
      "no end of brackets",
      line().replace('"group"', `"x":${"[".repeat(50_000)}${"]".repeat(50_000)},"group"`),
      /:1: nested without end/,
    ],
    ["not an object", "[1]", /:1: not a JSON object/],
    ["null", "null", /:1: not a JSON object/],
    ["no group", line({ group: undefined }), /:1: has no "group"/],
    ["no prompt", line({ prompt_ids: undefined }), /:1: has no "prompt_ids"/],
    ["no completion", line({ completion_ids: undefined }), /:1: has no "completion_ids"/],
    ["no reward", line({ reward: undefined }), /:1: has no "reward"; give a number, or null/],
    ["a group that is not an integer", line({ group: "a" }), /:1: "group" is "a"; give an integer/],
    [
      "an id that is not an integer",
      line({ completion_ids: [1, 2.5] }),
      /:1: "completion_ids"\[1\] is 2.5; token ids are integers/,
    ],
    ["a negative id", line({ prompt_ids: [-1] }), /:1: "prompt_ids"\[0\] is -1/],
    ["an id as text", line({ prompt_ids: ["7"] }), /:1: "prompt_ids"\[0\] is "7"/],
    [
      "an id beyond the vocabulary",
      line({ completion_ids: [3, 100] }),
      /:1: "completion_ids"\[1\] is 100, and the model has ids from 0 to 99/,
    ],
    ["ids that are not an array", line({ prompt_ids: "abc" }), /:1: "prompt_ids" is "abc"; give an array/],
    ["an empty completion", line({ completion_ids: [] }), /:1: "completion_ids" is empty/],
    ["an empty prompt", line({ prompt_ids: [] }), /:1: "prompt_ids" is empty/],
    ["finished as a number", line({ finished: 1 }), /:1: "finished" is 1; give true or false/],
    ["a reward as text", line({ reward: "1" }), /:1: "reward" is "1"/],
    ["a reward beyond all floats", line().replace(":1}", ":1e999}"), /:1: "reward" is Infinity/],
    ["logprobs of another length", line({ old_logprobs: [-1] }), /:1: "old_logprobs" has 1 numbers for 2 tokens/],
    ["logprobs that are not an array", line({ ref_logprobs: -1 }), /:1: "ref_logprobs" is -1; give an array/],
    [
      "a logprob that is null",
      line({ sampling_logprobs: [-1, null] }),
      /:1: "sampling_logprobs"\[1\] is null; give a finite number/,
    ],
    ["a logprob beyond 32-bit floats", line({ old_logprobs: [-1, -1e39] }), /:1: "old_logprobs"\[1\] is -1e\+39/],
    ["a group in two places", [line(), line({ group: 1 }), line()].join("\n"), /:3: group 0 has lines further up too/],
    ["two prompts in a group", `${line()}\n\n${line({ prompt_ids: [1, 3] })}`, /:3: "prompt_ids" differ .* of group 0/],
    ["a longer prompt in a group", `${line()}\n${line({ prompt_ids: [1, 2, 3] })}`, /:2: "prompt_ids" differ/],
    ["an empty file", "\n\n", /: has no rollouts/],
  ];
  for (const [name, content, message] of cases) {
    test(name, async () => {
      const failure = await read(content).then(
        () => null,
        (error: unknown) => error,
      );
      expect(failure).toBeInstanceOf(InputError);
      expect((failure as InputError).message).toMatch(message);
      expect((failure as InputError).message).not.toContain("\n");
    });
  }

  const unreadable: [string, () => string, RegExp][] = [
    ["no such file", () => join(folder, "none.jsonl"), /none\.jsonl: there is no such file/],
    ["no such gzip file", () => join(folder, "none.jsonl.gz"), /there is no such file/],
    ["a folder", () => folder, /is a folder/],
    ["not UTF-8", () => file(Uint8Array.of(0x22, 0xff, 0xfe)), /is not UTF-8 text/],
    ["gzip without .gz", () => file(gzipSync(line())), /is not UTF-8 text; a gzip file needs a name that ends in \.gz/],
    [
      "a torn gzip file",
      () => file(gzipSync(line().repeat(9)).subarray(0, 40), "torn.gz"),
      /is not a complete gzip file/,
    ],
    [".gz that is not gzip", () => file(line(), "plain.gz"), /is not a complete gzip file/],
    ["a character cut in two at the end", () => file(Uint8Array.of(0x20, 0xcf)), /is not UTF-8 text/],
  ];
  for (const [name, path, message] of unreadable) {
    test(name, async () => {
      const failure = await readRollouts(path(), { vocabSize: 100 }).catch((error: unknown) => error);
      expect(failure).toBeInstanceOf(InputError);
      expect((failure as InputError).message).toMatch(message);
    });
  }
});

describe("formatRollout", () => {
  test("details of the tokens are written short, and read by nobody here", async () => {
    const group = { group: 0, promptIds: Int32Array.of(1) };
    const completion = { completionIds: Int32Array.of(3, 4), finished: true, reward: 1, text: "ab" };
    const details = {
      ...{ verdict: "equal", advantage: -1 / 3, ends: [1, 2] },
      ...{ entropies: Float32Array.of(0.123456, 2), refLogprobs: null },
    };
    const text = formatRollout(group, { ...completion, details });
    expect(JSON.parse(text).details).toEqual({
      ...{ verdict: "equal", advantage: -0.333333, ends: [1, 2], entropies: [0.1235, 2] },
    });
    const [again] = await read(text);
    expect(again).toEqual((await read(formatRollout(group, completion)))[0]!);
  });
  test("a written file reads back the same, logprobs to the bit as 32-bit floats", async () => {
    const floats = Float64Array.from(
      [-0.1, -5.702455, -1e-7, -16777217, -3.4e38, -1e-45, 0, -1.1754943508222875e-38, -Math.LN2],
      Math.fround,
    );
    const random = Float64Array.from({ length: 500 }, (_, i) =>
      Math.fround(-Math.abs(Math.sin(i + 1) * 10 ** ((i % 13) - 9))),
    );
    const group: RolloutGroup = {
      group: 3,
      promptIds: Int32Array.of(9, 8),
      promptText: 'a "quoted"\nline\u2028π',
      completions: [
        {
          completionIds: new Int32Array(floats.length).fill(7),
          finished: true,
          reward: 0.1 + 0.2,
          oldLogprobs: floats,
        },
        {
          completionIds: new Int32Array(500),
          finished: false,
          reward: null,
          refLogprobs: random,
          samplingLogprobs: random,
          text: "x",
        },
      ],
    };
    const lines = group.completions.map((completion) => formatRollout(group, completion));
    for (const text of lines) expect(text).not.toContain("\n");
    expect(await read(lines.join("\n"))).toEqual([group]);
    expect(lines[0]).toContain('"old_logprobs":[-0.1,-5.702455,-1e-7,');
  });

  test("numbers that JSON lacks are refused", () => {
    const group = { group: 0, promptIds: Int32Array.of(1) };
    const completion = { completionIds: Int32Array.of(1), finished: true, reward: 1 };
    expect(() => formatRollout(group, { ...completion, reward: Number.NaN })).toThrow(RangeError);
    expect(() => formatRollout(group, { ...completion, oldLogprobs: Float64Array.of(-Infinity) })).toThrow(RangeError);
  });
});
