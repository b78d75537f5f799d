/** Dynamic sampling (DAPO): which groups a generation is made of. */
import { z } from "zod";
import { about } from "./about.ts";

export const dynamicSamplingSettings = {
  dynamic_sampling: z
    .boolean()
    .default(false)
    .meta(
      about(
        "Replace a group whose rewards are all equal by the next prompt's, so that every update learns from full groups with signal.",
      ),
    ),
  dynamic_sampling_max_batches: z
    .int()
    .min(1)
    .default(10)
    .meta(
      about(
        "At most so many times the prompts of a generation are drawn for it; then groups without signal fill it up.",
      ),
    ),
  dynamic_sampling_ahead: z
    .int()
    .min(0)
    .default(0)
    .meta(about("Prompts sampled beyond the needed ones, so that replacements are there sooner. Costs work.")),
  dynamic_sampling_probe: z
    .int()
    .min(2)
    .nullable()
    .default(null)
    .meta(
      about(
        "Give a group up when its first so many completions have equal rewards. null: sample every group to its end.",
      ),
    ),
  dynamic_sampling_reward: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .meta(
      about(
        "The reward function whose spread says whether a group has signal (DAPO: accuracy alone). null: what advantages are made of, the weighted sum, or with normalize_then_sum any function that has a weight.",
        "NAME",
      ),
    ),
} as const;
