/**
 * LoRA on the emulated GPU: PEFT's adapters give their logprobs, the updates of TRL's loss code move them as they should, and a
 * run samples, learns and resumes as on the CPU.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expectClose, folderOf } from "../e2e/golden.ts";
import { adapterAt, adapterUpdate, expectAdapterUpdated, expectedAdapter } from "../e2e/golden-lora.ts";
import { logprobsApart } from "../e2e/logprob-line.ts";
import { argvOf, type Flags, fingerprint, grpo, metricsOf, workFolder } from "../e2e/runs.ts";
import { checked, succeeds } from "./emulated.ts";

// The emulator may have to be compiled first, and kernels are compiled on demand.
setDefaultTimeout(600_000);

const work = workFolder();
afterAll(work.remove);

describe.each(["llama-tied", "qwen3-qknorm"])("%s", (model) => {
  const adapter = adapterAt(work.at(model), model);

  test.each(["float32", "bfloat16"])("logprobs in %s", async (dtype) => {
    const output = work.at(`${model}-${dtype}.jsonl`);
    const input = join(folderOf(model), "rollouts.jsonl");
    await succeeds("score", { model: adapter, input, output, dtype }, { env: checked });
    const lines = readFileSync(output, "utf8").trimEnd().split("\n");
    const { worst, mean } = logprobsApart(
      lines.map((line) => (JSON.parse(line) as { logprobs: number[] }).logprobs),
      expectedAdapter(model).logprobs,
    );
    expect(worst).toBeLessThanOrEqual(dtype === "float32" ? 2e-5 : 0.15);
    expect(mean).toBeLessThanOrEqual(dtype === "float32" ? 1e-5 : 0.03);
  });

  test("the update of grpo", async () => {
    const outputDir = work.at(`${model}-grpo`);
    await succeeds("update", adapterUpdate(model, "grpo", adapter, outputDir), { env: checked });
    expectAdapterUpdated(model, "grpo", outputDir);
  });
});

test("a run: the CPU's losses, the same bytes after a resume", async () => {
  const flags: Flags = {
    ...{ use_peft: true, lora_r: 8, lora_target_modules: "all-linear", modules_to_save: "norm", learning_rate: 1e-2 },
    ...{ per_device_train_batch_size: 8, num_generations: 4, max_completion_length: 12, temperature: 1.2 },
    ...{ eval_samples: 4, max_steps: 2, save_steps: 1 },
  };
  const [own, cut, cpu] = [work.at("run"), work.at("cut"), work.at("cpu")];
  await Promise.all([
    succeeds("train", { ...flags, output_dir: own }),
    grpo(["train", ...argvOf({ ...flags, output_dir: cpu })], { seconds: 120 }),
    succeeds("train", { ...flags, output_dir: cut, lr_scheduler_type: "constant", max_steps: 1 }).then(() =>
      succeeds("train", { ...flags, output_dir: cut, resume_from_checkpoint: true }),
    ),
  ]);
  const stepsOf = (folder: string) => metricsOf(folder).filter(({ loss }) => loss !== undefined);
  const [ours, theirs] = [stepsOf(own), stepsOf(cpu)];
  expect(ours).toHaveLength(2);
  for (const [i, record] of ours.entries()) {
    expectClose(Number(record.loss), Number(theirs[i]!.loss), 1e-3, 1e-4, `loss of step ${i + 1}`);
    expectClose(Number(record.grad_norm), Number(theirs[i]!.grad_norm), 1e-2, 1e-3, `norm of step ${i + 1}`);
    expect(Number(record["sampling/sampling_logp_difference/max"])).toBeLessThan(1e-4);
  }
  expect(Number(ours[0]!.kl)).toBeLessThan(1e-6);
  expect(fingerprint(cut, "adapter_model.safetensors")).toBe(fingerprint(own, "adapter_model.safetensors"));
});
