/** Saving and loading model folders: one file or shards, config.json, the tokenizer's files, the trainer's state. */
import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.ts";
import { copyModelAssets, readModelFolder, writeConfig } from "../../src/checkpoint/huggingface.ts";
import { type TensorSource, writeSafetensors, writeWeights } from "../../src/checkpoint/safetensors-write.ts";
import { latestCheckpoint, readTrainerState, writeTrainerState } from "../../src/checkpoint/state.ts";
import { InputError } from "../../src/errors.ts";

const root = mkdtempSync(join(tmpdir(), "checkpoint-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(root, "case-"));
});

function tensor(name: string, value: number, dtype: TensorSource["dtype"] = "F32", count = 4): TensorSource {
  const bytes = { F32: 4, BF16: 2, F16: 2 }[dtype as "F32"] * count;
  return { name, dtype, shape: [count], chunks: () => [new Uint8Array(bytes).fill(value)] };
}
const three = [tensor("a", 1), tensor("b", 2), tensor("c", 3)];
const write = (name: string, content: unknown) =>
  writeFileSync(join(folder, name), typeof content === "string" ? content : JSON.stringify(content));
const read = (name: string) => readFileSync(join(folder, name), "utf8");

describe("weights", () => {
  test("in one file", async () => {
    expect(await writeWeights(folder, three)).toEqual(["model.safetensors"]);
    const checkpoint = openCheckpoint(folder);
    expect(checkpoint.names).toEqual(["a", "b", "c"]);
    expect(checkpoint.has("b")).toBe(true);
    expect(checkpoint.has("d")).toBe(false);
    const { address, byteLength } = checkpoint.get("b");
    checkpoint.release();
    expect(new Uint8Array(bytesAt(address, byteLength))).toEqual(new Uint8Array(16).fill(2));
    expect(() => checkpoint.get("d")).toThrow(InputError);
    expect(() => checkpoint.get("d")).toThrow(/tensor "d" is missing/);
    checkpoint.close();
  });

  test("in shards with an index, as transformers names them", async () => {
    const names = await writeWeights(folder, three, { maxShardBytes: 32 });
    expect(names).toEqual([
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
      "model.safetensors.index.json",
    ]);
    expect(JSON.parse(read("model.safetensors.index.json"))).toEqual({
      metadata: { total_size: 48 },
      weight_map: {
        a: "model-00001-of-00002.safetensors",
        b: "model-00001-of-00002.safetensors",
        c: "model-00002-of-00002.safetensors",
      },
    });
    const checkpoint = openCheckpoint(folder);
    expect(checkpoint.names).toEqual(["a", "b", "c"]);
    expect(new Uint8Array(bytesAt(checkpoint.get("c").address, 16))).toEqual(new Uint8Array(16).fill(3));
    checkpoint.close();
  });

  test("a tensor larger than a shard gets its own shard", async () => {
    await writeWeights(folder, [tensor("large", 1, "F32", 100), tensor("b", 2)], { maxShardBytes: 32 });
    expect(openCheckpoint(folder).get("large").byteLength).toBe(400);
  });

  test("an earlier save under other names is removed, other files stay", async () => {
    await writeWeights(folder, three, { maxShardBytes: 16 });
    write("optimizer.safetensors", "");
    expect(await writeWeights(folder, three)).toEqual(["model.safetensors"]);
    expect(readdirSync(folder).sort()).toEqual(["model.safetensors", "optimizer.safetensors"]);
    await writeWeights(folder, three, { maxShardBytes: 32 });
    expect(existsSync(join(folder, "model.safetensors"))).toBe(false);
    expect(openCheckpoint(folder).names).toHaveLength(3);
  });
});

describe("damaged shards", () => {
  const second = "model-00002-of-00002.safetensors";
  beforeEach(async () => {
    await writeWeights(folder, three, { maxShardBytes: 32 });
  });
  const index = () => JSON.parse(read("model.safetensors.index.json"));

  function refused(message: RegExp) {
    expect(() => openCheckpoint(folder)).toThrow(InputError);
    expect(() => openCheckpoint(folder)).toThrow(message);
  }

  test("missing", () => {
    rmSync(join(folder, second));
    refused(/model-00002-of-00002.safetensors: this shard is missing/);
  });
  test("cut short", () => {
    truncateSync(join(folder, second), readFileSync(join(folder, second)).length - 1);
    refused(/model-00002-of-00002.safetensors: tensor "c": data_offsets end at byte 16 .*cut short/);
  });
  test("without a tensor that the index lists", async () => {
    await writeSafetensors(join(folder, second), [tensor("d", 4)]);
    refused(/tensor "c" is not in this shard/);
  });
  test.each(["../secret.safetensors", "/etc/passwd", "sub/a.safetensors", "..", "model.bin", 3])(
    "listed as %p",
    (shard) => {
      write("model.safetensors.index.json", { weight_map: { ...index().weight_map, c: shard } });
      refused(/weight_map: "c" lies in .* not the name of a safetensors file/);
    },
  );
  test("an index without a map", () => {
    write("model.safetensors.index.json", { metadata: {} });
    refused(/index.json: weight_map: missing/);
  });
  test("a torn index", () => {
    write("model.safetensors.index.json", '{"weight_map": {');
    refused(/index.json: not valid JSON/);
  });
});

test.each([
  ["pytorch_model.bin", /a pickle, which is not supported; convert them/],
  ["model-q4.gguf", /model-q4.gguf, which is not supported/],
  ["adapter_model.safetensors", /only a LoRA adapter/],
  ["README.md", /has neither model.safetensors nor/],
])("a folder with only %s is refused with its cure", (name, message) => {
  write(name, "");
  expect(() => openCheckpoint(folder)).toThrow(InputError);
  expect(() => openCheckpoint(folder)).toThrow(message);
});

describe("a model folder", () => {
  const config = {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    vocab_size: 8,
    hidden_size: 4,
    intermediate_size: 4,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    max_position_embeddings: 64,
  };

  test("takes its dtype from the weights if config.json has none", async () => {
    write("config.json", config);
    await writeWeights(folder, [tensor("a", 0, "BF16", 100), tensor("b", 0, "F32", 10)]);
    expect(readModelFolder(folder).config.dtype).toBe("bfloat16");
    write("config.json", { ...config, torch_dtype: "float16" });
    expect(readModelFolder(folder).config.dtype).toBe("float16");
  });

  test("config.json is saved unchanged except for the dtype, floats as floats", async () => {
    const text = JSON.stringify(
      { ...config, attention_dropout: "F", custom: { list: [1, null] }, rope_theta: "G", torch_dtype: "bfloat16" },
      null,
      2,
    );
    write("config.json", `${text.replace('"F"', "0.0").replace('"G"', "10000.0")}\n`);
    await writeWeights(folder, three);
    const before = read("config.json");
    const model = readModelFolder(folder);
    writeConfig(folder, model.config, "bfloat16");
    expect(read("config.json")).toBe(before);
    writeConfig(folder, model.config, "float32");
    expect(read("config.json")).toBe(before.replace('"bfloat16"', '"float32"'));
  });

  test("the dtype keeps the file's spelling, or if absent follows the rest", async () => {
    await writeWeights(folder, three);
    const spelling = (given: object) => {
      write("config.json", { ...config, ...given });
      writeConfig(folder, readModelFolder(folder).config, "bfloat16");
      const { dtype, torch_dtype } = JSON.parse(read("config.json"));
      return { dtype, torch_dtype };
    };
    expect(spelling({ dtype: "float32" })).toEqual({ dtype: "bfloat16", torch_dtype: undefined });
    expect(spelling({ torch_dtype: "float32" })).toEqual({ dtype: undefined, torch_dtype: "bfloat16" });
    expect(spelling({ rope_parameters: { rope_type: "default" } })).toEqual({
      dtype: "bfloat16",
      torch_dtype: undefined,
    });
    expect(spelling({})).toEqual({ dtype: undefined, torch_dtype: "bfloat16" });
  });

  test("the architecture is added if the file left it out", async () => {
    await writeWeights(folder, three);
    write("config.json", { ...config, architectures: undefined });
    writeConfig(folder, readModelFolder(folder).config, "float32");
    expect(JSON.parse(read("config.json")).architectures).toEqual(["LlamaForCausalLM"]);
  });

  test("the tokenizer's files are copied, weights and others are not", () => {
    for (const name of [
      "tokenizer.json",
      "merges.txt",
      "generation_config.json",
      "config.json",
      "model.safetensors",
      "notes.txt",
    ])
      write(name, name);
    mkdirSync(join(folder, "additional_chat_templates"));
    write("additional_chat_templates/tool_use.jinja", "t");
    chmodSync(join(folder, "tokenizer.json"), 0o444);
    const to = join(folder, "out");
    copyModelAssets(folder, to);
    copyModelAssets(folder, to);
    copyModelAssets(to, to);
    expect(readdirSync(to).sort()).toEqual([
      "additional_chat_templates",
      "generation_config.json",
      "merges.txt",
      "tokenizer.json",
    ]);
    expect(readFileSync(join(to, "additional_chat_templates", "tool_use.jinja"), "utf8")).toBe("t");
    expect(readFileSync(join(to, "tokenizer.json"), "utf8")).toBe("tokenizer.json");
  });

  test.each([
    ["absent", /no such folder/],
    ["file", /is a file/],
    ["empty", /holds no config.json/],
    ["torn", /config.json: not valid JSON/],
  ])("that is %s is refused", (name, message) => {
    write("file", "");
    mkdirSync(join(folder, "empty"));
    mkdirSync(join(folder, "torn"));
    write("torn/config.json", '{"model_type":');
    expect(() => readModelFolder(join(folder, name))).toThrow(InputError);
    expect(() => readModelFolder(join(folder, name))).toThrow(message);
  });
});

describe("trainer state", () => {
  const schema = z.object({ step: z.int(), losses: z.array(z.number()) });

  test("is restored unchanged", () => {
    const state = { step: 7, losses: [0.1, -1e-300, 2 ** 53] };
    writeTrainerState(folder, state);
    expect(readTrainerState(folder, schema)).toEqual(state);
  });

  test("is not written with numbers that JSON cannot represent", () => {
    expect(() => writeTrainerState(folder, { loss: Number.NaN })).toThrow("loss is NaN");
    expect(readdirSync(folder)).toEqual([]);
  });

  test("missing, torn, or from another program is bad input", () => {
    const refused = (message: RegExp) => {
      expect(() => readTrainerState(folder, schema)).toThrow(InputError);
      expect(() => readTrainerState(folder, schema)).toThrow(message);
    };
    refused(/holds no trainer_state.json/);
    write("trainer_state.json", '{"step": 7');
    refused(/trainer_state.json: not valid JSON/);
    write("trainer_state.json", { step: "7", losses: [] });
    refused(/trainer_state.json: step: /);
  });
});

describe("the newest checkpoint", () => {
  async function checkpoint(name: string): Promise<string> {
    const path = join(folder, name);
    mkdirSync(path);
    await writeWeights(path, three);
    writeTrainerState(path, { step: 1 });
    return path;
  }
  const deadPid = Bun.spawnSync(["true"]).pid;

  test("counts by number, not by name", async () => {
    expect(latestCheckpoint(join(folder, "absent"))).toBeNull();
    expect(latestCheckpoint(folder)).toBeNull();
    await checkpoint("checkpoint-9");
    const newest = await checkpoint("checkpoint-10");
    await checkpoint("checkpoint-best");
    await checkpoint(`checkpoint-11.tmp-${process.pid}`);
    expect(latestCheckpoint(folder)).toBe(newest);
  });

  test("must be complete", async () => {
    const whole = await checkpoint("checkpoint-1");
    const torn = await checkpoint("checkpoint-2");
    truncateSync(join(torn, "model.safetensors"), 60);
    const stateless = await checkpoint("checkpoint-3");
    rmSync(join(stateless, "trainer_state.json"));
    const weightless = await checkpoint("checkpoint-4");
    rmSync(join(weightless, "model.safetensors"));
    write("checkpoint-5", "a file");
    expect(latestCheckpoint(folder)).toBe(whole);
  });

  test("is restored from where a dying process left it", async () => {
    await checkpoint("checkpoint-1");
    await checkpoint(`checkpoint-2.old-${deadPid}`);
    expect(latestCheckpoint(folder)).toBe(join(folder, "checkpoint-2"));
    expect(readdirSync(folder).sort()).toEqual(["checkpoint-1", "checkpoint-2"]);
  });
});
