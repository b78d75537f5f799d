/** The reference for adapters: PEFT's on test/golden's models, with the numbers of TRL's own loss code (make_lora.py). */
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type ExpectedCase, expectClose, folderOf } from "./golden.ts";
import { type Flags, metricsOf } from "./runs.ts";
import { differences, readTensors, worstRelative } from "./tensors.ts";

export interface ExpectedAdapter {
  readonly settings: Flags;
  readonly logprobs: readonly (readonly number[])[];
  /** Without the adapter. */
  readonly reference_logprobs: readonly (readonly number[])[];
  readonly cases: Readonly<Record<string, Pick<ExpectedCase, "config" | "loss" | "grad_norm">>>;
}

export const madeOf = (model: string) => join(folderOf(model), "../lora", model);
export const expectedAdapter = (model: string) =>
  JSON.parse(readFileSync(join(madeOf(model), "expected.json"), "utf8")) as ExpectedAdapter;

/** PEFT's folder, copied to `folder`, with the base model where it is here. */
export function adapterAt(folder: string, model: string): string {
  cpSync(madeOf(model), folder, { recursive: true });
  const path = join(folder, "adapter_config.json");
  const json = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  writeFileSync(path, JSON.stringify({ ...json, base_model_name_or_path: folderOf(model) }));
  return folder;
}

/** Flags of `update` for a case. */
export function adapterUpdate(model: string, name: string, adapter: string, outputDir: string): Flags {
  const { settings, cases } = expectedAdapter(model);
  const rollouts = join(folderOf(model), "rollouts.jsonl");
  const own = { use_peft: true, model: adapter };
  return { rollouts, output_dir: outputDir, ...settings, ...cases[name]!.config, ...own };
}

/** Checks an update's losses, gradient norms and, if recorded, what it moved. */
export function expectAdapterUpdated(model: string, name: string, outputDir: string): void {
  const { loss, grad_norm: norms } = expectedAdapter(model).cases[name]!;
  for (const [i, record] of metricsOf(outputDir).entries()) {
    const [relative, lossSlack, normSlack] = i === 0 ? [1e-4, 1e-5, 1e-5] : [5e-3, 2e-4, 2e-3];
    expectClose(Number(record.loss), loss[i]!, relative, lossSlack, `loss of step ${i + 1}`);
    expectClose(Number(record.grad_norm), norms[i]!, relative, normSlack, `norm of step ${i + 1}`);
  }
  if (name !== "grpo" && name !== "dapo") return;
  const [before, after, reference] = [
    join(madeOf(model), "adapter_model.safetensors"),
    join(outputDir, "adapter_model.safetensors"),
    join(madeOf(model), `updated-${name}.safetensors`),
  ].map(readTensors);
  const worst = worstRelative(differences(after!, before!), differences(reference!, before!));
  expectClose(worst.error, 0, 0, 2e-2, `movement of ${worst.name}`);
}
