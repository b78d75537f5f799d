/**
 * On the emulated GPU: moments in 8 bits, masters in bfloat16 and weights in NF4 train, and resume to the same bytes; and so do
 * states in host memory, to those of a run that has them on the device.
 */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type Flags, fingerprint, metricsOf, tinyTraining, workFolder } from "../e2e/runs.ts";
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

/** The bytes of a run's weights and last checkpoint. */
const bytesIn = (folder: string, weights: string) =>
  [weights, "checkpoint-2/optimizer.safetensors"].map((name) => fingerprint(folder, name));

test.each<[string, Flags, string]>([
  ["float32 masters", { dtype: "bfloat16" }, "model.safetensors"],
  ["8 bits and no masters", { optim: "adamw_8bit", master_dtype: "bfloat16", dtype: "bfloat16" }, "model.safetensors"],
  [
    "adapters",
    { use_peft: true, lora_target_modules: "all-linear", dtype: "bfloat16", optim: "adamw_8bit" },
    "adapter_model.safetensors",
  ],
  ["a moving reference", { sync_ref_model: true, ref_model_sync_steps: 1, dtype: "bfloat16" }, "model.safetensors"],
  ["a critic", { advantage_estimator: "gae", dtype: "bfloat16" }, "critic/model.safetensors"],
])(
  "offloaded, %s: the bytes of states on the device, with streams that do nothing early",
  async (name, form, weights) => {
    const [there, here] = ["there", "here"].map((place) => work.at(`${name.replaceAll(" ", "-")}-${place}`));
    await emulated({ ...form, output_dir: there! });
    const lazy = { env: { ...checked, EMULATOR_STREAMS: "lazy" } };
    const offloaded = {
      ...tinyTraining,
      device: "cuda",
      max_steps: 2,
      save_steps: 1,
      ...form,
      offload_optimizer: true,
    };
    const { out } = await succeeds("train", { ...offloaded, output_dir: here! }, lazy);
    const straight = bytesIn(there!, weights);
    expect(bytesIn(here!, weights)).toEqual(straight);
    expect(out).toMatch(/Adam moments +on the host/);
    expect(out).toMatch(/pinned in the host's memory instead of the GPU's +\d/);
    // The setting is free when a run resumes: from a checkpoint of states on the device, too.
    rmSync(join(there!, "checkpoint-2"), { recursive: true });
    rmSync(join(there!, weights));
    const resumed = { output_dir: there!, resume_from_checkpoint: join(there!, "checkpoint-1") };
    await succeeds("train", { ...offloaded, ...resumed }, lazy);
    expect(bytesIn(there!, weights)).toEqual(straight);
  },
);
