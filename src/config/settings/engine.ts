/** Which model, on which device, in which number format. */
import { z } from "zod";
import { choice, described, number, text, toggle, whole } from "./kinds.ts";

export const engineSettings = {
  model: text(null, "FOLDER|ID")`
    Model folder (config.json, *.safetensors, tokenizer.json) or hub id. null: the bundled tiny model.`,
  model_revision: text(null, "NAME")`
    Branch, tag or commit of a model from the hub; the same as NAME in \`--model org/model@NAME\`. null: the default branch.`,
  device: described(
    z
      .string()
      .regex(/^(auto|cpu|cuda(:\d{1,3})?)$/)
      .default("auto"),
    { placeholder: "auto|cpu|cuda|cuda:N", allowed: "one of auto, cpu, cuda, cuda:N" },
  )`Where to compute. auto: CUDA if there is a usable GPU, otherwise the CPU. cuda:1 is the second GPU.`,
  dtype: choice(["float32", "bfloat16"], null)`
    Number format of weights and activations, and of what is saved. null: the checkpoint's (float16 becomes float32).`,
  load_in_4bit: toggle(false)`
    Keep the projections of frozen layers in NF4 with double quantization (QLoRA), as bitsandbytes does: 4.13 bits each. A model
    that is stored so is read so.`,
  threads: whole(1, null)`CPU threads. null: every core this process may use. Results do not depend on it.`,
  seed: whole(0, 42, 2 ** 32 - 1)`Seed of sampling, of the row order and of anything else that is random.`,
} as const;

export const referenceModelSettings = {
  ref_model: text(null, "FOLDER|ID")`
    The frozen reference model of the KL term. null: the model that training starts from.`,
} as const;

/** A reference that follows the policy (TR-DPO, arXiv 2404.09656). */
export const referenceSyncSettings = {
  sync_ref_model: toggle(false)`Move the reference towards the policy every ref_model_sync_steps.`,
  ref_model_mixup_alpha: number({ min: 0, max: 1 }, 0.6)`
    Share of the policy in the moved reference: alpha · policy + (1 - alpha) · reference.`,
  ref_model_sync_steps: whole(1, 512)`How often the reference is moved, in steps.`,
} as const;

export const debugSettings = {
  debug: toggle(false)`Show stack traces, even for mistakes in usage or input.`,
} as const;
