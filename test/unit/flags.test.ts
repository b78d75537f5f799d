/** How arguments are parsed, and the flags of commands without a configuration. */
import { describe, expect, test } from "bun:test";
import { describeFlags, readFlags } from "../../src/cli/flags.ts";
import { splitArguments } from "../../src/config/arguments.ts";
import { configFor } from "../../src/config/load.ts";
import { choice, requiredText, whole } from "../../src/config/settings/kinds.ts";
import { InputError } from "../../src/errors.ts";

describe("spellings of a flag", () => {
  const same: readonly string[][] = [
    ["--num_generations", "8"],
    ["--num-generations", "8"],
    ["--num_generations=8"],
    ["--num-generations=8"],
  ];
  for (const argv of same) {
    test(argv.join(" "), () => expect(configFor("train", argv).config.numGenerations).toBe(8));
  }

  const numbers: readonly (readonly [text: string, value: number])[] = [
    ["1e-6", 1e-6],
    ["1E-6", 1e-6],
    [".5", 0.5],
    ["5.", 5],
    ["+3", 3],
    ["0", 0],
  ];
  for (const [text, value] of numbers) {
    test(`--beta ${text}`, () => expect(configFor("train", ["--beta", text]).config.beta).toBe(value));
  }
  for (const text of ["0x10", "1_000", "1e", "--", " ", "1 2", "Infinity"]) {
    test(`--beta=${text} is not a number`, () =>
      expect(() => configFor("train", [`--beta=${text}`])).toThrow(InputError));
  }

  test("switches: alone, with a value, negated; the word after a switch stays an argument", () => {
    const config = (argv: string[]) => configFor("train", argv).config;
    expect(config(["--debug"]).debug).toBe(true);
    expect(config(["--debug", "false"]).debug).toBe(false);
    expect(config(["--debug=true"]).debug).toBe(true);
    expect(config(["--no-shuffle_dataset"]).shuffleDataset).toBe(false);
    expect(config(["--no_shuffle_dataset"]).shuffleDataset).toBe(false);
    expect(config(["--debug", "yes"]).debug).toBe(true);
    expect(config(["--debug=no"]).debug).toBe(false);
    expect(() => config(["--debug", "run.txt"])).toThrow('"run.txt" is neither');
    expect(() => config(["--no-beta"])).toThrow("--no-beta: unknown setting");
  });

  test("resume_from_checkpoint: alone, true, false, a path", () => {
    const resume = (argv: string[]) => configFor("train", argv).config.resumeFromCheckpoint;
    expect(resume(["--resume_from_checkpoint"])).toBe(true);
    expect(resume(["--resume_from_checkpoint", "--debug"])).toBe(true);
    expect(resume(["--resume_from_checkpoint", "true"])).toBe(true);
    expect(resume(["--resume_from_checkpoint", "false"])).toBeNull();
    expect(resume(["--resume_from_checkpoint", "out/checkpoint-3"])).toBe("out/checkpoint-3");
  });

  test("dashboard: alone, a port, on and off", () => {
    const page = (argv: string[]) => configFor("train", argv).config.dashboard;
    expect(page([])).toBe(false);
    expect(page(["--dashboard"])).toBe(true);
    expect(page(["--dashboard", "--debug"])).toBe(true);
    expect(page(["--dashboard", "8080"])).toBe(8080);
    expect(page(["--dashboard=0"])).toBe(0);
    expect(page(["--no_dashboard"])).toBe(false);
    expect(() => page(["--dashboard", "70000"])).toThrow("--dashboard 70000: must be true, false or a port");
    expect(() => page(["--dashboard", "here"])).toThrow("must be true, false or a port");
  });

  test("lists by comma or as JSON, objects as JSON, null", () => {
    const config = (argv: string[]) => configFor("train", argv).config;
    expect(config(["--reward_funcs", "gsm8k, path.ts", "--reward_weights", "1,0.5"])).toMatchObject({
      rewardFuncs: ["gsm8k", "path.ts"],
      rewardWeights: [1, 0.5],
    });
    expect(config(["--reward_funcs", '["a,b.ts"]']).rewardFuncs).toEqual(["a,b.ts"]);
    expect(config(["--chat_template_kwargs", '{"enable_thinking":false}']).chatTemplateKwargs).toEqual({
      enable_thinking: false,
    });
    expect(config(["--epsilon_high", "null"]).epsilonHigh).toBeNull();
    expect(() => config(["--reward_funcs", "a,,b"])).toThrow("must be a list");
    expect(() => config(["--beta", "null"])).toThrow("must be a number");
  });

  test("a list of several words, with commas or without, or its flag again", () => {
    const lists = (argv: string[]) => {
      const { rewardFuncs, rewardWeights } = configFor("train", argv).config;
      return { rewardFuncs, rewardWeights };
    };
    const expected = { rewardFuncs: ["math", "format", "./a.ts"], rewardWeights: [1, -0.5, 2] };
    for (const argv of [
      ["--reward_funcs", "math", "format", "./a.ts", "--reward_weights", "1", "-0.5", "2"],
      ["--reward_funcs", "math,format", "./a.ts", "--reward_weights", "1,-0.5", "2"],
      [
        "--reward_weights=1",
        "--reward_funcs=math",
        "--reward_funcs",
        "format",
        "./a.ts",
        "--reward_weights",
        "-0.5",
        "2",
      ],
      ["reward_funcs=['math','format','./a.ts']", "reward_weights=[1,-0.5,2]"],
    ])
      expect(lists(argv), argv.join(" ")).toEqual(expected);
  });

  test("a setting given twice is refused under any name, instead of silently using the last one", () => {
    const twice =
      (...argv: string[]) =>
      () =>
        configFor("train", argv);
    expect(twice("--num_generations", "4", "--num-generations", "8")).toThrow(
      "--num-generations: the same setting as --num_generations; keep one",
    );
    expect(twice("--beta=0", "--beta=1")).toThrow('--beta: given twice, "0" and "1"; keep one');
    expect(twice("--model", "a", "--model_name_or_path", "b")).toThrow(
      "--model_name_or_path: the same setting as --model",
    );
    expect(twice("--use_vllm", "--use_vllm=false")).toThrow("--use_vllm: given twice");
    expect(twice("beta=0", "--no-debug", "beta=0")).toThrow("beta: given twice");
  });

  test("all errors are reported at once", () => {
    let message = "";
    try {
      configFor("train", ["-x", "--beta", "a", "--num_generations=0", "stray", "--loss_typ", "dapo", "--seed"]);
    } catch (error) {
      expect(error).toBeInstanceOf(InputError);
      expect((error as InputError).lines).toEqual((error as Error).message.split("\n"));
      ({ message } = error as Error);
    }
    const starts = [
      "-x: ",
      "--seed: the value",
      '"stray" is',
      "--loss_typ: unknown",
      "--num_generations 0",
      '--beta "a"',
    ];
    expect(message.split("\n")).toHaveLength(starts.length);
    for (const start of starts) expect(message).toMatch(new RegExp(`^${start}`, "m"));
  });

  test("text is taken as it is: empty, negative numbers, equals signs, dashes after =", () => {
    const text = (argv: string[]) => configFor("train", argv).config.systemPrompt;
    expect(text(["--system_prompt", ""])).toBe("");
    expect(text(["--system_prompt", "a=b"])).toBe("a=b");
    expect(text(["--system_prompt=a=b"])).toBe("a=b");
    expect(text(["--system_prompt", "-1"])).toBe("-1");
    expect(text(["--system_prompt", "- item"])).toBe("- item");
    expect(text(["--system_prompt=--x"])).toBe("--x");
    expect(text(["--system_prompt", "true"])).toBe("true");
    expect(text(["--system_prompt", "None"])).toBeNull();
  });
});

test("everything after -- is an argument, whatever it looks like", () => {
  expect(splitArguments(["--a", "1", "--", "--b", "x"], () => "number")).toEqual({
    positionals: ["--b", "x"],
    flags: [{ key: "a", label: "--a", value: "1" }],
  });
});

describe("readFlags", () => {
  const settings = {
    input: requiredText("FILE")`JSONL to read.`,
    verifier: choice(["gsm8k", "math"], null)`How answers are judged.`,
    max_rows: whole(1, 10)`Rows.`,
  } as const;

  test("gives checked values in camelCase and the arguments", () => {
    const { flags, positionals } = readFlags(
      "data",
      settings,
      ["IN", "--max-rows", "3", "--input=x", "OUT"],
      ["IN", "OUT"],
    );
    const rows: number = flags.maxRows;
    expect(rows).toBe(3);
    expect(flags).toEqual({ input: "x", verifier: null, maxRows: 3 });
    expect(positionals).toEqual(["IN", "OUT"]);
  });

  const refused: readonly (readonly [argv: string[], message: string])[] = [
    [[], "FILE.jsonl is missing; see grpo verify --help"],
    [["a"], "--input is required"],
    [["a", "b", "--input=x"], '"b": unexpected argument; see grpo verify --help'],
    [["a", "--verifer", "math"], "--verifer: unknown setting; did you mean --verifier?"],
    [["a", "--input=x", "--verifier", "aime"], '--verifier "aime": must be one of gsm8k, math, or null'],
  ];
  for (const [argv, message] of refused) {
    test(`refuses ${argv.join(" ") || "nothing"}`, () => {
      expect(() => readFlags("verify", settings, argv, ["FILE.jsonl"])).toThrow(new InputError(message));
    });
  }

  test("--debug is known to every command, and shown in its help", () => {
    expect(readFlags("verify", settings, ["--debug", "--input", "x"]).flags.input).toBe("x");
    expect(describeFlags(settings)).toContain("--debug");
    expect(describeFlags(settings)).toMatch(/--input FILE .*\[required\]/);
  });
});
