/**
 * Damaged files, wrong settings and misbehaving reward functions, through the whole program: one line with the error, the place
 * and the cure, the right exit status, no stack trace, and an unchanged output_dir.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import {
  argvOf,
  bundledModel,
  type Finished,
  type Flags,
  fingerprints,
  grpo,
  metricsOf,
  problems,
  reward,
  root,
  tinyTraining,
  train,
  workFolder,
} from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

const golden = join(root, "test/golden/llama-tied");
const rollouts = join(golden, "rollouts.jsonl");

/** Exit status and the one line on stderr. */
function expectLine({ code, err }: Finished, status: number, pattern: RegExp): void {
  expect(err).toMatch(pattern);
  expect(err.endsWith("\n") && err.indexOf("\n") === err.length - 1 ? "one line" : err).toBe("one line");
  expect(err).not.toMatch(/bug in grpo|\n\s+at /);
  expect(code).toBe(status);
}

const training = (flags: Flags) => ["train", ...argvOf({ ...tinyTraining, max_steps: 1, ...flags })];

// Models

type Header = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;

/** Rewrites the header of a safetensors file. */
function editHeader(path: string, edit: (header: Header) => void): void {
  const bytes = readFileSync(path);
  const end = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, end)) as Header;
  edit(header);
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, bytes.subarray(end)]));
}

function editJson(path: string, edit: (json: Record<string, unknown>) => void): void {
  const json = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  edit(json);
  writeFileSync(path, JSON.stringify(json));
}

const [gate, up] = ["gate", "up"].map((name) => `model.layers.0.mlp.${name}_proj.weight`) as [string, string];

/** The damage to a copy of the bundled model, and the expected message. */
const damages: Readonly<Record<string, readonly [damage: (folder: string) => void, said: RegExp]>> = {
  "a shard cut short": [
    (folder) => truncateSync(join(folder, "model.safetensors"), 1_000_000),
    /model\.safetensors: tensor .*data_offsets end at byte \d+ of the data, which has \d+ .*cut short.*; download/,
  ],
  "a header longer than the file": [
    (folder) => writeFileSync(join(folder, "model.safetensors"), Buffer.from([255, 255, 255, 255, 0, 0, 0, 0, 123])),
    /model\.safetensors: header of 4294967295 bytes in a file of 9.*download/,
  ],
  "no bytes at all": [
    (folder) => writeFileSync(join(folder, "model.safetensors"), ""),
    /model\.safetensors: only 0 bytes long.*download/,
  ],
  "offsets that hold less than the shape": [
    (folder) =>
      editHeader(join(folder, "model.safetensors"), (header) => {
        header[gate]!.data_offsets[1] -= 4;
      }),
    /gate_proj.*data_offsets hold \d+ bytes, but F32 of shape \[\d+,\d+\] takes \d+; download/,
  ],
  "tensors that overlap": [
    (folder) =>
      editHeader(join(folder, "model.safetensors"), (header) => {
        header[up]!.data_offsets = header[gate]!.data_offsets;
      }),
    /model\.safetensors: tensor .*data_offsets: overlaps tensor .*download/,
  ],
  "a tensor missing": [
    (folder) =>
      editHeader(join(folder, "model.safetensors"), (header) => {
        header["model.other.weight"] = header[gate]!;
        delete header[gate];
      }),
    /: tensor model\.layers\.0\.mlp\.gate_proj\.weight is missing; the checkpoint does not belong to this config\.json/,
  ],
  "a shape unlike config.json": [
    (folder) =>
      editJson(join(folder, "config.json"), (config) => {
        config.intermediate_size = 96;
      }),
    /tensor model\.layers\.0\.mlp\.gate_proj\.weight has shape \[\d+,\d+\], config\.json implies \[96,\d+\]; weights and/,
  ],
  "a layer count that would fill all memory": [
    (folder) =>
      editJson(join(folder, "config.json"), (config) => {
        config.num_hidden_layers = 1_000_000_000;
      }),
    /config\.json: num_hidden_layers: the checkpoint holds 2 layers, config\.json says 1000000000; weights and/,
  ],
  "an unknown model_type": [
    (folder) =>
      editJson(join(folder, "config.json"), (config) => {
        config.model_type = "mamba";
      }),
    /config\.json: model_type: "mamba" is not supported.*llama/,
  ],
  "a torn config.json": [(folder) => truncateSync(join(folder, "config.json"), 100), /config\.json: not (valid )?JSON/],
  "an index without its shard": [
    (folder) => {
      rmSync(join(folder, "model.safetensors"));
      const map = { weight_map: { [gate]: "model-00001-of-00002.safetensors" } };
      writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify(map));
    },
    /model-00001-of-00002\.safetensors: this shard is missing.*download it/,
  ],
  "weights as a pickle": [
    (folder) => {
      rmSync(join(folder, "model.safetensors"));
      writeFileSync(join(folder, "pytorch_model.bin"), "PK");
    },
    /weights are in pytorch_model\.bin, a pickle.*save_pretrained/,
  ],
  "no tokenizer": [(folder) => rmSync(join(folder, "tokenizer.json")), /tokenizer\.json/],
  "a torn tokenizer": [(folder) => truncateSync(join(folder, "tokenizer.json"), 500), /tokenizer\.json/],
};

describe("a model with", () => {
  test.concurrent.each(Object.keys(damages))("%s", async (name) => {
    const [damage, said] = damages[name]!;
    const model = work.at(name);
    cpSync(bundledModel, model, { recursive: true });
    damage(model);
    expectLine(await grpo(training({ model, output_dir: work.at(`unused by ${name}`) })), 2, said);
  });

  test("unused tensors: one remark, and the run continues", async () => {
    const model = work.at("more tensors");
    cpSync(bundledModel, model, { recursive: true });
    editHeader(join(model, "model.safetensors"), (header) => {
      for (const name of ["model.rotary_emb.inv_freq", "model.layers.2.mlp.up_proj.weight"])
        header[name] = { dtype: "F32", shape: [0], data_offsets: [0, 0] };
    });
    const { code, err } = await grpo(["generate", "--model", model, "--prompt", "x", "--max_completion_length", "2"]);
    expect({ code, err: err.replaceAll(model, "M") }).toEqual({
      code: 0,
      err: "note: M: the weights hold 1 tensor that this model does not use (model.layers.2.mlp.up_proj.weight); if that is not intended, use the config.json that belongs to them\n",
    });
  });

  test("a reference with another vocabulary", async () => {
    const line = await grpo(training({ ref_model: golden, output_dir: work.at("unused") }));
    expectLine(line, 2, /ref_model .*llama-tied: vocabSize is 320.*must have the policy's architecture/);
  });
});

// Data

/** Writes a dataset of JSON lines; returns its path. */
function lines(name: string, rows: readonly unknown[]): string {
  const path = work.at(`${name}.jsonl`);
  writeFileSync(path, rows.map((row) => `${typeof row === "string" ? row : JSON.stringify(row)}\n`).join(""));
  return path;
}

const datasets: Readonly<Record<string, readonly [flags: () => Flags, said: RegExp]>> = {
  "an Arrow file torn within a batch": [
    () => {
      const path = work.at("torn.arrow");
      const bytes = readFileSync(problems);
      writeFileSync(path, bytes.subarray(0, Math.floor(bytes.length * 0.8)));
      return { dataset: path };
    },
    /torn\.arrow.*(cut short|torn|truncated|ends|incomplete)/i,
  ],
  "an Arrow file of something else": [
    () => {
      const path = work.at("else.arrow");
      writeFileSync(path, "not a table at all".repeat(40));
      return { dataset: path };
    },
    /else\.arrow.*Arrow/,
  ],
  "no such column": [
    () => ({ prompt_column: "exercise" }),
    /eval\.arrow: no column "exercise" \(prompt_column\); it has question, answer/,
  ],
  "no column for the prompt": [
    () => ({ dataset: lines("no prompt", [{ left: "a", right: "b" }]) }),
    /no column for the prompt.*it has left, right; name it with --prompt_column/,
  ],
  "no rows": [() => ({ dataset: lines("no rows", []) }), /no rows/],
  "a torn line": [
    () => ({ dataset: lines("torn line", [{ question: "1+1?", answer: "2" }, '{"question": "2+']) }),
    /torn line\.jsonl.*line 2.*JSON/,
  ],
  "an empty prompt": [
    () => ({
      dataset: lines("empty", [
        { question: "1+1?", answer: "2" },
        { question: " ", answer: "3" },
      ]),
    }),
    /row 1, column "question": the prompt is empty; remove the row/,
  ],
  "no gold answers to verify against": [
    () => ({ dataset: lines("no gold", [{ question: "1+1?" }]), reward_funcs: "gsm8k" }),
    /no gold\.jsonl.*answer_column/,
  ],
  "no file": [() => ({ dataset: work.at("nowhere.arrow") }), /nowhere\.arrow: no such file or folder; check the path/],
  "prompts longer than the context": [
    () => ({ dataset: lines("long", [{ question: "Tom has 3 apples. ".repeat(400), answer: "3" }]) }),
    /every prompt is longer than \d+ tokens/,
  ],
};

describe("a dataset with", () => {
  test.concurrent.each(Object.keys(datasets))("%s", async (name) => {
    const [flags, said] = datasets[name]!;
    const argv = training({ ...flags(), output_dir: work.at(`unused by ${name}`) });
    expectLine(await grpo(argv), 2, said);
  });
});

// Settings

const usage: Readonly<Record<string, readonly [argv: readonly string[], said: RegExp]>> = {
  "an unknown command": [["trian"], /"trian" is not a command; did you mean train\?/],
  "an unknown flag": [["train", "--lerning_rate", "1"], /--lerning_rate.*did you mean --learning_rate\?/],
  "a value out of range": [["train", "--temperature", "0"], /--temperature "?0"?: must be/],
  "a value of the wrong kind": [["train", "--max_steps", "many"], /--max_steps "many": must be/],
  "a flag without its value": [["train", "--seed"], /--seed/],
  "a batch that groups do not divide": [
    ["train", "--per_device_train_batch_size", "10", "--num_generations", "4"],
    /10 completions per generation is not a multiple of num_generations 4; choose a product of 8 or 12/,
  ],
  "a missing device": [
    training({ device: "cuda:999", output_dir: work.at("unused 1") }),
    /device cuda:999: (libcuda\.so\.1: not found; looked in .*--device cpu|there are .*name one of them)/,
  ],
  "a completion longer than the context": [
    training({ max_completion_length: 100_000, output_dir: work.at("unused 2") }),
    /max_completion_length 100000: the model's context is \d+ tokens; lower it/,
  ],
  "a model that is not a folder": [
    training({ model: "no-such-folder", output_dir: work.at("unused 3") }),
    /no-such-folder: no such folder/,
  ],
  "a missing reward function": [
    training({ reward_funcs: "judge.ts", output_dir: work.at("unused 4") }),
    /reward_funcs: .*judge\.ts does not exist; give gsm8k, math, or the path/,
  ],
  "a missing checkpoint": [
    training({ resume_from_checkpoint: "gone/checkpoint-3", output_dir: work.at("unused 5") }),
    /resume_from_checkpoint: gone\/checkpoint-3: there is no such folder/,
  ],
  "an unknown instruction path": [
    training({ output_dir: work.at("unused 6") }),
    /BUN_GRPO_CPU_PATH=mmx: unknown.*portable/,
  ],
};

describe("usage:", () => {
  test.concurrent.each(Object.keys(usage))("%s", async (name) => {
    const [argv, said] = usage[name]!;
    const env: Record<string, string> = name.includes("instruction path") ? { BUN_GRPO_CPU_PATH: "mmx" } : {};
    const line = await grpo(argv, { env });
    expectLine(line, 2, said);
    expect(line.err).toStartWith("grpo");
  });

  test("the stack trace appears only with --debug", async () => {
    const { code, err } = await grpo([
      ...training({ model: "no-such-folder", output_dir: work.at("unused 7") }),
      "--debug",
    ]);
    expect(code).toBe(2);
    expect(err).toMatch(/\n\s+at /);
  });
});

// Recorded rollouts

const goodLine = JSON.parse(readFileSync(rollouts, "utf8").split("\n")[0]!) as Record<string, unknown>;

const records: Readonly<Record<string, readonly [rows: readonly unknown[], said: RegExp]>> = {
  "an id beyond the vocabulary": [
    [goodLine, { ...goodLine, completion_ids: [320], old_logprobs: [-1], ref_logprobs: [-1], sampling_logprobs: [-1] }],
    /:2: "completion_ids"\[0\] is 320, and the model has ids from 0 to 319/,
  ],
  "a torn line": [
    [goodLine, '{"group": 0, "prompt_ids": [1, 2'],
    /:2: not JSON .*; write one whole JSON object per line/,
  ],
  "nothing in it": [[], /has no rollouts/],
  "an empty completion": [[{ ...goodLine, completion_ids: [] }], /:1: "completion_ids" is empty/],
  "an empty prompt": [[{ ...goodLine, prompt_ids: [] }], /:1: "prompt_ids" is empty/],
  "logprobs of another length": [
    [{ ...goodLine, old_logprobs: [-1, -2] }],
    /:1: "old_logprobs" has 2 numbers for 1 tokens/,
  ],
  "a mask of another length": [[{ ...goodLine, mask: [1, 0] }], /:1: "mask" has 2 numbers for 1 tokens/],
  "more tokens than the context": [
    [{ ...goodLine, prompt_ids: Array.from({ length: 128 }, () => 5) }],
    /prompt and completion have 129 tokens, the model's context is 128; leave/,
  ],
};

describe("rollouts with", () => {
  test.concurrent.each(Object.keys(records))("%s", async (name) => {
    const [rows, said] = records[name]!;
    const file = lines(name, rows);
    const output = work.at(`unused by ${name}`);
    const files: Flags[] = [
      { rollouts: file, output_dir: output },
      { input: file, output: `${output}.jsonl` },
    ];
    for (const [i, command] of ["update", "score"].entries())
      expectLine(await grpo([command, ...argvOf({ model: golden, ...files[i]! })]), 2, said);
  });
});

// Reward functions

describe("a reward function that", () => {
  test.each([
    ["hangs", 0, /hangs .*did not finish within 0\.3 s on 8 of 8 completions; they are not scored/],
    ["hangs_on_some", 0, /hangs_on_some .*did not finish within 0\.3 s on [1-7] of 8 completions/],
    ["throws", 0, /throws .*threw Error: the judge is out on 8 of 8 completions; they are not scored/],
    ["allocates", 0, /allocates .*(did not finish within 0\.3 s|used more than \d+ MiB) on \d of 8 completions/],
    ["exits", 0, /exits .*ended its process \(exit status 3\) on 8 of 8 completions/],
    ["garbage", 1, /garbage .*returned "nine out of ten" instead of an array/],
    ["too_few", 1, /too_few .*returned 1 rewards for 8 completions; it must return one per completion/],
    ["broken_module", 2, /broken_module .*cannot be loaded: Error: no judge here/],
  ] as const)("%s", async (name, status, said) => {
    const folder = work.at(`reward ${name}`);
    const flags = { reward_funcs: reward(name), reward_timeout: 0.3, max_steps: 2, output_dir: folder };
    const ended = await grpo(training(flags));
    if (status !== 0) return expectLine(ended, status, said);
    expect({ code: ended.code, err: ended.err }).toEqual({ code: 0, err: "" });
    expect(ended.out).toMatch(said);
    // An unscored completion teaches nothing, and breaks nothing.
    const steps = metricsOf(folder);
    expect(steps.map(({ step }) => step)).toEqual([1, 2]);
    const nobody = name !== "hangs_on_some";
    for (const { loss, grad_norm, reward: mean } of steps) {
      expect(Number.isFinite(loss) && Number.isFinite(grad_norm)).toBe(true);
      if (nobody) expect([grad_norm, mean]).toEqual([0, null]);
    }
  });
});

// Places to write to

describe("output_dir", () => {
  test("below a file, or where nothing can be created", async () => {
    const file = work.at("a file");
    writeFileSync(file, "");
    expectLine(
      await grpo(training({ output_dir: join(file, "run") })),
      1,
      /a file\/run: cannot be written: .*another --output_dir/,
    );
    expectLine(await grpo(training({ output_dir: file })), 1, /a file: cannot be written: a file is in the way/);
    if (process.platform === "linux")
      expectLine(await grpo(training({ output_dir: "/proc/run" })), 1, /\/proc\/run: cannot be written: /);
  });

  test.each(["sft", "update", "eval"])("below a file: %s", async (command) => {
    const file = work.at("another file");
    writeFileSync(file, "");
    const flags: Record<string, Flags> = {
      sft: { model: bundledModel, dataset: problems, max_steps: 1 },
      update: { model: golden, rollouts },
      eval: { model: bundledModel, dataset: problems, eval_samples: 2, max_completion_length: 8 },
    };
    const line = await grpo([command, ...argvOf({ ...flags[command]!, output_dir: join(file, "run") })]);
    expectLine(line, 1, /another file\/run: cannot be written: .*another --output_dir/);
  });

  test("on a disk that fills up: the run ends with one line, and earlier saves are complete", async () => {
    const folder = work.at("full");
    await train(folder, { max_steps: 1, save_steps: 1 });
    const before = fingerprints(join(folder, "checkpoint-1"));
    // Files of at most 200 KiB: the weights do not fit, everything smaller does.
    const shell = "trap '' XFSZ; ulimit -f 400";
    const argv = training({ max_steps: 2, save_steps: 1, resume_from_checkpoint: true, output_dir: folder });
    expectLine(await grpo(argv, { shell }), 1, /cannot be written: .*\(EFBIG\); what was there before is untouched/);
    expect(fingerprints(join(folder, "checkpoint-1"))).toEqual(before);
    expect(Object.keys(fingerprints(folder)).filter((name) => /tmp/.test(name))).toEqual([]);
    // With space again it continues as if nothing had happened.
    expect((await train(folder, { max_steps: 2, save_steps: 1, resume_from_checkpoint: true })).code).toBe(0);
    await train(work.at("never full"), { max_steps: 2 });
    const weights = (path: string) => fingerprints(path)["model.safetensors"];
    expect(weights(folder)).toBe(weights(work.at("never full")));
  });

  test("is not touched by a refused run", async () => {
    const folder = work.at("untouched");
    await train(folder, { max_steps: 1, save_steps: 1 });
    const before = fingerprints(folder);
    const earlier =
      /holds a run \(step 1, 1 checkpoint, its model\); go on with --resume_from_checkpoint true.*--overwrite/;
    expectLine(await grpo(training({ output_dir: folder })), 2, earlier);
    for (const flags of [
      { model: work.at("nowhere"), overwrite: true },
      { dataset: work.at("nowhere"), overwrite: true },
      { reward_funcs: reward("broken_module"), overwrite: true },
      { resume_from_checkpoint: join(folder, "checkpoint-7") },
    ] as Flags[])
      expect((await grpo(training({ ...flags, output_dir: folder }))).code).toBe(2);
    expect(fingerprints(folder)).toEqual(before);
  });
});

// Checkpoints

describe("a checkpoint", () => {
  let source = "";
  beforeAll(async () => {
    source = work.at("source");
    await train(source, { max_steps: 1, save_steps: 1 });
  });

  /** Copies the checkpoint, damages the copy, and resumes from it. */
  async function resume(name: string, damage: (folder: string) => void, flags: Flags = {}) {
    const folder = join(work.at(name), "checkpoint-1");
    mkdirSync(work.at(name));
    cpSync(join(source, "checkpoint-1"), folder, { recursive: true });
    damage(folder);
    const output_dir = work.at(`${name} out`);
    return grpo(training({ max_steps: 2, resume_from_checkpoint: folder, output_dir, ...flags }));
  }

  test("without its optimizer, without its state, with a torn one", async () => {
    const optimizer = await resume("no optimizer", (folder) => rmSync(join(folder, "optimizer.safetensors")));
    expectLine(optimizer, 2, /checkpoint-1: holds no optimizer\.safetensors; give a checkpoint-N folder/);
    const state = await resume("no state", (folder) => rmSync(join(folder, "trainer_state.json")));
    expectLine(state, 2, /checkpoint-1: holds no trainer_state\.json; give a checkpoint-N folder/);
    const torn = await resume("torn state", (folder) => truncateSync(join(folder, "trainer_state.json"), 20));
    expectLine(torn, 2, /trainer_state\.json: .*JSON/);
    const cut = await resume("cut optimizer", (folder) => truncateSync(join(folder, "optimizer.safetensors"), 10_000));
    expectLine(cut, 2, /optimizer\.safetensors: .*cut short/);
  });

  test("of another model", async () => {
    const line = await resume("another model", (folder) => {
      for (const name of ["model.safetensors", "config.json"]) cpSync(join(golden, name), join(folder, name));
    });
    expectLine(line, 2, /optimizer\.safetensors: tensor .*(is missing|expected F32)|tokenizer|vocab/);
  });

  test("of another dtype", async () => {
    const line = await resume("another dtype", () => {}, { dtype: "bfloat16" });
    expectLine(line, 2, /optimizer\.safetensors: tensor master\..* is missing; .*another dtype/);
  });

  test("that is torn is skipped in favour of the previous one", async () => {
    const folder = work.at("skipped");
    await train(folder, { max_steps: 2, save_steps: 1 });
    truncateSync(join(folder, "checkpoint-2/model.safetensors"), 1000);
    const { notes } = await train(folder, { max_steps: 2, resume_from_checkpoint: true });
    expect(notes).toContain(`going on after step 1 from ${join(folder, "checkpoint-1")}`);
    expect(notes.join("\n")).toMatch(
      /a later checkpoint is damaged and was skipped: .*model\.safetensors: .*cut short/,
    );
    const kept = readdirSync(join(folder, "after-step-1"));
    expect(kept).toEqual(expect.arrayContaining(["checkpoint-2", "metrics.jsonl", "model.safetensors"]));
  });
});

// Other commands

test("generate, verify and data report errors just as clearly", async () => {
  expectLine(await grpo(["generate", "--model", bundledModel]), 2, /give --prompt TEXT or --input FILE/);
  const torn = lines("prompts", [{ prompt: "a" }, "{"]);
  expectLine(await grpo(["generate", "--model", bundledModel, "--input", torn]), 2, /prompts\.jsonl: line 2: not JSON/);
  const empty = lines("empty prompt", [{ prompt: "" }]);
  expectLine(await grpo(["generate", "--model", bundledModel, "--input", empty]), 2, /prompt is empty/);
  expectLine(await grpo(["verify", "--input", lines("answers", [{ gold: 3 }])]), 2, /line 1: "gold" is not a string/);
  expectLine(await grpo(["data", "info", work.at("nothing")]), 2, /nothing: no such file or folder/);
  const loop = work.at("loop");
  symlinkSync(loop, loop);
  expectLine(await grpo(["data", "info", loop]), 2, new RegExp(basename(loop)));
});
