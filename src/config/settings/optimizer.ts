/** How much is done in one step, how many steps, and what AdamW does with a gradient. */
import { scheduleNames } from "../schedules.ts";
import { choice, number, object, toggle, toggleOrAuto, whole } from "./kinds.ts";

export const batchSettings = {
  per_device_train_batch_size: whole(1, 64)`
    Times gradient_accumulation_steps: the completions of one step. Memory depends on micro_batch_tokens instead.`,
  gradient_accumulation_steps: whole(1, 1)`
    See per_device_train_batch_size; only the product matters, except with loss_type bnpo.`,
} as const;

/** `sft` steps over rows. */
export const rowBatchSettings = {
  per_device_train_batch_size: whole(1, 8)`
    Times gradient_accumulation_steps: the rows of one step. Memory depends on micro_batch_tokens instead.`,
  gradient_accumulation_steps: whole(1, 1)`See per_device_train_batch_size; only the product matters.`,
} as const;

export const generationScheduleSettings = {
  steps_per_generation: whole(1, null)`
    A generation serves steps_per_generation ÷ gradient_accumulation_steps steps, shuffled. null: one.`,
} as const;

export const iterationSettings = {
  num_iterations: whole(1, 1)`Passes over each generation's completions (mu in the paper).`,
} as const;

export const durationSettings = {
  max_steps: whole(1, null)`Optimizer steps. null or -1: as many as num_train_epochs gives.`,
  num_train_epochs: number({ above: 0 }, 1)`Passes over the dataset, if max_steps is not given.`,
} as const;

export const microBatchSettings = {
  micro_batch_tokens: whole(16, null)`
    Tokens computed at once: more take memory and save time. The result is the same up to rounding. null: 2048 on a CPU;
    16384 on a GPU with 40 GB, fewer on one with less.`,
} as const;

export const checkpointingSettings = {
  gradient_checkpointing: toggleOrAuto()`
    Recompute activations in the backward pass: true, of every layer, which takes the least memory; false, of none;
    auto, of the layers whose activations do not fit into half of the free memory (on a GPU, 90 %). The bits are the
    same.`,
} as const;

export const optimizerSettings = {
  learning_rate: number({ min: 0 }, 1e-6)`Peak learning rate.`,
  lr_scheduler_type: choice(scheduleNames, "constant", "NAME")`
    Learning rate schedule, by Hugging Face's names: ${scheduleNames.join(", ")}. constant has no warm-up.`,
  lr_scheduler_kwargs: object(null)`
    Parameters of the schedule, e.g. {"min_lr_rate": 0.1} for cosine_with_min_lr. null: its defaults.`,
  warmup_steps: number({ min: 0 }, 0)`
    Steps over which the learning rate rises from 0; below 1, a share of all steps, rounded up.`,
  warmup_ratio: number({ min: 0, max: 1 }, 0)`The same as a share of all steps; warmup_steps overrides it.`,
  adam_beta1: number({ min: 0, below: 1 }, 0.9)`AdamW's decay of the mean gradient.`,
  adam_beta2: number({ min: 0, below: 1 }, 0.999)`AdamW's decay of the mean squared gradient.`,
  adam_epsilon: number({ above: 0 }, 1e-8)`Added to AdamW's denominator.`,
  weight_decay: number({ min: 0 }, 0)`Decoupled weight decay; norms and biases have none.`,
  max_grad_norm: number({ min: 0 }, 1)`The global gradient norm is clipped to this. 0: no clipping.`,
  optim: choice(["adamw_torch", "adamw_8bit"], "adamw_torch")`
    The form of AdamW's moments. adamw_torch: float32; adamw_8bit: 8 bits in blocks of 256, as bitsandbytes has them, but for
    embeddings and parameters of fewer than 4096 elements.`,
  master_dtype: choice(["float32", "bfloat16"], "float32")`
    The masters of bfloat16 weights. bfloat16: the weights themselves, rounded at random after each step.`,
  offload_optimizer: toggle(false)`
    On a GPU: keep masters and moments in the host's memory, and take them through the GPU's piece by piece at each step. The
    same results.`,
} as const;
