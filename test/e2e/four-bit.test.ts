/**
 * QLoRA: models whose projections are in NF4, read from bitsandbytes' files or quantized when they are loaded; adapters trained
 * beside them; damaged files.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import expected from "../golden/nf4/expected.json";
import { argvOf, type Flags, fingerprint, grpo, metricsOf, tinyTraining, train, untimed, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

const golden = join(import.meta.dir, "../golden");
const input = join(golden, "qwen3-qknorm/rollouts.jsonl");

/** Logprobs as `grpo score` writes them, and the file. */
async function scored(name: string, flags: Flags) {
  const output = work.at(`${name}.jsonl`);
  const { code, err } = await grpo(["score", ...argvOf({ ...flags, input, output })]);
  expect([code, code === 0 ? "" : err]).toEqual([0, ""]);
  const text = readFileSync(output, "utf8");
  return {
    text,
    logprobs: text
      .trim()
      .split("\n")
      .map((line): number[] => JSON.parse(line).logprobs),
  };
}

test("logprobs are bitsandbytes', from its file and from the model it was made of", async () => {
  const stored = await scored("stored", { model: join(golden, "nf4") });
  const made = await scored("made", { model: join(golden, "qwen3-qknorm"), load_in_4bit: true });
  expect(made.text).toBe(stored.text);
  for (const [i, row] of expected.logprobs.entries())
    for (const [j, logprob] of row.entries()) expect(Math.abs(stored.logprobs[i]![j]! - logprob)).toBeLessThan(2e-5);
  // It differs from the model that was quantized by much more.
  expect(
    Math.max(...expected.plain.flatMap((row, i) => row.map((x, j) => Math.abs(x - stored.logprobs[i]![j]!)))),
  ).toBeGreaterThan(0.1);
});

test("bfloat16 is near float32", async () => {
  const [narrow, wide] = [
    await scored("bfloat16", { model: join(golden, "nf4"), dtype: "bfloat16" }),
    await scored("float32", { model: join(golden, "nf4") }),
  ];
  const far = narrow.logprobs.flatMap((row, i) => row.map((x, j) => Math.abs(x - wide.logprobs[i]![j]!)));
  expect(Math.max(...far)).toBeLessThan(0.1);
});

describe.each(["float32", "bfloat16"])("adapters beside NF4 in %s", (dtype) => {
  const flags: Flags = {
    ...{ dtype, load_in_4bit: true, use_peft: true, lora_target_modules: "all-linear", lora_r: 8, beta: 0.04 },
    ...{ max_steps: 4, save_steps: 2 },
  };
  const outcome = (folder: string) => ({
    adapter: fingerprint(folder, "adapter_model.safetensors"),
    optimizer: fingerprint(folder, "checkpoint-4/optimizer.safetensors"),
    metrics: untimed(metricsOf(folder)),
  });

  test("sample what they train, and resume to the same bytes", async () => {
    const folder = work.at(`trained-${dtype}`);
    await train(folder, { ...flags, threads: 2 });
    const steps = metricsOf(folder).filter(({ loss }) => loss !== undefined);
    expect(steps).toHaveLength(4);
    for (const step of steps) expect(step["sampling/sampling_logp_difference/max"]).toBe(0);
    // Adapters start as nothing beside the model, which is the reference.
    expect(steps[0]!.kl).toBe(0);
    expect(Number(steps[3]!.kl)).toBeGreaterThan(0);
    const resumed = work.at(`resumed-${dtype}`);
    cpSync(folder, resumed, { recursive: true });
    for (const made of ["checkpoint-4", "adapter_model.safetensors"]) rmSync(join(resumed, made), { recursive: true });
    await train(resumed, { ...flags, threads: 1, resume_from_checkpoint: join(resumed, "checkpoint-2") });
    expect(outcome(resumed)).toEqual(outcome(folder));
  });
});

test("adapters are merged into the numbers of 4-bit weights, stored so or made so", async () => {
  const adapter = work.at("merged-adapter");
  const base = join(golden, "nf4");
  const flags = { model: base, lora_target_modules: "q_proj,down_proj", lora_r: 4, learning_rate: 1e-2 };
  const trained = { ...flags, use_peft: true, dtype: "float32", rollouts: input, output_dir: adapter };
  expect((await grpo(["update", ...argvOf(trained)])).code).toBe(0);
  const folders = [work.at("merged-stored"), work.at("merged-made")] as const;
  const exported = (folder: string, from: string, more: Flags) =>
    grpo(["export", from, "--merge", ...argvOf({ output_dir: folder, ...more })]);
  expect((await exported(folders[0], adapter, {})).err).toBe("");
  // The same adapter beside the model that was quantized.
  const beside = work.at("merged-beside");
  cpSync(adapter, beside, { recursive: true });
  const path = join(beside, "adapter_config.json");
  const config = JSON.parse(readFileSync(path, "utf8"));
  writeFileSync(path, JSON.stringify({ ...config, base_model_name_or_path: join(golden, "qwen3-qknorm") }));
  expect((await exported(folders[1], beside, { load_in_4bit: true })).err).toBe("");
  const weights = folders.map((folder) => fingerprint(folder, "model.safetensors"));
  expect(weights[0]).toBe(weights[1]!);
  expect(JSON.parse(readFileSync(join(folders[0], "config.json"), "utf8")).quantization_config).toBeUndefined();
  const [merged, own] = [
    await scored("merged", { model: folders[0], dtype: "float32" }),
    await scored("own", { model: adapter, dtype: "float32" }),
  ];
  const far = merged.logprobs.flatMap((row, i) => row.map((x, j) => Math.abs(x - own.logprobs[i]![j]!)));
  expect(Math.max(...far)).toBeLessThan(2e-5);
});

/** The one line with which a command ends that cannot use its input. */
async function refusal(argv: readonly string[]): Promise<string> {
  const { code, err } = await grpo(argv);
  expect([code, err.includes("    at ")]).toEqual([2, false]);
  return err;
}

test("4 bits are not trained", async () => {
  const output_dir = work.at("untrained");
  expect(await refusal(["train", ...argvOf({ ...tinyTraining, load_in_4bit: true, output_dir })])).toContain(
    "load_in_4bit: weights in 4 bits are not trained; set use_peft",
  );
  const rollouts = { model: join(golden, "nf4"), rollouts: input, output_dir };
  expect(await refusal(["update", ...argvOf(rollouts)])).toContain("is in 4 bits, which is not trained; set use_peft");
});

describe("a damaged file in NF4 is refused in a line", () => {
  const weight = "model.layers.0.mlp.down_proj.weight";
  type Header = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;

  /** A copy of the model, changed in its header (with the same data) or in a tensor's bytes. */
  function damaged(name: string, change: (header: Header, tensor: (part: string) => Buffer) => void): string {
    const folder = work.at(name);
    cpSync(join(golden, "nf4"), folder, { recursive: true });
    const path = join(folder, "model.safetensors");
    const file = readFileSync(path);
    const from = 8 + Number(file.readBigUInt64LE(0));
    const header = JSON.parse(file.toString("utf8", 8, from)) as Header;
    const data = file.subarray(from);
    change(header, (part) => data.subarray(...header[`${weight}.${part}`]!.data_offsets));
    const text = Buffer.from(JSON.stringify(header));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(text.length));
    writeFileSync(path, Buffer.concat([length, text, data]));
    return folder;
  }

  const rename = (header: Header, from: string, to: string) => {
    header[to] = header[from]!;
    delete header[from];
  };
  const state = "quant_state.bitsandbytes__nf4";
  /** Puts other text of the same length into the state. */
  const inState = (tensor: (part: string) => Buffer, from: string, to: string) => {
    const at = tensor(state).indexOf(from);
    expect([at >= 0, from.length]).toEqual([true, to.length]);
    tensor(state).write(to, at);
  };

  test.each<[string, (header: Header, tensor: (part: string) => Buffer) => void, string]>([
    [
      "number out of range",
      (_, tensor) => tensor("quant_map").writeFloatLE(3, 0),
      `${weight}.quant_map: has the number 3`,
    ],
    [
      "number NaN",
      (_, tensor) => tensor("quant_map").writeFloatLE(Number.NaN, 8),
      `${weight}.quant_map: has the number NaN`,
    ],
    [
      "scale's number",
      (_, tensor) => tensor("nested_quant_map").writeFloatLE(-1.5, 0),
      "nested_quant_map: has the number -1.5",
    ],
    [
      "infinite scale",
      (_, tensor) => tensor("nested_absmax").writeFloatLE(Infinity, 0),
      "nested_absmax: has the number Infinity",
    ],
    ["negative scale", (_, tensor) => tensor("nested_absmax").writeFloatLE(-1, 0), "nested_absmax: has the number -1"],
    [
      "numbers of another length",
      (header) => {
        // The next tensor begins where this one ends: split it so that no byte is left over.
        const [from, to] = header[`${weight}.quant_map`]!.data_offsets;
        header[`${weight}.quant_map`] = { dtype: "F32", shape: [15], data_offsets: [from, to - 4] };
        header.rest = { dtype: "F32", shape: [1], data_offsets: [to - 4, to] };
      },
      `${weight}.quant_map: has 15 elements, expected 16`,
    ],
    [
      "scales of another type",
      (header) => {
        const { shape } = header[`${weight}.absmax`]!;
        Object.assign(header[`${weight}.absmax`]!, { dtype: "I8", shape });
      },
      `${weight}.absmax: is stored as I8, expected U8`,
    ],
    ["no scales", (header) => rename(header, `${weight}.absmax`, "elsewhere"), `${weight}.absmax: is missing`],
    [
      "no nested scales",
      (header) => rename(header, `${weight}.nested_absmax`, "elsewhere"),
      "nested_absmax: is missing",
    ],
    ["no JSON", (_, tensor) => inState(tensor, '{"', "{{"), `${state}: is not JSON`],
    ["another type", (_, tensor) => inState(tensor, '"nf4"', '"fp4"'), 'quant_type is "fp4", expected "nf4"'],
    [
      "other blocks",
      (_, tensor) => inState(tensor, '"blocksize": 64', '"blocksize": 32'),
      "blocksize is 32, expected 64",
    ],
    [
      "another shape",
      (_, tensor) => inState(tensor, "[40, 72]", "[72, 40]"),
      "shape [72,40], config.json implies [40,72]",
    ],
    ["too large a shape", (_, tensor) => inState(tensor, "[40, 72]", "[4000,7]"), "expected"],
    ["no shape", (_, tensor) => inState(tensor, "[40, 72]", "[40, -2]"), "shape is not that of a matrix"],
  ])("%s", async (name, change, message) => {
    const model = damaged(name.replaceAll(/\W/g, "-"), change);
    const line = await refusal(["score", ...argvOf({ model, input, output: work.at("refused.jsonl") })]);
    expect(line).toContain(model);
    expect(line).toContain(message);
  });

  test.each([
    [{ bnb_4bit_quant_type: "fp4" }, 'quantization_config.bnb_4bit_quant_type: "fp4" is not supported'],
    [{ bnb_4bit_use_double_quant: false }, "quantization_config.bnb_4bit_use_double_quant: false is not supported"],
    [{ quant_method: "gptq" }, 'quantization_config.quant_method: "gptq" is not supported'],
    [{ load_in_4bit: false, load_in_8bit: true }, "quantization_config.load_in_4bit: false is not supported"],
  ])("config.json with %p", async (change, message) => {
    const model = work.at(`config-${Object.keys(change)[0]}`);
    cpSync(join(golden, "nf4"), model, { recursive: true });
    const path = join(model, "config.json");
    const config = JSON.parse(readFileSync(path, "utf8"));
    Object.assign(config.quantization_config, change);
    writeFileSync(path, JSON.stringify(config));
    expect(await refusal(["score", ...argvOf({ model, input, output: work.at("refused.jsonl") })])).toContain(message);
  });
});
