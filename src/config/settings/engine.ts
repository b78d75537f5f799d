/** Which model, on which device, with which numbers. */
import { z } from "zod";
import { about } from "./about.ts";

export const engineSettings = {
  model: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .meta(
      about(
        "Model folder (config.json, *.safetensors, tokenizer.json) or hub id. null: the bundled tiny model.",
        "FOLDER|ID",
      ),
    ),
  device: z
    .string()
    .regex(/^(auto|cpu|cuda(:\d{1,3})?)$/)
    .default("auto")
    .meta({
      ...about(
        "Where to compute. auto: CUDA where there is a usable GPU, else the CPU. cuda:1 is the second GPU.",
        "auto|cpu|cuda|cuda:N",
      ),
      allowed: "one of auto, cpu, cuda, cuda:N",
    }),
  dtype: z
    .enum(["float32", "bfloat16"])
    .nullable()
    .default(null)
    .meta(
      about(
        "Number format of weights and activations, and of what is saved. null: the checkpoint's (float16 becomes float32).",
      ),
    ),
  threads: z
    .int()
    .min(1)
    .nullable()
    .default(null)
    .meta(about("CPU threads. null: every core this process may use. The results do not depend on it.")),
  seed: z
    .int()
    .min(0)
    .max(2 ** 32 - 1)
    .default(42)
    .meta(about("Seed of sampling, of the order of the rows and of anything else that is drawn.")),
} as const;

export const referenceModelSettings = {
  ref_model: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .meta(about("The frozen reference of the KL term. null: the model training starts from.", "FOLDER|ID")),
} as const;

/** A reference that follows the policy (TR-DPO, arXiv 2404.09656). */
export const referenceSyncSettings = {
  sync_ref_model: z
    .boolean()
    .default(false)
    .meta(about("Move the reference towards the policy every ref_model_sync_steps.")),
  ref_model_mixup_alpha: z
    .number()
    .min(0)
    .max(1)
    .default(0.6)
    .meta(about("Share of the policy in the moved reference: alpha · policy + (1 - alpha) · reference.")),
  ref_model_sync_steps: z.int().min(1).default(512).meta(about("How often the reference is moved, in steps.")),
} as const;

export const debugSettings = {
  debug: z.boolean().default(false).meta(about("Show stack traces, also for mistakes in usage or input.")),
} as const;
