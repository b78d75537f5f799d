/** Models of several billion parameters are planned into the memory of one card, without their weights being read. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { writeSparseModel } from "../fixtures/sparse-model.ts";
import { argvOf, bundledModel, type Flags, grpo, problems, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

const qwen3 = {
  ...{ model_type: "qwen3", architectures: ["Qwen3ForCausalLM"], vocab_size: 151_936, num_hidden_layers: 36 },
  ...{ num_attention_heads: 32, num_key_value_heads: 8, head_dim: 128, max_position_embeddings: 40_960 },
  ...{ rms_norm_eps: 1e-6, rope_theta: 1_000_000, hidden_act: "silu", torch_dtype: "bfloat16", eos_token_id: 2 },
};

/** Peak and weights in MiB of 16 completions of 1,024 tokens, with adapters in all projections. */
async function planned(model: string, flags: Flags) {
  const run: Flags = {
    ...{ model, dataset: problems, num_generations: 16, per_device_train_batch_size: 16, max_completion_length: 1024 },
    ...{ gradient_checkpointing: true, use_peft: true, lora_target_modules: "all-linear", memory: "24GiB" },
    ...{ output_dir: work.at("planned"), ...flags },
  };
  const { code, out, err } = await grpo(["plan", ...argvOf(run)]);
  expect([code, code === 0 ? "" : err + out]).toEqual([0, ""]);
  const numberOf = (line: RegExp) => Number(line.exec(out)?.[1]);
  return { peak: numberOf(/^peak +([\d.]+)$/m), weights: numberOf(/^policy weights .* ([\d.]+)$/m), out };
}

test("Qwen3-8B in 4 bits and Qwen3-4B in bfloat16 fit 24 GB", async () => {
  const [large, small] = [
    { ...qwen3, hidden_size: 4096, intermediate_size: 12_288, tie_word_embeddings: false },
    { ...qwen3, hidden_size: 2560, intermediate_size: 9728, tie_word_embeddings: true },
  ].map((json, i) => writeSparseModel(work.at(`model-${i}`), json, bundledModel));
  const four = await planned(large!, { load_in_4bit: true, optim: "adamw_8bit" });
  expect(four.out).toContain("fits");
  expect(four.peak).toBeLessThan(24 * 1024);
  // 6.95 billion weights of projections at 4 + 8/64 + 32/(64 · 256) bits, embedding and head of 151,936 × 4,096 at 16.
  const bits = 36 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 4096 * 12_288) * (4 + 8 / 64 + 32 / (64 * 256));
  const bytes = bits / 8 + 2 * 2 * 151_936 * 4096;
  expect(Math.abs(four.weights - bytes / 2 ** 20)).toBeLessThan(2);
  expect((await planned(small!, {})).peak).toBeLessThan(24 * 1024);
});
