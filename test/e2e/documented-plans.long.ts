/**
 * The memory that the pages promise of published models: each number is read from its page and planned again, from a folder with
 * the model's published sizes and a dataset with as many rows and as long a longest prompt. On the instruction path that the
 * pages name, since activations of others have other sizes.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeSparseModel } from "../fixtures/sparse-model.ts";
import { argvOf, bundledModel, type Flags, grpo, root, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

const shared = { hidden_act: "silu", rms_norm_eps: 1e-6, torch_dtype: "bfloat16", eos_token_id: 2 };
/** https://huggingface.co/Qwen/Qwen3-0.6B/blob/main/config.json */
const qwen = {
  ...{ ...shared, model_type: "qwen3", architectures: ["Qwen3ForCausalLM"], vocab_size: 151_936, hidden_size: 1024 },
  ...{ intermediate_size: 3072, num_hidden_layers: 28, num_attention_heads: 16, num_key_value_heads: 8, head_dim: 128 },
  ...{ max_position_embeddings: 40_960, rope_theta: 1_000_000, tie_word_embeddings: true },
};
/** https://huggingface.co/deepseek-ai/deepseek-math-7b-instruct/blob/main/config.json */
const deepseek = {
  ...{ ...shared, model_type: "llama", architectures: ["LlamaForCausalLM"], vocab_size: 102_400, hidden_size: 4096 },
  ...{ intermediate_size: 11_008, num_hidden_layers: 30, num_attention_heads: 32, num_key_value_heads: 32 },
  ...{ max_position_embeddings: 4096, rope_theta: 10_000, tie_word_embeddings: false },
};

/** Rows of short questions, and one of so many digits. */
function rows(name: string, count: number, digits: number): string {
  const lines = Array.from({ length: count }, (_, i) =>
    JSON.stringify({ question: "1".repeat(i === 0 ? digits : 4), answer: "#### 2" }),
  );
  const path = work.at(name);
  writeFileSync(path, `${lines.join("\n")}\n`);
  return path;
}

const onQwen: Flags = {
  ...{ model: writeSparseModel(work.at("qwen"), qwen, bundledModel), dataset: rows("gsm8k.jsonl", 7473, 247) },
  num_generations: 8,
};
const step: Flags = { ...onQwen, per_device_train_batch_size: 32 };
const lever: Flags = { ...step, gradient_checkpointing: true };
const gsm8k: Flags = {
  ...{ ...onQwen, dtype: "bfloat16", per_device_train_batch_size: 256, max_completion_length: 768 },
  ...{ max_steps: 200, save_steps: 50 },
};
const math: Flags = {
  ...{ model: writeSparseModel(work.at("deepseek"), deepseek, bundledModel), dataset: rows("math.jsonl", 7500, 2030) },
  ...{ preset: "deepseekmath", dtype: "bfloat16", reward_funcs: "math", save_steps: 10, save_total_limit: 2 },
};

const peak = /^peak +([\d.]+)/m;
const checkpoint = /^on disk, a checkpoint +([\d.]+)$/m;

/** A page, the number in it, the run that it speaks of, and where `grpo plan` says it. */
const claims: readonly (readonly [page: string, claim: RegExp, flags: Flags, said: RegExp])[] = [
  ["memory", /^peak +(\d+)$/m, lever, peak],
  ["memory", /^on disk, a checkpoint +(\d+)$/m, lever, checkpoint],
  [
    "memory",
    /^on disk, 18 checkpoints and the model +(\d+)$/m,
    lever,
    /^on disk, 18 checkpoints and the model +(\d+)$/m,
  ],
  ["memory", /\| as above \| ([\d,]+)/, lever, peak],
  ["memory", /\| `--use_peft` \| ([\d,]+)/, { ...lever, use_peft: true }, peak],
  [
    "memory",
    /\| `--use_peft --max_concurrent_sequences 16` \| ([\d,]+)/,
    { ...lever, use_peft: true, max_concurrent_sequences: 16 },
    peak,
  ],
  ["memory", /\| `--max_concurrent_sequences 16` \| ([\d,]+)/, { ...lever, max_concurrent_sequences: 16 }, peak],
  ["memory", /\| `--max_completion_length 256` \| ([\d,]+)/, { ...lever, max_completion_length: 256 }, peak],
  ["memory", /\| `--beta 0` \| ([\d,]+)/, { ...lever, beta: 0 }, peak],
  [
    "memory",
    /\| `--beta 0 --max_concurrent_sequences 16` \| ([\d,]+)/,
    { ...lever, beta: 0, max_concurrent_sequences: 16 },
    peak,
  ],
  ["memory", /\| `--micro_batch_tokens 512` \| ([\d,]+)/, { ...lever, micro_batch_tokens: 512 }, peak],
  [
    "memory",
    /its update falls from [\d,]+ to ([\d,]+)/,
    { ...lever, micro_batch_tokens: 512 },
    /^planned buffers during update +(\d+)$/m,
  ],
  [
    "memory",
    /\| `--per_device_train_batch_size 256` \| ([\d,]+)/,
    { ...lever, per_device_train_batch_size: 256 },
    peak,
  ],
  ["memory", /\| `--dtype float32` \| ([\d,]+)/, { ...lever, dtype: "float32" }, peak],
  ["memory", /\| `--gradient_checkpointing false` \| ([\d,]+)/, { ...lever, gradient_checkpointing: false }, peak],
  ["memory", /\| `--sync_ref_model` \| ([\d,]+)/, { ...lever, sync_ref_model: true }, peak],
  ["memory", /by `grpo plan --compare`\) \| ([\d,]+)/, { ...lever, advantage_estimator: "gae" }, peak],
  ["memory", /^peak (\d+) of 12288 MiB/m, { ...step, fit: true, memory: "RTX 3060" }, /^peak (\d+) of 12288/m],
  [
    "memory",
    /the least is a peak (\d+) of 1024/,
    { ...step, fit: true, memory: "1GiB" },
    /the least is a peak (\d+) of 1024/,
  ],
  ["models", /planned in total \| ([\d,]+)/, lever, /^planned buffers during rollout +(\d+)$/m],
  ["models", /peak, with scratch and the program \| ([\d,]+)/, lever, peak],
  [
    "models",
    /peak, with scratch and the program \| [\d,]+ \| ([\d,]+)/,
    { ...lever, advantage_estimator: "gae" },
    peak,
  ],
  ["models", /in float32 34 % \(([\d,]+)/, { ...lever, dtype: "float32" }, peak],
  ["recipes", /a peak of ([\d,]+) MiB/, { ...gsm8k, gradient_checkpointing: true }, peak],
  ["recipes", /^([\d,]+) for a checkpoint/m, gsm8k, checkpoint],
  ["recipes", /for 12 GB, a peak of ([\d,]+)/, { ...gsm8k, fit: true, memory: "RTX 3060" }, /^peak (\d+) of 12288/m],
  ["recipes", /^`--use_peft` takes ([\d,]+)/m, { ...gsm8k, gradient_checkpointing: true, use_peft: true }, peak],
  ["recipes", /\| the preset, `--dtype bfloat16` \| ([\d,]+)/, { ...math, gradient_checkpointing: true }, peak],
  [
    "recipes",
    /--micro_batch_tokens 8192` \| ([\d,]+)/,
    { ...math, max_concurrent_sequences: 32, micro_batch_tokens: 8192, gradient_checkpointing: true },
    peak,
  ],
  [
    "recipes",
    /\| `--use_peft --gradient_checkpointing true` \| ([\d,]+)/,
    { ...math, use_peft: true, gradient_checkpointing: true },
    peak,
  ],
];

const numberOf = (text: string, pattern: RegExp): number => Number(pattern.exec(text)?.[1]?.replaceAll(",", ""));

// The figures are of AVX2, which only x86 has.
describe.skipIf(process.arch !== "x64")("what the pages say that published models take", () => {
  for (const [page, claim, flags, said] of claims)
    test(`${page}.md: ${claim.source}`, async () => {
      const documented = numberOf(readFileSync(join(root, "docs", `${page}.md`), "utf8"), claim);
      expect(documented).toBeGreaterThan(0);
      const argv = ["plan", ...argvOf({ device: "cpu", memory: "200GiB", ...flags })];
      const { out } = await grpo(argv, { env: { BUN_GRPO_CPU_PATH: "avx2" } });
      // The program's own memory, which the peak includes, is that of the process that plans.
      expect(Math.abs(numberOf(out, said) / documented - 1)).toBeLessThan(flags.fit === true ? 0.03 : 0.008);
    });

  test("what --fit finds for the recipe of MATH is what its command has", async () => {
    const argv = ["plan", ...argvOf({ device: "cpu", ...math, fit: true, memory: "H200" })];
    const { out, code } = await grpo(argv, { env: { BUN_GRPO_CPU_PATH: "avx2" } });
    expect(code).toBe(0);
    expect(out).toMatch(/--max_concurrent_sequences 32 .*\n {2}--micro_batch_tokens 8192/);
  });
});
