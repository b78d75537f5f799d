/** Presets and benchmarks: each one loads in every command that supports it, by name and as a file, and matches its source. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { benchmarkNames, benchmarks } from "../../src/config/benchmarks.ts";
import { configFor } from "../../src/config/load.ts";
import { toCamel } from "../../src/config/names.ts";
import { generationKeys, presetNames, presets, rewardKeys } from "../../src/config/presets.ts";
import { settingsOf } from "../../src/config/schema.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const root = join(import.meta.dir, "../..");
const fileOf = (kind: string, name: string) => join(root, `src/config/${kind}/${name}.toml`);
const filesOf = (kind: string) =>
  readdirSync(join(root, "src/config", kind))
    .map((name) => basename(name, ".toml"))
    .sort();

const folder = mkdtempSync(join(tmpdir(), "grpo-presets-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Small enough for the bundled model. */
const small = [
  ...["--max_completion_length", "48", "--num_generations", "8"],
  ...["--per_device_train_batch_size", "16", "--steps_per_generation", "1", "--warmup_steps", "0"],
];

async function planned(...argv: string[]) {
  const run = Bun.spawn([process.execPath, join(root, "src/cli/main.ts"), "plan", ...argv, "--device", "cpu"], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err] = await Promise.all([new Response(run.stdout).text(), new Response(run.stderr).text()]);
  return { code: await run.exited, out, err };
}

describe("presets", () => {
  test("each file is a preset and each preset a file", () => {
    expect(filesOf("presets")).toEqual([...presetNames].sort());
  });

  for (const name of presetNames) {
    test(`${name}: every key is a setting and consistent with the rest`, () => {
      const { config, warnings } = configFor("train", ["--preset", name]);
      for (const [key, value] of Object.entries(presets[name])) {
        expect(Object.keys(settingsOf("train"))).toContain(key);
        expect(config[toCamel(key) as keyof typeof config] as unknown).toEqual(value);
      }
      expect(config.preset).toBe(name);
      expect(warnings).toEqual([]);
    });

    test(`${name}: the file alone is the same configuration`, () => {
      const asFile = configFor("train", [fileOf("presets", name)]);
      const asName = configFor("train", ["--preset", name]).config;
      expect<typeof asName>({ ...asFile.config, preset: name }).toEqual(asName);
      expect(asFile.warnings).toEqual([]);
    });

    test(`${name}: names its source`, () => {
      const text = readFileSync(fileOf("presets", name), "utf8");
      expect(text.slice(0, text.search(/^[^#]/m))).toMatch(
        /arXiv \d{4}\.\d{5}|^# (TRL|verl|OpenRLHF) \d+\.\d+'s defaults/,
      );
    });

    test(`${name}: the bundled model's memory is planned with it`, async () => {
      const { code, out, err } = await planned("--preset", name, ...small);
      expect({ code, err }).toEqual({ code: 0, err: "" });
      expect(out).toContain("16 completions a step");
      expect(out).toMatch(/^free on this machine .* fits$/m);
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

  test("dapo clips higher, samples dynamically and punishes length; 512 prompts a generation in 16 steps", () => {
    const { config } = configFor("train", ["--preset", "dapo"]);
    expect(config).toMatchObject({ epsilon: 0.2, epsilonHigh: 0.28, beta: 0, dynamicSampling: true });
    expect(config).toMatchObject({ rewardFuncs: ["auto", "soft_overlong"], dynamicSamplingReward: "auto" });
    expect((config.perDeviceTrainBatchSize * config.stepsPerGeneration!) / config.numGenerations).toBe(512);
    expect(config.softPunishCache ?? config.maxCompletionLength / 5).toBe(4096);
  });

  test("choosing other rewards discards the preset's weights", () => {
    const { config } = configFor("train", ["--preset", "dapo", "--reward_funcs", "math"]);
    expect(config).toMatchObject({ rewardFuncs: ["math"], rewardWeights: null, dynamicSamplingReward: null });
  });

  test("gspo clips by sequence, cispo by a cap on the ratio", () => {
    expect(configFor("train", ["--preset", "gspo"]).config).toMatchObject({
      importanceSamplingLevel: "sequence",
      epsilon: 3e-4,
      epsilonHigh: 4e-4,
    });
    expect(configFor("train", ["--preset", "cispo"]).config).toMatchObject({ lossType: "cispo", epsilonHigh: 5 });
  });

  test("ppo, rloo and reinforce_plus_plus have their own estimators and the KL in the reward", () => {
    for (const [name, advantageEstimator] of [
      ["ppo", "gae"],
      ["rloo", "rloo"],
      ["reinforce_plus_plus", "reinforce_plus_plus"],
    ] as const)
      expect(configFor("train", ["--preset", name]).config).toMatchObject({ advantageEstimator, useKlInReward: true });
    expect(configFor("train", ["--preset", "ppo"]).config).toMatchObject({ lam: 0.95, vfCoef: 0.1, numIterations: 4 });
  });

  test("rloo clips the ratio of the whole answer, as TRL's RLOOTrainer does", () => {
    const { config } = configFor("train", ["--preset", "rloo"]);
    expect(config).toMatchObject({ importanceSamplingLevel: "sequence_product", lossType: "grpo", epsilon: 0.2 });
  });

  test("trl has the defaults of GRPOConfig", () => {
    const { config } = configFor("train", ["--preset", "trl"]);
    expect(config).toMatchObject({ lossType: "dapo", beta: 0, useBiasCorrectionKl: true, lrSchedulerType: "linear" });
    expect(config).toMatchObject({ numGenerations: 8, perDeviceTrainBatchSize: 8, numTrainEpochs: 3, maxSteps: null });
    expect(config).toMatchObject({ learningRate: 1e-6, maxCompletionLength: 512, temperature: 1, weightDecay: 0 });
  });

  test("verl and openrlhf take token means and a critic until an estimator is named", () => {
    const verl = configFor("train", ["--preset", "verl", "--advantage_estimator", "grpo", "--num_generations", "8"]);
    expect(verl.config).toMatchObject({ lossType: "dapo", delta: 3, beta: 0, weightDecay: 0.01 });
    expect(verl.warnings).toEqual([]);
    const { config } = configFor("train", ["--preset", "openrlhf"]);
    expect(config).toMatchObject({ lossType: "dapo", advantageEstimator: "gae", adamBeta2: 0.95, useKlInReward: true });
  });

  test("flags override the file, the file the preset", () => {
    const path = join(folder, "run.toml");
    writeFileSync(path, 'preset = "gspo"\nepsilon = 0.5\nbeta = 0.5\n');
    const { config } = configFor("train", [path, "--beta", "0.25"]);
    expect(config).toMatchObject({ beta: 0.25, epsilon: 0.5, epsilonHigh: 4e-4 });
  });

  test("names that depend on a command or on the rewards are settings", () => {
    for (const key of [...generationKeys, ...rewardKeys]) expect(Object.keys(settingsOf("train"))).toContain(key);
  });
});

describe("benchmarks", () => {
  test("each file is a benchmark and each benchmark a file", () => {
    expect(filesOf("benchmarks")).toEqual([...benchmarkNames].sort());
  });

  for (const name of benchmarkNames) {
    test(`${name}: every key is a setting of eval, answers are greedy, and a file replaces the hub`, () => {
      const { config, warnings } = configFor("eval", ["--benchmark", name]);
      for (const [key, value] of Object.entries(benchmarks[name])) {
        expect(Object.keys(settingsOf("eval"))).toContain(key);
        expect(config[toCamel(key) as keyof typeof config] as unknown).toEqual(value);
      }
      expect(config).toMatchObject({ temperature: 0, numGenerations: 1, datasetSplit: "test" });
      expect(config.systemPrompt).toContain("\\boxed{}");
      expect(warnings).toEqual([]);
      const local = configFor("eval", ["--benchmark", name, "--dataset", "test.jsonl", "--system_prompt", "null"]);
      expect(local.config).toEqual({ ...config, dataset: "test.jsonl", systemPrompt: null });
    });
  }
});
