/**
 * Training of families with windows and with experts on the emulated GPU: the same tokens as on the CPU and the same learned
 * from them, the sampler's logprobs those of training up to rounding, and a resumed run of the same bytes.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expectClose } from "../e2e/golden.ts";
import { bundledModel, type Flags, fingerprint, metricsOf, problems, reward, train, workFolder } from "../e2e/runs.ts";
import { writeTinyModel } from "../fixtures/scalar-model.ts";
import { checked, succeeds } from "./emulated.ts";

// The emulator may have to be compiled first, and kernels are compiled on demand.
setDefaultTimeout(600_000);

const work = workFolder();
afterAll(work.remove);

const run: Flags = {
  ...{ dataset: problems, reward_funcs: reward("by_tokens"), per_device_train_batch_size: 8, num_generations: 4 },
  // Longer than the window, through prompts of several pages.
  ...{ max_completion_length: 12, temperature: 1.2, learning_rate: 1e-3, save_steps: 2, dashboard: false },
  ...{ steps_per_generation: 2, gradient_accumulation_steps: 1, max_steps: 4 },
};

const families = {
  gemma3_text: { sliding_window: 9, layer_types: ["sliding_attention", "full_attention"], final_logit_softcapping: 20 },
  mistral: { sliding_window: 7 },
  qwen3_moe: { num_experts: 6, num_experts_per_tok: 2, moe_intermediate_size: 24, router_aux_loss_coef: 0.01 },
} as const;

const completions = (folder: string, step: number) =>
  readFileSync(join(folder, `completions/step-00000${step}.jsonl`), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => (JSON.parse(line) as { completion_ids: number[] }).completion_ids);

describe.each(Object.entries(families))("%s", (modelType, config) => {
  const source = { modelType, head: "lm", tokenizer: bundledModel, vocabSize: 432, context: 512, config } as const;
  const model = writeTinyModel(work.at(modelType), source);

  test("float32: samples and learns the same as the CPU, and resumes to the same bytes", async () => {
    const [gpu, cpu, resumed] = [`${modelType}-gpu`, `${modelType}-cpu`, `${modelType}-resumed`].map(work.at) as [
      string,
      string,
      string,
    ];
    const flags = { ...run, model: await model };
    await succeeds("train", { ...flags, output_dir: gpu }, { env: checked });
    await train(cpu, flags);
    const [got, want] = [metricsOf(gpu), metricsOf(cpu)];
    expect(got.map(({ step }) => step)).toEqual([1, 2, 3, 4]);
    for (const [i, record] of want.entries()) {
      for (const metric of ["loss", "grad_norm", "kl", "entropy", ...(record.aux_loss ? ["aux_loss"] : [])])
        expectClose(Number(got[i]![metric]), Number(record[metric]), 1e-3, 1e-4, `${metric} of step ${i + 1}`);
      expect(got[i]!.reward).toBe(record.reward!);
      expect(Number(got[i]!["sampling/sampling_logp_difference/max"])).toBeLessThan(1e-4);
    }
    for (const step of [1, 3]) expect(completions(gpu, step)).toEqual(completions(cpu, step));
    await succeeds("train", { ...flags, output_dir: resumed, resume_from_checkpoint: join(gpu, "checkpoint-2") });
    expect(fingerprint(resumed, "model.safetensors")).toBe(fingerprint(gpu, "model.safetensors"));
  });

  test("bfloat16: sampled logprobs are close to training's", async () => {
    const folder = work.at(`${modelType}-bfloat16`);
    await succeeds("train", { ...run, model: await model, dtype: "bfloat16", output_dir: folder });
    for (const record of metricsOf(folder)) {
      expect(Number.isFinite(Number(record.loss))).toBe(true);
      expect(Number(record["sampling/sampling_logp_difference/mean"])).toBeLessThan(0.02);
    }
  });
});
