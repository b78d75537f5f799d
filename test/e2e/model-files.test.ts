/** Loading and saving models: a saved model equals the loaded one, in every folder layout; and the planned memory. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.ts";
import { readModelConfig } from "../../src/checkpoint/huggingface.ts";
import { openSafetensors } from "../../src/checkpoint/safetensors.ts";
import { type TensorSource, writeSafetensors, writeWeights } from "../../src/checkpoint/safetensors-write.ts";
import { configFor } from "../../src/config/load.ts";
import type { Device } from "../../src/device/device.ts";
import { runRecordedUpdate } from "../../src/grpo/recorded-update.ts";
import { openRunDevice } from "../../src/run/device.ts";
import { planPolicy, planSampling, planTraining } from "../../src/session/policy.ts";
import { planReference } from "../../src/session/reference.ts";
import { planSession } from "../../src/session/session.ts";
import { bfloat16ToNumber, numberToBfloat16 } from "../../src/tensor/dtype.ts";
import { argvOf, bundledModel, type Flags, fingerprint, grpo, root, tinyTraining, train, workFolder } from "./runs.ts";
import { readTensors } from "./tensors.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

/** Tied head, biases, q/k norm with an untied head. */
const models = ["llama-tied", "qwen2-bias", "qwen3-qknorm"];
const folderOf = (model: string) => join(root, "test/golden", model);

/** An update that changes nothing: loads the model and saves it. */
async function passThrough(folder: string, name: string, flags: Flags = {}): Promise<string> {
  const output_dir = work.at(name);
  const rollouts = work.at("one.jsonl");
  const line = { group: 0, prompt_ids: [5, 6, 7], completion_ids: [8, 9], reward: 1 };
  writeFileSync(rollouts, `${JSON.stringify(line)}\n`);
  const argv = argvOf({ rollouts, output_dir, learning_rate: 0, beta: 0, ...flags });
  const { config } = configFor("update", argv);
  await runRecordedUpdate({ config, folder, resume: null, note: () => {}, onStep: () => {} });
  return output_dir;
}

/** All tensors of a folder, as stored bytes. */
function stored(folder: string): Record<string, unknown> {
  const checkpoint = openCheckpoint(folder);
  try {
    const entries = checkpoint.names.map((name) => {
      const { dtype, shape, address, byteLength } = checkpoint.get(name);
      return [name, { dtype, shape, bytes: Bun.hash(bytesAt(address, byteLength)).toString(16) }] as const;
    });
    return Object.fromEntries(entries);
  } finally {
    checkpoint.close();
  }
}

/** A model folder's tensors, each converted by `convert`, to be written again. */
function converted(folder: string, dtype: "F32" | "F16" | "BF16", convert: (values: Float32Array) => Uint8Array) {
  const file = openSafetensors(join(folder, "model.safetensors"));
  const entries = [...file.tensors.values()].map(({ name, shape }): TensorSource => {
    const bytes = convert(readTensors(file.path).get(name)!);
    return { name, dtype, shape, chunks: () => [bytes] };
  });
  file.close();
  return entries;
}

const bytesOf = ({ buffer, byteOffset, byteLength }: ArrayBufferView) =>
  new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);

/** The model in another folder layout or dtype. */
async function rewritten(
  model: string,
  name: string,
  entries: readonly TensorSource[],
  options: { readonly dtype?: string; readonly maxShardBytes?: number } = {},
): Promise<string> {
  const folder = work.at(name);
  cpSync(folderOf(model), folder, { recursive: true });
  rmSync(join(folder, "model.safetensors"));
  await writeWeights(folder, entries, options.maxShardBytes ? { maxShardBytes: options.maxShardBytes } : {});
  const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as Record<string, unknown>;
  if (options.dtype) writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, dtype: options.dtype }));
  return folder;
}

describe.each(models)("%s", (model) => {
  test("float32 is saved byte for byte, with its config.json", async () => {
    const saved = await passThrough(folderOf(model), `${model} float32`);
    expect(stored(saved)).toEqual(stored(folderOf(model)));
    const config = (folder: string) => JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as unknown;
    expect(config(saved)).toEqual(config(folderOf(model)));
    const again = await passThrough(saved, `${model} float32 again`);
    expect(fingerprint(again, "model.safetensors")).toBe(fingerprint(saved, "model.safetensors"));
  });

  test("bfloat16 is the nearest to each number, and is saved byte for byte from then on", async () => {
    const saved = await passThrough(folderOf(model), `${model} bfloat16`, { dtype: "bfloat16" });
    const original = readTensors(join(folderOf(model), "model.safetensors"));
    const file = openSafetensors(join(saved, "model.safetensors"));
    for (const { name, dtype, address, byteLength } of file.tensors.values()) {
      expect(dtype).toBe("BF16");
      const nearest = Uint16Array.from(original.get(name)!, numberToBfloat16);
      expect(new Uint16Array(bytesAt(address, byteLength).slice(0))).toEqual(nearest);
    }
    file.close();
    expect(readModelConfig(saved).dtype).toBe("bfloat16");
    const again = await passThrough(saved, `${model} bfloat16 again`);
    expect(fingerprint(again, "model.safetensors")).toBe(fingerprint(saved, "model.safetensors"));
    // Float32 masters of bfloat16 weights equal those weights.
    const masters = readTensors(join(again, "checkpoint-1/optimizer.safetensors"));
    for (const [name, values] of original)
      expect(masters.get(`master.${name}`)).toEqual(values.map((x) => bfloat16ToNumber(numberToBfloat16(x))));
  });

  test("float16 is loaded, and saved, as float32", async () => {
    const half = (values: Float32Array) => bytesOf(Float16Array.from(values));
    const folder = await rewritten(model, `${model} float16`, converted(folderOf(model), "F16", half), {
      dtype: "float16",
    });
    const saved = await passThrough(folder, `${model} float16 saved`);
    expect(readModelConfig(saved).dtype).toBe("float32");
    const original = readTensors(join(folderOf(model), "model.safetensors"));
    for (const [name, values] of readTensors(join(saved, "model.safetensors")))
      expect(values).toEqual(Float32Array.from(Float16Array.from(original.get(name)!)));
  });

  test("shards load the same as a single file", async () => {
    const entries = converted(folderOf(model), "F32", bytesOf);
    const folder = await rewritten(model, `${model} shards`, entries, { maxShardBytes: 60_000 });
    expect(readdirSync(folder).filter((name) => name.startsWith("model-")).length).toBeGreaterThan(2);
    const saved = await passThrough(folder, `${model} shards saved`);
    expect(stored(saved)).toEqual(stored(folderOf(model)));
  });
});

test("a trained model's folder has everything that the next command needs", async () => {
  const folder = work.at("trained");
  await train(folder, { max_steps: 1, save_steps: 1 });
  const files = readdirSync(bundledModel).filter((name) => name !== "README.md"); // the bundled model's own card
  for (const saved of [folder, join(folder, "checkpoint-1")])
    expect(files.filter((name) => !readdirSync(saved).includes(name))).toEqual([]);
  expect(fingerprint(folder, "tokenizer.json")).toBe(fingerprint(bundledModel, "tokenizer.json"));
  expect(fingerprint(folder, "model.safetensors")).toBe(fingerprint(folder, "checkpoint-1/model.safetensors"));
  const flags = { model: folder, prompt: "What is 1 and 2?", max_completion_length: 8 };
  const { code, out, err } = await grpo(["generate", ...argvOf(flags)]);
  expect({ code, err }).toEqual({ code: 0, err: "" });
  expect(out.endsWith("\n")).toBe(true);
});

test("another order of a file's tensors, and unaligned ones, load the same", async () => {
  const entries = converted(folderOf("llama-tied"), "F32", bytesOf).reverse();
  const folder = await rewritten("llama-tied", "reversed", entries);
  expect(stored(await passThrough(folder, "reversed saved"))).toEqual(stored(folderOf("llama-tied")));
  // As files were before headers were padded: the data starts at an odd byte.
  const path = join(folder, "model.safetensors");
  await writeSafetensors(path, entries);
  const bytes = readFileSync(path);
  const length = Number(bytes.readBigUInt64LE(0));
  const grown = Buffer.concat([bytes.subarray(0, 8 + length), Buffer.from(" "), bytes.subarray(8 + length)]);
  grown.writeBigUInt64LE(BigInt(length + 1));
  writeFileSync(path, grown);
  expect(stored(await passThrough(folder, "unaligned saved"))).toEqual(stored(folderOf("llama-tied")));
});

describe("memory", () => {
  test("the allocation equals the plan, in one piece", async () => {
    const device = await openRunDevice({ device: "cpu", threads: null }, () => {});
    const allocations: number[] = [];
    const watched: Device = {
      ...device,
      allocate(bytes, what) {
        allocations.push(bytes);
        return device.allocate(bytes, what);
      },
    };
    const planned = planSession(watched, (plan) => {
      const from = plan.folder(bundledModel);
      const model = planPolicy(plan, from, { dtype: null, positions: 96 });
      const reference = planReference(plan, from, model);
      const policy = planTraining(plan, model, { tokens: 512, longestPrompt: 64 });
      const limits = { maxSequences: 8, longestPrompt: 64, maxCompletion: 32, promptRoom: 4, penalized: true };
      return { policy, reference, rollout: planSampling(plan, model, limits) };
    });
    expect(allocations).toEqual([]);
    const session = await planned.open();
    expect(allocations).toEqual([planned.memory.plan.totalBytes]);
    session.close();
  });

  test("grpo plan prints every group, the phases and the peak, and creates no output_dir", async () => {
    const output_dir = work.at("planned");
    const { code, out, err } = await grpo(["plan", ...argvOf({ ...tinyTraining, output_dir })]);
    expect(code).toBe(0);
    expect(err).toMatch(/^(note: .*\n)*$/);
    const row = (name: string, when = "") => {
      const line = out.split("\n").find((text) => text.startsWith(name) && text.includes(`${when} `));
      return Number(/([\d.]+)\s*(fits)?\s*$/.exec(line ?? "")?.[1]);
    };
    const always = ["policy weights", "reference weights", "Adam moments", "optimizer scalars", "rotary tables"];
    const sum = (names: readonly string[]) => names.map((name) => row(name)).reduce((a, b) => a + b, 0);
    // Numbers are printed to a tenth of a MiB.
    const rollout = sum([...always, "rollout activations", "key-value cache"]);
    expect(Math.abs(rollout - row("planned buffers during rollout"))).toBeLessThan(0.4);
    const [head, layers, mlp, attention] = ["head", "layers", "mlp", "attention"].map((stage) =>
      row("update activations", `update, ${stage}`),
    );
    const stages = Math.max(head!, layers! + Math.max(mlp!, attention!)); // which share memory
    const update = stages + sum([...always, "update activations", "update activations kept", "gradients"]);
    expect(Math.abs(update - row("planned buffers during update"))).toBeLessThan(0.4);
    const held = Math.max(row("planned buffers during rollout"), row("planned buffers during update"));
    const peak = held + row("kernel scratch") + row("program");
    expect(Math.abs(peak / row("peak") - 1)).toBeLessThan(0.02);
    expect(out).toMatch(/free on this machine\s+\d+\s+fits\n/);
    expect(readdirSync(work.path)).not.toContain("planned");
  });

  test("a plan too large for any machine is reported before anything is allocated", async () => {
    const huge = { max_completion_length: 400, micro_batch_tokens: 2 ** 30, per_device_train_batch_size: 2 ** 24 };
    const argv = argvOf({ ...tinyTraining, ...huge, output_dir: work.at("huge") });
    const plan = await grpo(["plan", ...argv]);
    expect(plan.code).toBe(1);
    expect(plan.out).toMatch(/does not fit/);
    const { code, err } = await grpo(["train", ...argv]);
    expect(code).toBe(2);
    expect(err).toMatch(
      /^grpo train: the plan needs \d+ MiB and \d+ MiB are free \(largest: .*\); lower micro_batch_tokens.*\n$/,
    );
  });
});

test("impossible optimizer state is refused with its file", async () => {
  const folder = folderOf("llama-tied");
  const checkpoint = join(await passThrough(folder, "damaged state"), "checkpoint-1");
  const path = join(checkpoint, "optimizer.safetensors");
  const sound = readFileSync(path);
  const header = JSON.parse(sound.toString("utf8", 8, 8 + Number(sound.readBigUInt64LE(0)))) as Record<
    string,
    { data_offsets: [number, number] }
  >;
  const data = 8 + Number(sound.readBigUInt64LE(0));
  const { config } = configFor(
    "update",
    argvOf({
      rollouts: work.at("one.jsonl"),
      output_dir: work.at("never"),
      beta: 0,
      resume_from_checkpoint: checkpoint,
    }),
  );
  const state = { step: 1, totalSteps: 2, config: {} };
  const resumed = (value: number, kind: string) => {
    const bytes = Buffer.from(sound);
    bytes.writeFloatLE(value, data + header[`${kind}.model.norm.weight`]!.data_offsets[0] + 4);
    writeFileSync(path, bytes);
    const resume = { folder: checkpoint, state };
    return runRecordedUpdate({ config, folder, resume, note: () => {}, onStep: () => {} });
  };
  await expect(resumed(Number.NaN, "exp_avg")).rejects.toThrow(
    /optimizer\.safetensors: tensor exp_avg\.model\.norm\.weight has numbers that are not finite; the file is damaged: resume/,
  );
  await expect(resumed(-1, "exp_avg_sq")).rejects.toThrow(
    /exp_avg_sq\.model\.norm\.weight has numbers that are negative/,
  );
  await resumed(-1, "exp_avg");
});
