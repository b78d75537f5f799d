/** Presets: each one loads in every command that has it, and sets what its paper states. */
import { describe, expect, test } from "bun:test";
import { configFor } from "../../src/config/load.ts";
import { toCamel } from "../../src/config/names.ts";
import { generationKeys, presetNames, presets } from "../../src/config/presets.ts";
import { settingsOf } from "../../src/config/schema.ts";

describe("presets", () => {
  for (const name of presetNames) {
    test(`${name}: every key is a setting and holds together with the rest`, () => {
      const { config, warnings } = configFor("train", ["--preset", name]);
      for (const [key, value] of Object.entries(presets[name])) {
        expect(Object.keys(settingsOf("train"))).toContain(key);
        expect(config[toCamel(key) as keyof typeof config] as unknown).toEqual(value);
      }
      expect(config.preset).toBe(name);
      expect(warnings).toEqual([]);
    });

    test(`${name}: for recorded rollouts it sets the loss and leaves the batch to the file`, () => {
      const { config } = configFor("update", ["--rollouts", "r.jsonl", "--preset", name]);
      const plain = configFor("update", ["--rollouts", "r.jsonl"]).config;
      expect(config).toMatchObject({ numGenerations: null, perDeviceTrainBatchSize: null, numIterations: 1 });
      expect(config.lossType).toBe(presets[name].loss_type as typeof config.lossType);
      expect(config.seed).toBe(plain.seed);
    });
  }

  test("deepseekmath is the paper's run: 16 questions with 64 answers of up to 1,024 tokens", () => {
    const { config } = configFor("train", ["--preset", "deepseekmath"]);
    expect(config.perDeviceTrainBatchSize / config.numGenerations).toBe(16);
    expect(config).toMatchObject({ beta: 0.04, learningRate: 1e-6, maxCompletionLength: 1024, epsilon: 0.2 });
  });

  test("dr_grpo divides neither by the deviation nor by the length", () => {
    expect(configFor("train", ["--preset", "dr_grpo"]).config).toMatchObject({
      lossType: "dr_grpo",
      scaleRewards: "none",
    });
  });

  test("dapo clips higher, gspo by sequence", () => {
    expect(configFor("train", ["--preset", "dapo"]).config).toMatchObject({ epsilon: 0.2, epsilonHigh: 0.28, beta: 0 });
    expect(configFor("train", ["--preset", "gspo"]).config).toMatchObject({
      importanceSamplingLevel: "sequence",
      epsilon: 3e-4,
      epsilonHigh: 4e-4,
    });
  });

  test("what says how much is generated is a setting", () => {
    for (const key of generationKeys) expect(Object.keys(settingsOf("train"))).toContain(key);
  });
});
