/** Settings: both spellings, sources and their order, refusals, checks across settings, help, and the stored record. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { allowed, unwrap } from "../../src/config/allowed.ts";
import { describeSettings } from "../../src/config/help.ts";
import { configFor, configFrom } from "../../src/config/load.ts";
import { toCamel, toSnake } from "../../src/config/names.ts";
import { editDistance, nearest } from "../../src/config/nearest.ts";
import { everySteps } from "../../src/config/often.ts";
import { configDifferences, freeOnResume, toJson } from "../../src/config/record.ts";
import { type CommandName, commandSections, settingsOf } from "../../src/config/schema.ts";
import { InputError } from "../../src/errors.ts";

const folder = mkdtempSync(join(tmpdir(), "grpo-config-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const commands = Object.keys(commandSections) as CommandName[];
const required: Partial<Record<CommandName, string[]>> = {
  score: ["--input", "a.jsonl", "--output", "b.jsonl"],
  update: ["--rollouts", "r.jsonl"],
  generate: ["--prompt", "hello"],
};

function tomlFile(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

function refusal(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(InputError);
    const { message } = error as Error;
    expect(message).not.toContain("\n");
    return message;
  }
  throw new Error("nothing was refused");
}

describe("the schema", () => {
  for (const command of commands) {
    test(`${command}: every setting is described, allows its default, and has one spelling each way`, () => {
      for (const [key, setting] of Object.entries(settingsOf(command))) {
        expect(key).toMatch(/^[a-z][a-z0-9]*(_\d*[a-z][a-z0-9]*)*$/);
        expect(toSnake(toCamel(key))).toBe(key);
        expect((setting.description ?? "").length).toBeGreaterThan(10);
        expect(allowed(setting).length).toBeGreaterThan(3);
        const { required: needed, fallback } = unwrap(setting);
        if (!needed) expect(setting.parse(undefined)).toEqual(fallback);
      }
    });

    test(`${command}: no setting is in two sections`, () => {
      const keys = Object.values(commandSections[command]).flatMap((section) => Object.keys(section));
      expect(keys).toHaveLength(new Set(keys).size);
    });

    test(`${command}: the arguments that are required are enough`, () => {
      const { config, warnings, given } = configFor(command, required[command] ?? []);
      expect(Object.keys(config).sort()).toEqual(Object.keys(settingsOf(command)).map(toCamel).sort());
      expect(warnings).toEqual([]);
      expect(given.size).toBe((required[command]?.length ?? 0) / 2);
    });
  }

  test("defaults are the paper's", () => {
    const { config } = configFor("train", []);
    expect(config).toMatchObject({
      learningRate: 1e-6,
      adamBeta1: 0.9,
      adamBeta2: 0.999,
      adamEpsilon: 1e-8,
      weightDecay: 0,
      maxGradNorm: 1,
      numGenerations: 16,
      maxCompletionLength: 512,
      lossType: "grpo",
      beta: 0.04,
      epsilon: 0.2,
      epsilonHigh: null,
      delta: null,
      scaleRewards: "group",
      useBiasCorrectionKl: false,
      klEstimator: "k3",
      lrSchedulerType: "constant",
      importanceSamplingCorrection: false,
      temperature: 1,
      seed: 42,
    });
  });

  test("commands have different defaults if their work differs", () => {
    expect(configFor("sft", []).config.learningRate).toBe(2e-5);
    expect(configFor("eval", []).config).toMatchObject({ temperature: 0, numGenerations: 1, datasetSplit: "test" });
    expect(configFor("update", ["--rollouts", "r"]).config.numGenerations).toBeNull();
    const planOnly = { compare: false, fit: false, memory: null };
    expect(configFor("plan", []).config).toEqual({ ...configFor("train", []).config, ...planOnly });
  });
});

describe("stop strings and generation_kwargs", () => {
  test("a flag is one literal string, or a JSON list; TOML and TypeScript have both forms", () => {
    const stop = (...argv: string[]) => configFor("generate", ["--prompt", "p", ...argv]).config.stop;
    expect(stop()).toBeNull();
    expect(stop("--stop", " a, b ")).toEqual([" a, b "]);
    expect(stop("--stop_strings", '["\\n\\n","###"]')).toEqual(["\n\n", "###"]);
    const file = tomlFile("stop.toml", 'stop = "\\n, "\n');
    expect(configFor("train", [file]).config.stop).toEqual(["\n, "]);
    expect(configFor("sft", ["--stop", "</a>"]).config.stop).toEqual(["</a>"]);
    expect(refusal(() => configFor("eval", ["--stop", ""]))).toBe(
      '--stop [""]: must be non-empty text of whole characters, or a list of such texts, or null',
    );
    expect(configFor("eval", ["--stop", "\\n"]).warnings).toEqual([
      'stop "\\\\n": taken literally, a backslash and a letter; for a line break use a JSON list, \'["\\n"]\'',
    ]);
  });

  test("each key maps to the setting with its meaning, in every source; flags override the file's", () => {
    const file = tomlFile(
      "kwargs.toml",
      'temperature = 0.7\n[generation_kwargs]\ntop_k = 40\nmax_new_tokens = 64\nstop_strings = ["</answer>"]\ntemperature = 0.7\nuse_cache = true\nmin_p = 0.1\n',
    );
    const expected = { topK: 40, maxCompletionLength: 64, stop: ["</answer>"], temperature: 0.7, minP: 0.1 };
    expect(configFor("train", [file]).config).toMatchObject({ ...expected, generationKwargs: {} });
    const flags = ["--top_k", "5", "--generation_kwargs", '{"min_p": 0.2, "top_p": null, "do_sample": true}'];
    expect(configFor("train", [file, ...flags]).config).toMatchObject({ ...expected, topK: 5, minP: 0.2, topP: 1 });
    expect(configFrom("eval", { generationKwargs: { stop: "x" } }).config.stop).toEqual(["x"]);
  });

  test.each([
    ['{"stop_strngs": ["a"]}', /^--generation_kwargs: stop_strngs \["a"\]: not supported; there are temperature, /],
    ['{"do_sample": false}', "--generation_kwargs: do_sample false: not supported; use temperature 0"],
    ['{"seed": 3}', "--generation_kwargs: seed 3: not supported; use the setting seed"],
    ['{"top_p": 2}', "--generation_kwargs: top_p 2: must be a number > 0 and ≤ 1"],
    ["[1]", '--generation_kwargs: must be an object such as {"top_k": 50'],
    ["{", "--generation_kwargs {: not JSON"],
    ['{"top_k": 3}', "--top_k 4 and --generation_kwargs: top_k 3: leave one of them out"],
  ])("%s is refused by name", (text, message) => {
    const text2 = refusal(() => configFor("train", ["--top_k", "4", "--generation_kwargs", text]));
    if (typeof message === "string") expect(text2).toStartWith(message);
    else expect(text2).toMatch(message);
  });
});

test("gpus is short for ranks on GPUs", () => {
  expect(configFor("train", ["--gpus", "2"]).config).toMatchObject({ ranks: 2, device: "cuda" });
  expect(configFrom("eval", { gpus: 4 } as object).config).toMatchObject({ ranks: 4, device: "cuda" });
  expect(() => configFor("train", ["--gpus", "0"])).toThrow("--gpus 0: must be a whole number ≥ 1");
  expect(() => configFor("train", ["--gpus", "2", "--ranks", "3"])).toThrow(
    "--gpus 2 and --ranks 3: leave one of them out",
  );
  expect(() => configFor("train", ["--gpus", "2", "--device", "cpu"])).toThrow("leave one of them out");
});

describe("sources", () => {
  test("flags override the file, the file the preset, the preset the caller's and the schema's defaults", () => {
    const file = tomlFile("order.toml", 'preset = "deepseekmath"\nbeta = 0.5\nepsilon = 0.3\n');
    const loaded = configFor("train", [file, "--beta", "0.25"], {
      defaults: { epsilon: 0.9, seed: 7, numGenerations: 2 },
    });
    expect(loaded.config).toMatchObject({ beta: 0.25, epsilon: 0.3, numGenerations: 64, seed: 7, topK: 0 });
    expect([...loaded.given].sort()).toEqual(["beta", "epsilon", "preset"]);
    expect(loaded.file).toBe(file);
  });

  test("the TypeScript API takes camelCase, and says so if it gets snake_case", () => {
    expect(configFrom("train", { numGenerations: 8, rewardFuncs: ["math"], maxSteps: 3 }).config).toMatchObject({
      numGenerations: 8,
      rewardFuncs: ["math"],
      maxSteps: 3,
    });
    const loose = { num_generations: 8 } as object;
    expect(refusal(() => configFrom("train", loose))).toBe("num_generations: is written numGenerations in TypeScript");
    const mistyped = { numGeneration: 8 } as object;
    expect(refusal(() => configFrom("train", mistyped))).toContain("did you mean numGenerations?");
  });

  test("TOML values keep their types; a number in quotes is refused", () => {
    const file = tomlFile("types.toml", 'learning_rate = "1e-5"\n');
    expect(refusal(() => configFor("train", [file]))).toBe(`${file}:1: learning_rate "1e-5": must be a number ≥ 0`);
    const good = tomlFile(
      "good.toml",
      'reward_funcs = ["gsm8k", "r.ts"]\nreward_weights = [1, 0.5]\nepsilon_high = "null"\n[chat_template_kwargs]\nenable_thinking = false\n',
    );
    expect(configFor("train", [good]).config).toMatchObject({
      rewardFuncs: ["gsm8k", "r.ts"],
      rewardWeights: [1, 0.5],
      epsilonHigh: null,
      chatTemplateKwargs: { enable_thinking: false },
    });
    expect(configFor("train", [tomlFile("one.toml", 'reward_funcs = "math"\n')]).config.rewardFuncs).toEqual(["math"]);
  });

  test("a broken file is refused with its line", () => {
    const file = tomlFile("broken.toml", "seed = 1\n\n# remark\nbeta = = 2\nepsilon = 1\n");
    expect(refusal(() => configFor("train", [file]))).toStartWith(`${file}:4: `);
    const twice = tomlFile("twice.toml", "seed = 1\nbeta = 1\nseed = 2\n");
    expect(refusal(() => configFor("train", [twice]))).toStartWith(`${twice}:3: Cannot redefine key 'seed'`);
    expect(refusal(() => configFor("train", [join(folder, "none.toml")]))).toContain("no such file");
    expect(refusal(() => configFor("train", [tomlFile("dir.toml", "[loss]\nbeta = 1\n")]))).toContain(
      "loss: is a table; settings are flat keys",
    );
    const good = tomlFile("one-of-two.toml", "seed = 1\n");
    expect(refusal(() => configFor("train", [tomlFile("proto.toml", "__proto__ = 3\n")]))).toContain("unknown setting");
    expect(refusal(() => configFor("train", [tomlFile("inf.toml", "beta = inf\n")]))).toContain(
      "beta Infinity: must be",
    );
    expect(refusal(() => configFor("train", [good, good]))).toContain("only one configuration file");
    expect(() => configFor("generate", ["Hello there"])).toThrow('"Hello there" is neither a setting');
  });
});

describe("refusals", () => {
  const cases: readonly (readonly [argv: string[], message: string])[] = [
    [["--num_generation", "8"], "--num_generation: unknown setting; did you mean --num_generations?"],
    [["--learnign-rate", "1"], "--learnign-rate: unknown setting; did you mean --learning_rate?"],
    [["--xyzzy"], "--xyzzy: unknown setting; see grpo train --help"],
    [["--__proto__", "1"], "--__proto__: unknown setting; see grpo train --help"],
    [["--constructor=1"], "--constructor: unknown setting; see grpo train --help"],
    [["--num_generations", "eight"], '--num_generations "eight": must be a whole number ≥ 1'],
    [["--num_generations", "2.5"], "--num_generations 2.5: must be a whole number ≥ 1"],
    [["--num_generations", "0"], "--num_generations 0: must be a whole number ≥ 1"],
    [["--num_generations", ""], '--num_generations "": must be a whole number ≥ 1'],
    [["--temperature", "0"], "--temperature 0: must be a number > 0 and ≤ 100"],
    [["--repetition_penalty", "1e-39"], "--repetition_penalty 1e-39: must be a number ≥ 0.01 and ≤ 100"],
    [["--repetition_penalty", "1e300"], "--repetition_penalty 1e+300: must be a number ≥ 0.01 and ≤ 100"],
    [["--beta", "-1"], "--beta -1: must be a number ≥ 0"],
    [["--beta", "NaN"], '--beta "NaN": must be a number ≥ 0'],
    [["--beta", "1e999"], "--beta Infinity: must be a number ≥ 0"],
    [["--device", "gpu"], '--device "gpu": must be one of auto, cpu, cuda, cuda:N'],
    [["--device", "cuda:x"], '--device "cuda:x": must be one of auto, cpu, cuda, cuda:N'],
    [["--overwrite=maybe"], '--overwrite "maybe": must be true or false'],
    [["--reward_weights", "1,x"], '--reward_weights [1,"x"]: must be a list (a,b,…), each a number, or null'],
    [["--model", ""], '--model "": must be non-empty text, or null'],
    [["--seed", "4294967296"], "--seed 4294967296: must be a whole number ≥ 0 and ≤ 4294967295"],
    [["--beta"], "--beta: the value is missing"],
    [["--beta", "--debug"], "--beta: the value is missing (if the value begins with dashes, write --beta=--debug)"],
    [["-b", "1"], "-b: settings take two dashes; try --help"],
    [["--max_length", "3"], "--max_length: a setting of sft, not of train"],
    [["--rollouts", "x"], "--rollouts: a setting of update, not of train"],
    [["--fp16"], "--fp16: not a setting here; use --dtype (float16 is not supported in training: float32 or bfloat16)"],
    [
      ["--dtype", "float16"],
      '--dtype "float16": must be one of float32, bfloat16, or null; float16 is not supported in training',
    ],
    [["--save_steps", "1.5"], "--save_steps 1.5: must be a whole number ≥ 0, or a share of all steps between 0 and 1"],
    [
      ["stray"],
      '"stray" is neither a setting (--key value) nor a configuration file (.toml, .yaml, .json); try --help',
    ],
  ];
  for (const [argv, message] of cases) {
    test(argv.join(" "), () => expect(refusal(() => configFor("train", argv))).toBe(message));
  }

  test("broken JSON names the flag and shows how it is quoted", () => {
    const message = refusal(() => configFor("train", ["--chat_template_kwargs", "{enable_thinking:false}"]));
    expect(message).toStartWith("--chat_template_kwargs {enable_thinking:false}: not JSON");
    expect(refusal(() => configFor("train", ["--chat_template_kwargs", "[1]"]))).toContain("must be an object");
  });

  test("a setting of another command is refused and this command named", () => {
    expect(refusal(() => configFor("eval", ["--learning_rate", "1"]))).toBe(
      "--learning_rate: a setting of train, plan, sft, update, not of eval",
    );
  });

  test("a setting without a default must be given", () => {
    expect(refusal(() => configFor("update", []))).toBe("--rollouts is required");
    expect(refusal(() => configFor("score", ["--input", "x"]))).toBe("--output is required");
    expect(refusal(() => configFor("generate", []))).toContain("--prompt TEXT or --input FILE.jsonl");
    expect(refusal(() => configFor("generate", ["--prompt", "a", "--input", "b"]))).toContain("only one of them");
  });

  test("a long value is shortened in the message", () => {
    expect(refusal(() => configFor("train", ["--device", "x".repeat(5000)])).length).toBeLessThan(200);
  });
});

test("properties that every object inherits are not table entries", () => {
  for (const [name, value, said] of [
    ["adv_estimator", "constructor", /--adv_estimator: .*there is no constructor estimator/],
    ["algo.advantage.estimator", "constructor", /--algo\.advantage\.estimator: .*--advantage_estimator/],
    [
      "generation_kwargs",
      '{"constructor":1}',
      /--generation_kwargs: constructor 1: not supported; there are temperature/,
    ],
    ["loss_type", "toString", /--loss_type "toString": must be one of [a-z_, ]+$/],
    ["dtype", "constructor", /--dtype "constructor": must be one of float32, bfloat16, or null$/],
    ["loss_agg_mode", "constructor", /--loss_agg_mode: not a setting here; use --loss_type \(/],
  ] as const)
    expect(() => configFor("train", [`--${name}`, value])).toThrow(said);
});

describe("names and values of TRL", () => {
  test("are accepted if they mean the same", () => {
    const { config } = configFor("train", [
      "--model_name_or_path=m",
      "--dataset_name=d",
      "--torch_dtype=bfloat16",
      "--vllm_importance_sampling_correction",
      "--vllm_importance_sampling_cap=2",
      "--scale_rewards=False",
      "--lr_scheduler_type=constant_with_warmup",
      "--max_steps=-1",
      "--top_k=-1",
      "--min_p=None",
      "--delta=None",
      "--resume_from_checkpoint=False",
      "--shuffle_dataset=True",
    ]);
    expect(config).toMatchObject({
      model: "m",
      dataset: "d",
      dtype: "bfloat16",
      importanceSamplingCorrection: true,
      importanceSamplingClipMax: 2,
      scaleRewards: "none",
      lrSchedulerType: "constant_with_warmup",
      maxSteps: null,
      topK: 0,
      minP: 0,
      delta: null,
      resumeFromCheckpoint: null,
      shuffleDataset: true,
    });
    const file = tomlFile("trl.toml", "scale_rewards = true\nmax_steps = -1\nresume_from_checkpoint = true\n");
    expect(configFor("train", [file]).config).toMatchObject({
      scaleRewards: "group",
      maxSteps: null,
      resumeFromCheckpoint: true,
    });
  });
});

describe("YAML and JSON", () => {
  const yaml = (name: string, text: string) => tomlFile(name, text);
  const load = (name: string, text: string, ...argv: string[]) => configFor("train", [yaml(name, text), ...argv]);

  test("are read like TOML, also with --config; a flag overrides them", () => {
    const text = [
      ...["# a recipe", "learning_rate: 1e-6", "beta: '4e-2'", "max_steps: 1_000", "mask_truncated_completions: yes"],
      ...[
        "shuffle_dataset: off",
        "reward_funcs:",
        "- math",
        "- format",
        "reward_weights: [1.0, 0.5]",
        "epsilon_high: ~",
      ],
      ...["chat_template_kwargs:", "  enable_thinking: false", "dataset: runs/2024-01-01", "system_prompt: |"],
      ...["  beta: 3", "  answer", "delta: None", "eval_num_generations: null", "save_steps: 0.25"],
    ].join("\n");
    const expected = {
      ...{ learningRate: 1e-6, beta: 0.04, maxSteps: 1000, maskTruncatedCompletions: true, shuffleDataset: false },
      ...{ rewardFuncs: ["math", "format"], rewardWeights: [1, 0.5], epsilonHigh: null, delta: null },
      ...{ chatTemplateKwargs: { enable_thinking: false }, dataset: "runs/2024-01-01", saveSteps: 0.25 },
      ...{ systemPrompt: "beta: 3\nanswer\n", evalNumGenerations: 1 },
    };
    expect(load("recipe.yaml", text).config).toMatchObject(expected);
    const windows = yaml("recipe.yml", `\uFEFF---\n${text}`.replaceAll("\n", "\r\n"));
    const { config, file } = configFor("train", ["--beta", "0", "--config", windows]);
    expect(config).toMatchObject({ ...expected, beta: 0 });
    expect(file).toBe(windows);
    const json = JSON.stringify({ learning_rate: "1e-6", reward_funcs: ["math"], max_steps: -1, delta: null }, null, 2);
    expect(configFor("train", [`--config=${yaml("recipe.json", json)}`]).config).toMatchObject({
      ...{ learningRate: 1e-6, rewardFuncs: ["math"], maxSteps: null, delta: null },
    });
    expect(load("empty.yaml", "# nothing\n").config).toEqual(configFor("train", []).config);
    expect(configFor("train", ["--debug", "", "--save_steps", "-1", "--eval_steps=-1"]).config).toMatchObject({
      saveSteps: 0,
      evalSteps: null,
    });
  });

  test("circular and endless values are refused by name, without a stack overflow", () => {
    const deep = (open: string, close: string) => open.repeat(3000) + close.repeat(3000);
    for (const [name, text] of [
      ["circle.yaml", "seed: 1\nmodel: &a\n  b: *a\n"],
      ["circle.yml", "seed: 1\nreward_funcs: &a [*a, *a, *a]\n"],
      ["deep.yaml", `seed: 1\nbeta: ${deep("[", "]")}\n`],
      ["deep.json", `{"seed": 1,\n"beta": ${deep("[", "]")}}`],
      ["deep.toml", `seed = 1\nbeta = ${deep("[", "]")}\n`],
    ] as const)
      expect(refusal(() => load(name, text))).toMatch(new RegExp(`${name.replace(".", "\\.")}:\\d+: .{1,200}$`));
    expect(refusal(() => load("few.yaml", "", "--chat_template_kwargs", deep('{"a":[', "]}")))).toBe(
      "--chat_template_kwargs: nested without end; write it in a few levels",
    );
    const long = `seed: 1\nbeta: ]\n${"# a remark\n".repeat(5000)}`;
    expect(refusal(() => load("long.yaml", long))).toMatch(/long\.yaml: Unexpected/);
  });

  test("every refusal names the line, and all of them come at once", () => {
    const file = join(folder, "wrong.yaml");
    const lines = ["beta: x", "", "num_generation: 8", "rewards:", "  beta: 1", "fp16: true", "num_generations: 2.5"];
    const told = () => load("wrong.yaml", lines.join("\n"), "--seed", "-1");
    expect(told).toThrow(
      [
        `${file}:1: beta "x": must be a number ≥ 0`,
        `${file}:3: num_generation: unknown setting; did you mean num_generations?`,
        `${file}:4: rewards: is a table; settings are flat keys without sections: move beta to the top level`,
        `${file}:6: fp16: not a setting here; use dtype (float16 is not supported in training: float32 or bfloat16)`,
        `${file}:7: num_generations 2.5: must be a whole number ≥ 1`,
        "--seed -1: must be a whole number ≥ 0 and ≤ 4294967295",
      ].join("\n"),
    );
    // A setting given by a flag is not read from the file.
    expect(load("override.yaml", "beta: x\n", "--beta", "0").config.beta).toBe(0);
  });

  const refused: readonly (readonly [name: string, text: string, message: string])[] = [
    ["twice.yaml", "beta: 1\nseed: 1\nbeta: 2\n", ":3: beta: also on line 1"],
    ["twice-quoted.yaml", "beta: 1\n'beta': 2\n", ":2: beta: also on line 1"],
    ["twice-within.yaml", "chat_template_kwargs:\n  a: 1\n  b: 2\n  a: 3\n", ":4: a: also on line 2"],
    ["alias.yaml", "dataset: a\ndataset_name: b\n", ":2: dataset_name: the same setting as "],
    ["broken.yaml", "seed: 1\nreward_funcs: [a\nbeta: 1\n", ":"],
    ["tab.yaml", "seed: 1\n\tbeta: 1\n", ":2: Tab characters"],
    ["list.yaml", "- a\n- b\n", ": has no settings"],
    ["two.yaml", "seed: 1\n---\nseed: 2\n", ":2: a second document begins here (---); keep one"],
    ["text.yaml", "just words", ": has no settings"],
    ["twice.json", '{"seed": 1,\n "beta": 2,\n "seed": 3}', ":3: seed: appears twice in the file"],
    ["broken.json", '{"seed": 1,', ": not JSON"],
    ["accelerate.yaml", "compute_environment: LOCAL_MACHINE\nnum_processes: 8\n", ": a configuration of accelerate"],
    ["ds.json", '{"zero_optimization": {"stage": 3}}', ": a configuration of DeepSpeed"],
    ["config.json", '{"architectures": ["Qwen3ForCausalLM"], "hidden_size": 8}', ": a model's config.json; give its"],
    ["none.yml", "", ": no such file"],
  ];
  for (const [name, text, message] of refused) {
    test(`${name} is refused`, () => {
      const file = name === "none.yml" ? join(folder, name) : yaml(name, text);
      expect(refusal(() => configFor("train", [file]))).toStartWith(`${file}${message}`);
    });
  }

  test("maps in lists, and multi-line strings, do not count as duplicate names", () => {
    const text = "datasets: []\nsystem_prompt: 'a\n  beta: 1\n  beta: 2'\nmodel_init_kwargs: {}\n";
    expect(load("lists.yaml", text).config.systemPrompt).toContain("beta: 1");
    expect(refusal(() => load("maps.yaml", "datasets:\n- path: a\n  split: b\n- path: c\n  split: d\n"))).toContain(
      "maps.yaml:1: datasets: not a setting here; use dataset (one dataset is trained on",
    );
  });
});

test("a share of all steps is rounded up", () => {
  const config = { saveSteps: 0.5, evalSteps: 0.1, loggingSteps: 10 };
  expect(everySteps(config, 9)).toEqual({ save: 5, eval: 1, logging: 10 });
  expect(everySteps({ saveSteps: 0, evalSteps: null, loggingSteps: 0.999 }, 7)).toEqual({
    save: 0,
    eval: null,
    logging: 7,
  });
});

describe("combinations of settings", () => {
  const refused: readonly (readonly [argv: string[], part: string])[] = [
    [
      ["--num_generations", "12"],
      "= 64 completions per generation is not a multiple of num_generations 12; choose a product of 60 or 72",
    ],
    [["--num_generations", "100"], "choose a product of 100"],
    [
      ["--steps_per_generation", "3", "--gradient_accumulation_steps", "2"],
      "not a multiple of gradient_accumulation_steps 2; the weights change once per step, so a generation must serve whole steps; use 4",
    ],
    [
      ["--steps_per_generation", "2", "--gradient_accumulation_steps", "8"],
      "use 8: the generations of a step become one, sampled by the same weights",
    ],
    [["--delta", "1.2"], "greater than 1 + epsilon = 1.2"],
    [["--reward_funcs", "gsm8k", "--reward_weights", "1,2"], "2 weights for 1 reward_funcs"],
    [["--reward_weights", "1,2"], "2 weights for 1 reward_funcs (the default one)"],
    [["--reward_funcs", "math,math"], "math is listed twice"],
    [["--overwrite", "--resume_from_checkpoint"], "use only one of them"],
  ];
  for (const [argv, part] of refused) {
    test(`${argv.join(" ")} is refused`, () => expect(refusal(() => configFor("train", argv))).toContain(part));
  }

  const remarked: readonly (readonly [argv: string[], part: string])[] = [
    [["--num_generations", "1"], "every advantage is 0"],
    [["--num_generations", "4"], "noisy baseline"],
    [["--loss_type", "cispo"], "caps the ratio itself at epsilon_high, here 0.2"],
    [["--loss_type", "luspo"], "importance_sampling_level sequence"],
    [["--beta", "0", "--ref_model", "r"], "ref_model is not used"],
    [["--warmup_steps", "5", "--warmup_ratio", "0.1", "--lr_scheduler_type", "linear"], "warmup_ratio 0.1 is not used"],
    [["--warmup_steps", "5"], "lr_scheduler_type constant has no warm-up; use constant_with_warmup"],
    [["--warmup_steps", "5", "--max_steps", "5", "--lr_scheduler_type", "linear"], "never reaches its peak"],
    [["--dataset", "d", "--eval_steps", "5"], "there is no eval_dataset"],
    [["--importance_sampling_mode", "token_mask"], "importance_sampling_correction is false"],
    [["--epsilon", "3e-4"], "suits sequence ratios (GSPO)"],
    [["--importance_sampling_level", "sequence"], "nothing is clipped; GSPO uses 3e-4"],
    [["--advantage_estimator", "rloo", "--scale_rewards", "none"], "scale_rewards is not used"],
    [["--gamma", "0.9"], "gamma is not used"],
    [["--lam", "0.9"], "lam is not used: advantage_estimator grpo has no critic"],
    [["--use_kl_in_reward", "--beta", "0"], "use_kl_in_reward changes nothing"],
    [["--use_kl_in_reward", "--kl_estimator", "k2"], "kl_estimator is not used"],
    [["--kl_in_reward_estimator", "k2"], "use_kl_in_reward is false"],
    [["--entropy_target", "0.4"], "use_adaptive_entropy is false"],
  ];
  for (const [argv, part] of remarked) {
    test(`${argv.join(" ")} is remarked on`, () => {
      const { warnings } = configFor("train", argv);
      expect(warnings).toHaveLength(1);
      expect(warnings[0]).toContain(part);
    });
  }

  test("no remark if the setting is right", () => {
    expect(configFor("train", ["--loss_type", "cispo", "--epsilon_high", "5"]).warnings).toEqual([]);
    expect(configFor("train", ["--delta", "1.25", "--num_generations", "8"]).warnings).toEqual([]);
    expect(configFor("update", ["--rollouts", "r", "--num_generations", "5"]).warnings).toEqual([]);
    const sequence = ["--importance_sampling_level", "sequence", "--epsilon", "3e-4", "--epsilon_high", "4e-4"];
    expect(configFor("train", sequence).warnings).toEqual([]);
    // One completion per prompt is fine if the group is not the baseline.
    const ppo = ["--advantage_estimator", "gae", "--use_kl_in_reward", "--lam", "0.9", "--num_generations", "1"];
    expect(configFor("train", ppo).warnings).toEqual([]);
    expect(configFor("train", ["--use_adaptive_entropy", "--entropy_target", "0.4"]).warnings).toEqual([]);
  });

  test("an adaptive bonus whose minimum weight exceeds its maximum is refused", () => {
    const argv = ["--use_adaptive_entropy", "--entropy_coef_min", "2"];
    expect(refusal(() => configFor("train", argv))).toContain("entropy_coef_min 2 is greater than entropy_coef_max 1");
  });

  test("TRL's names of PPO's settings", () => {
    const argv = ["--num_ppo_epochs", "4", "--cliprange", "0.1", "--kl_coef", "0.05", "--vf_coef", "0.2"];
    const { config } = configFor("train", [...argv, "--advantage_estimator", "gae", "--cliprange_value", "0.3"]);
    expect(config).toMatchObject({ numIterations: 4, epsilon: 0.1, beta: 0.05, vfCoef: 0.2, cliprangeValue: 0.3 });
    expect(config).toMatchObject({ gamma: 1, lam: 0.95, whitenAdvantages: true });
  });

  test("evaluations: something must score the answers, and weights need something to weigh", () => {
    const evaluate = (...argv: string[]) => configFor("eval", argv).config;
    expect(refusal(() => evaluate("--verifier", "none"))).toContain("verifier none and no reward_funcs");
    expect(refusal(() => evaluate("--reward_weights", "1"))).toContain("reward_weights: there are no reward_funcs");
    expect(refusal(() => evaluate("--reward_funcs", "a.ts,b.ts", "--reward_weights", "1"))).toContain(
      "1 weights for 2",
    );
    expect(evaluate("--verifier", "none", "--reward_funcs", "a.ts").rewardFuncs).toEqual(["a.ts"]);
    expect(refusal(() => configFor("sft", ["--verifier", "none", "--eval_dataset", "e"]))).toContain(
      "verifier none: sft",
    );
  });

  test("sft: evaluation settings without eval_dataset are remarked on, for the bundled problems too", () => {
    const remarks = (...argv: string[]) => configFor("sft", ["--model", "m", ...argv]).warnings;
    expect(remarks("--eval_steps", "1")).toEqual(["eval_steps is not used: there is no eval_dataset"]);
    expect(remarks("--dataset", "d", "--eval_samples", "4")).toEqual([
      "eval_samples is not used: there is no eval_dataset",
    ]);
    expect(remarks("--eval_dataset", "d", "--eval_steps", "1")).toEqual([]);
  });

  test("eval and generate: several answers need a temperature, pass@k needs k answers", () => {
    expect(configFor("eval", ["--num_generations", "4"]).warnings[0]).toContain("temperature 0 gives the same answer");
    expect(configFor("eval", ["--num_generations", "4", "--temperature", "1"]).warnings).toEqual([]);
    expect(refusal(() => configFor("eval", ["--pass_at_k", "1,8"]))).toContain(
      "pass_at_k 8: exceeds num_generations 1",
    );
  });
});

test("nearest: a swap counts as one edit, distant names find none, and a part of a name finds it", () => {
  expect(editDistance("abc", "acb")).toBe(1);
  expect(editDistance("", "abc")).toBe(3);
  expect(editDistance("kitten", "sitting")).toBe(3);
  expect(nearest("trian", ["train", "eval"])).toBe("train");
  expect(nearest("zzzzzz", ["train", "eval"])).toBeUndefined();
  expect(nearest("generations", ["seed", "num_generations"])).toBe("num_generations");
  expect(nearest("x".repeat(1e6), ["train"])).toBeUndefined();
});

describe("help", () => {
  for (const command of commands) {
    test(`${command}: every setting with its default, within the width`, () => {
      const text = describeSettings(command);
      for (const key of Object.keys(settingsOf(command)))
        expect(text).toMatch(new RegExp(`^  --(\\[no-\\])?${key}\\b`, "m"));
      for (const line of text.split("\n")) expect(line.length).toBeLessThanOrEqual(110);
    });
  }

  test("defaults, switches that are on, and what is required", () => {
    expect(describeSettings("train")).toContain("Peak learning rate. [1e-6]");
    expect(describeSettings("train")).toMatch(/--\[no-\]shuffle_dataset/);
    expect(describeSettings("update")).toMatch(/--rollouts FILE .*\[required\]/);
  });
});

describe("the stored record", () => {
  test("is snake_case JSON that survives a round trip", () => {
    const { config } = configFor("train", ["--learning_rate", "1e-6", "--reward_funcs", "gsm8k"]);
    const record = toJson(config);
    expect(record.learning_rate).toBe(1e-6);
    expect(JSON.parse(JSON.stringify(record))).toEqual(record);
    // A token is written nowhere.
    expect(Object.keys(record)).toEqual(Object.keys(settingsOf("train")).filter((key) => key !== "hub_token"));
  });

  test("differences name key and both values; settings that may change on resume can be left out", () => {
    const before = toJson(configFor("train", ["--chat_template_kwargs", '{"a":1,"b":2}']).config);
    const now = toJson(
      configFor("train", ["--beta", "0.1", "--threads", "2", "--chat_template_kwargs", '{"b":2,"a":1}']).config,
    );
    expect(configDifferences(before, now)).toEqual([
      { key: "threads", before: null, now: 2 },
      { key: "beta", before: 0.04, now: 0.1 },
    ]);
    expect(configDifferences(before, now, freeOnResume).map(({ key }) => key)).toEqual(["beta"]);
    const { beta: _, ...older } = before;
    expect(configDifferences(older, before)).toEqual([{ key: "beta", before: undefined, now: 0.04 }]);
  });

  test("settings that may change on resume exist", () => {
    for (const key of freeOnResume) expect(Object.keys(settingsOf("train"))).toContain(key);
  });
});
