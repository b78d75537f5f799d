/** On the emulated GPU: moments in 8 bits, masters in bfloat16 and weights in NF4 train, and resume to the same bytes. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type Flags, metricsOf, tinyTraining, workFolder } from "../e2e/runs.ts";
import { checked, succeeds } from "./emulated.ts";

// The emulator may have to be compiled first.
setDefaultTimeout(600_000);

const work = workFolder();
afterAll(work.remove);

const emulated = (flags: Flags) =>
  succeeds("train", { ...tinyTraining, device: "cuda", max_steps: 2, save_steps: 1, ...flags }, { env: checked });

test.each<[string, Flags, string]>([
  ["moments in 8 bits", { optim: "adamw_8bit" }, "model.safetensors"],
  ["both", { optim: "adamw_8bit", master_dtype: "bfloat16", dtype: "bfloat16" }, "model.safetensors"],
  [
    "adapters beside NF4",
    { load_in_4bit: true, use_peft: true, lora_target_modules: "all-linear", dtype: "bfloat16", optim: "adamw_8bit" },
    "adapter_model.safetensors",
  ],
])("%s", async (name, form, weights) => {
  const folder = work.at(name.replaceAll(" ", "-"));
  await emulated({ ...form, output_dir: folder });
  const bytesOf = () => [
    readFileSync(join(folder, weights)).toBase64(),
    readFileSync(join(folder, "checkpoint-2/optimizer.safetensors")).toBase64(),
  ];
  const straight = bytesOf();
  const steps = metricsOf(folder).filter(({ loss }) => loss !== undefined);
  expect(steps.map(({ step }) => step)).toEqual([1, 2]);
  expect(Number(steps[1]!.grad_norm)).toBeGreaterThan(0);
  rmSync(join(folder, "checkpoint-2"), { recursive: true });
  rmSync(join(folder, weights));
  await emulated({ ...form, output_dir: folder, resume_from_checkpoint: join(folder, "checkpoint-1") });
  expect(bytesOf()).toEqual(straight);
});
