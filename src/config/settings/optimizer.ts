/** How much is done in one step, how many steps, and what AdamW does with a gradient. */
import { z } from "zod";
import { scheduleNames } from "../schedules.ts";
import { about } from "./about.ts";

export const batchSettings = {
  per_device_train_batch_size: z
    .int()
    .min(1)
    .default(64)
    .meta(
      about(
        "Times gradient_accumulation_steps: the completions of one step. Memory follows micro_batch_tokens instead.",
      ),
    ),
  gradient_accumulation_steps: z
    .int()
    .min(1)
    .default(1)
    .meta(about("See per_device_train_batch_size; only the product matters, but for loss_type bnpo.")),
} as const;

export const generationScheduleSettings = {
  steps_per_generation: z
    .int()
    .min(1)
    .nullable()
    .default(null)
    .meta(about("A generation serves steps_per_generation ÷ gradient_accumulation_steps steps, shuffled. null: one.")),
} as const;

export const iterationSettings = {
  num_iterations: z.int().min(1).default(1).meta(about("Passes over each generation's completions (mu in the paper).")),
} as const;

export const durationSettings = {
  max_steps: z
    .int()
    .min(1)
    .nullable()
    .default(null)
    .meta(about("Optimizer steps. null or -1: as many as num_train_epochs gives.")),
  num_train_epochs: z.number().gt(0).default(1).meta(about("Passes over the dataset, where max_steps is not given.")),
} as const;

export const microBatchSettings = {
  micro_batch_tokens: z
    .int()
    .min(16)
    .default(2048)
    .meta(about("Tokens computed at once: memory against speed. The result is the same to rounding.")),
} as const;

export const optimizerSettings = {
  learning_rate: z.number().min(0).default(1e-6).meta(about("Peak learning rate.")),
  lr_scheduler_type: z
    .enum(scheduleNames)
    .default("constant")
    .meta(
      about(
        `Course of the learning rate, by Hugging Face's names: ${scheduleNames.join(", ")}. constant has no warm-up.`,
        "NAME",
      ),
    ),
  lr_scheduler_kwargs: z
    .record(z.string(), z.unknown())
    .nullable()
    .default(null)
    .meta(about('Parameters of the schedule, e.g. {"min_lr_rate": 0.1} of cosine_with_min_lr. null: its defaults.')),
  warmup_steps: z
    .number()
    .min(0)
    .default(0)
    .meta(about("Steps over which the learning rate rises from 0; below 1 a share of all steps, rounded up.")),
  warmup_ratio: z
    .number()
    .min(0)
    .max(1)
    .default(0)
    .meta(about("The same as a share of all steps; warmup_steps goes before.")),
  adam_beta1: z.number().min(0).lt(1).default(0.9).meta(about("AdamW's decay of the mean gradient.")),
  adam_beta2: z.number().min(0).lt(1).default(0.999).meta(about("AdamW's decay of the mean squared gradient.")),
  adam_epsilon: z.number().gt(0).default(1e-8).meta(about("Added to AdamW's denominator.")),
  weight_decay: z.number().min(0).default(0).meta(about("Decoupled weight decay; norms and biases have none.")),
  max_grad_norm: z.number().min(0).default(1).meta(about("Global gradient norm is clipped to this. 0: no clipping.")),
} as const;
