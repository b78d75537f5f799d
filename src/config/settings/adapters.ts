/** LoRA: which low-rank matrices are trained in place of the weights. The names are TRL's and PEFT's. */
import { z } from "zod";
import { choice, list, number, toggle, whole } from "./kinds.ts";

export const adapterSettings = {
  use_peft: toggle(false)`
    Train low-rank adapters (LoRA) beside frozen weights. Saved in PEFT's format; the reference model is the policy without
    them and takes no memory.`,
  lora_r: whole(1, 16, 65_536)`Their rank.`,
  lora_alpha: number({ above: 0 }, 32)`Their product is multiplied by lora_alpha / lora_r.`,
  lora_dropout: number({ min: 0, below: 1 }, 0)`
    Must be 0: with dropout, the trained model would be another than the sampled one.`,
  lora_target_modules: list(z.string().min(1), "all-linear|NAME,…")`
    Projections that get an adapter, e.g. q_proj,v_proj; all-linear: all in the layers. null: q_proj and v_proj, as in PEFT.`,
  use_rslora: toggle(false)`Multiply by lora_alpha / √lora_r instead, which suits high ranks.`,
  modules_to_save: list(z.string().min(1), "NAME,…")`
    Other modules that are trained too, as copies, and saved with the adapter: embed_tokens, lm_head, norm, …`,
  lora_init: choice(["default", "gaussian"], "default")`
    The first of an adapter's two matrices: default, uniform as in PEFT, or gaussian. The second starts at 0.`,
} as const;
