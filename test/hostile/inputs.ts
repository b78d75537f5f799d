/**
 * The valid inputs that every case starts from, small and made by the program itself: `FOLDER/KIND/…`, all described in
 * kinds.ts.
 */
import { copyFileSync, cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { openSafetensors } from "../../src/checkpoint/safetensors.ts";
import { writeWeights } from "../../src/checkpoint/safetensors-write.ts";
import { writeRandomAdapter } from "../fixtures/adapter.ts";
import { compressedBytes, ipcBytes, tableOf } from "../fixtures/data/arrow.ts";
import { writeTinyModel } from "../fixtures/scalar-model.ts";
import { grpoHere } from "./here.ts";

const root = resolve(import.meta.dir, "../..");
const tokenizer = join(root, "data/model");
/** From the bundled tokenizer. */
const vocabSize = 432;

const lines = (rows: readonly unknown[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");

const problem = (i: number) => ({ question: `What is ${i} + ${i}?`, answer: `It is ${2 * i}.\n#### ${2 * i}` });

function rollout(group: number, k: number) {
  const completion_ids = Array.from(
    { length: 1 + ((group + 2 * k) % 4) },
    (_, i) => 5 + ((7 * group + 3 * k + i) % 400),
  );
  const logprobs = completion_ids.map((_, i) => -1 - (k + i) / 8);
  return {
    ...{ group, prompt_ids: [20 + group, 30, 40], completion_ids, finished: k % 2 === 0, reward: k % 3 },
    ...(k === 1 && { mask: completion_ids.map((_, i) => (i % 3 === 1 ? 0 : 1)) }),
    ...{ old_logprobs: logprobs, ref_logprobs: logprobs, sampling_logprobs: logprobs, completion: "text" },
  };
}

const chat =
  "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

/** Two shards of a model's file, and their index. */
async function shard(from: string, to: string): Promise<void> {
  const file = openSafetensors(join(from, "model.safetensors"));
  const tensors = [...file.tensors.values()].map(({ name, shape, address, byteLength }) => ({
    ...{ name, shape, dtype: "F32" as const },
    chunks: () => [new Uint8Array(bytesAt(address, byteLength))],
  }));
  await writeWeights(to, tensors, { maxShardBytes: 60_000 });
  file.close();
}

async function run(command: string, ...argv: string[]): Promise<void> {
  const { code, err } = await grpoHere([command, ...argv, ...(command === "data" ? [] : onCpu)]);
  if (code !== 0) throw new Error(`${command} on sound input: exit status ${code}\n${err}`);
}

/** One thread: the bits are the same for any number, and cases run in parallel. */
export const onCpu = ["--device", "cpu", "--threads", "1"];

/** Flags of a training run of one step on the inputs in `folder`, small enough to take a tenth of a second. */
export const trainingFlags = (folder: string): string[] => [
  ...["--model", join(folder, "model"), "--dataset", join(folder, "problems.arrow"), "--reward_funcs", "gsm8k"],
  ...[
    "--per_device_train_batch_size",
    "2",
    "--num_generations",
    "2",
    "--max_completion_length",
    "3",
    "--max_steps",
    "2",
  ],
  ...["--save_steps", "1", "--beta", "0", "--micro_batch_tokens", "64", "--save_completions", "true"],
];

/** Makes all inputs in `folder`. */
export async function makeInputs(folder: string): Promise<void> {
  const at = (...names: string[]) => {
    const path = join(folder, ...names);
    mkdirSync(dirname(path), { recursive: true });
    return path;
  };
  const model = at("model");
  const small = { vocabSize, context: 256, tokenizer };
  await writeTinyModel(model, { ...small, head: "lm", config: { eos_token_id: 1, tie_word_embeddings: true } });
  writeFileSync(at("problems.jsonl"), lines([1, 2, 3, 4].map(problem)));
  writeFileSync(at("prompts.jsonl"), lines([{ prompt: "2+2?" }, { prompt: [{ role: "user", content: " Tom é🦆 " }] }]));
  const rollouts = lines([0, 1].flatMap((group) => [0, 1, 2].map((k) => rollout(group, k))));
  writeFileSync(at("rollouts.jsonl"), rollouts);
  await run("data", "convert", at("problems.jsonl"), at("problems.arrow"));

  cpSync(model, at("weights/model"), { recursive: true });
  for (const kind of ["config", "tokenizer", "template"]) cpSync(model, at(kind, "model"), { recursive: true });
  writeFileSync(at("template/model/chat_template.jinja"), chat);
  const config = at("tokenizer/model/tokenizer_config.json");
  writeFileSync(config, JSON.stringify({ ...JSON.parse(readFileSync(config, "utf8")), chat_template: chat }));
  mkdirSync(at("shards/model"), { recursive: true });
  for (const name of readdirSync(model))
    if (name !== "model.safetensors") copyFileSync(join(model, name), at("shards/model", name));
  await shard(model, at("shards/model"));

  await writeRandomAdapter(at("adapter/model"), model, { targets: ["q_proj", "down_proj"], saved: ["norm"] });
  cpSync(model, at("models/reference"), { recursive: true });
  await writeTinyModel(at("models/reward"), { ...small, seed: 2 });
  await writeTinyModel(at("models/critic"), { ...small, seed: 3 });

  writeFileSync(at("rollouts/rollouts.jsonl"), rollouts);
  writeFileSync(at("rollouts/packed.jsonl.gz"), Bun.gzipSync(Buffer.from(rollouts)));
  writeFileSync(at("update/rollouts.jsonl"), rollouts);
  copyFileSync(at("prompts.jsonl"), at("prompts/prompts.jsonl"));

  writeFileSync(at("arrow-stream/stream.arrow"), ipcBytes(tableOf(0, 12)));
  writeFileSync(at("arrow-file/file.arrow"), ipcBytes(tableOf(0, 12), "file"));
  writeFileSync(at("arrow-packed/packed.arrow"), compressedBytes(tableOf(0, 12), "zstd"));
  const rows = Array.from({ length: 8 }, (_, i) => ({
    ...problem(i),
    n: i,
    tags: Array(i % 3).fill("a"),
    o: { x: i / 2 },
  }));
  writeFileSync(at("json/rows.jsonl"), lines(rows));
  writeFileSync(at("json/rows.json"), JSON.stringify(rows));
  writeFileSync(at("json/rows.jsonl.zst"), Bun.zstdCompressSync(Buffer.from(lines(rows))));
  // Its column of fixed-size bytes is refused, so cases exclude it.
  copyFileSync(join(root, "test/fixtures/data/problems.parquet"), at("parquet/rows.parquet"));

  await run("update", "--model", model, "--rollouts", at("rollouts.jsonl"), "--output_dir", at("state"), "--beta", "0");
  for (const name of readdirSync(at("state")))
    if (name !== "checkpoint-1") rmSync(join(folder, "state", name), { recursive: true });
  await run("train", ...trainingFlags(folder), "--output_dir", at("resume/run"));
  const settings = {
    model,
    dataset: at("problems.arrow"),
    ...{ reward_funcs: ["gsm8k"], num_generations: 2, per_device_train_batch_size: 4, max_completion_length: 8 },
    ...{ learning_rate: 1e-6, lr_scheduler_type: "cosine", beta: 0, temperature: 0.9 },
  };
  const written = (between: string) =>
    Object.entries(settings)
      .map(([key, value]) => `${key}${between}${JSON.stringify(value)}\n`)
      .join("");
  writeFileSync(at("settings/settings.toml"), written(" = "));
  writeFileSync(at("settings/settings.yaml"), written(": "));
  writeFileSync(at("settings/settings.json"), JSON.stringify(settings, null, 2));
}

if (import.meta.main) {
  await makeInputs(process.argv[2]!);
  process.exit(0);
}
