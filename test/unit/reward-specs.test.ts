/** The meaning of a name in reward_funcs, and the error if it has none. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { configFor } from "../../src/config/load.ts";
import { builtInRewards } from "../../src/config/reward-names.ts";
import { InputError } from "../../src/errors.ts";
import { needsGold, parseRewardSpec, rewardNames } from "../../src/rewards/specs.ts";

const folder = mkdtempSync(join(tmpdir(), "grpo-specs-"));
beforeAll(() => {
  mkdirSync(join(folder, "judge"));
  writeFileSync(join(folder, "judge/config.json"), "{}");
  mkdirSync(join(folder, "empty"));
  writeFileSync(join(folder, "brevity.ts"), "");
  writeFileSync(join(folder, "plain"), "");
});
afterAll(() => rmSync(folder, { recursive: true }));

function refusal(name: string): string {
  try {
    parseRewardSpec(name);
  } catch (error) {
    expect(error).toBeInstanceOf(InputError);
    return (error as Error).message;
  }
  throw new Error(`${name} was taken`);
}

test("built-ins by their own names", () => {
  for (const name of builtInRewards) expect(parseRewardSpec(name)).toBe(name);
});

test.each([
  ["accuracy_reward", "accuracy"],
  ["reasoning_accuracy_reward", "reasoning_accuracy"],
  ["think_format_reward", "think_format"],
  ["soft_overlong_punishment", "soft_overlong"],
  ["get_cosine_scaled_reward", "cosine"],
  ["get_repetition_penalty_reward", "repetition"],
  ["repetition_penalty", "repetition"],
] as const)("TRL's or open-r1's %s is %s, in settings too", (theirs, ours) => {
  expect(parseRewardSpec(theirs)).toBe(ours);
  const { config } = configFor("train", ["--reward_funcs", `gsm8k,${theirs}`, "--dynamic_sampling_reward", theirs]);
  expect(config).toMatchObject({ rewardFuncs: ["gsm8k", ours], dynamicSamplingReward: ours });
});

test.each(["a.ts", "./x/a.mts", "/y/a.js", "a.mjs", "org/name.ts", "math.ts"])("%s is a module", (path) => {
  expect(parseRewardSpec(path)).toEqual({ path });
});

test("a folder with a config.json, or owner/name, is a reward model", () => {
  const local = join(folder, "judge");
  expect(parseRewardSpec(local)).toEqual({ model: local });
  for (const id of ["Skywork/Skywork-Reward-V2-Qwen3-0.6B", "org/name", "o.r-g_1/Llama-3.1-8B"]) {
    expect(parseRewardSpec(id)).toEqual({ model: id });
  }
});

describe("names that are none of the three", () => {
  test.each([
    ["gsm8", "did you mean gsm8k?"],
    ["acuracy", "did you mean accuracy?"],
    ["think_fromat", "did you mean think_format?"],
    ["soft_overlon", "did you mean soft_overlong?"],
    ["bleu-rouge-all", "there are gsm8k, math, auto, accuracy"],
    ["judge.py", "is not a TypeScript or JavaScript module"],
    ["org/weights.safetensors", "is not a TypeScript or JavaScript module"],
    ["./no/such/folder", "is not a built-in reward, module (.ts) or reward model"],
  ])("%s", (name, said) => {
    const message = refusal(name);
    expect(message).toStartWith(`reward_funcs: ${name} `);
    expect(message).toContain(said);
    expect(message).not.toContain("\n");
  });

  test("existing files and folders", () => {
    expect(refusal(join(folder, "empty"))).toContain("is a folder without a config.json");
    expect(refusal(join(folder, "plain"))).toContain("is not a TypeScript or JavaScript module");
    expect(refusal(join(folder, "brevity"))).toContain(`did you mean ${join(folder, "brevity.ts")}?`);
  });
});

test("names for metrics: the last part, numbered if it is taken", () => {
  expect(
    rewardNames(["math", { path: "a/math.ts" }, { model: "org/judge" }, { model: "x/judge" }, { path: "b.v2.mts" }]),
  ).toEqual(["math", "math_2", "judge", "judge_2", "b.v2"]);
});

test("which ones need a right answer to compare with", () => {
  expect(builtInRewards.filter(needsGold)).toEqual([
    ...(["gsm8k", "math", "auto", "accuracy", "reasoning_accuracy", "cosine", "length"] as const),
  ]);
  expect([{ path: "a.ts" }, { model: "a/b" }].filter(needsGold)).toEqual([]);
});

describe("settings of the built-ins", () => {
  test("an unused one is remarked on", () => {
    const remarks = (argv: string[]) => configFor("train", argv).warnings;
    expect(remarks(["--cosine_max_len", "9"])).toEqual(["cosine_max_len is not used: reward_funcs has no cosine"]);
    expect(remarks(["--reward_funcs", "gsm8k,cosine", "--soft_punish_cache", "9"])).toEqual([
      "soft_punish_cache is not used: reward_funcs has no soft_overlong",
    ]);
    const all = ["--reward_funcs", "cosine,repetition_penalty,get_soft_overlong_punishment"];
    expect(remarks([...all, "--cosine_max_len", "9", "--repetition_n_grams", "2", "--soft_punish_cache", "9"])).toEqual(
      [],
    );
  });

  test("ranges, and a cache longer than a completion", () => {
    const train = (key: string, value: string) => () => configFor("train", [`--${key}`, value]);
    expect(train("repetition_max_penalty", "1")).toThrow("repetition_max_penalty");
    expect(train("repetition_n_grams", "0")).toThrow("repetition_n_grams");
    expect(train("soft_punish_cache", "600")).toThrow("soft_punish_cache 600: exceeds max_completion_length 512");
  });
});
