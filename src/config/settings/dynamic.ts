/** Dynamic sampling (DAPO): which groups a generation is made of. */
import { text, toggle, whole } from "./kinds.ts";

export const dynamicSamplingSettings = {
  dynamic_sampling: toggle(false)`
    Replace a group whose rewards are all equal with the next prompt's, so that every update learns from full groups with
    signal.`,
  dynamic_sampling_max_batches: whole(1, 10)`
    Draw at most this many times the prompts that a generation needs; after that, groups without signal fill it up.`,
  dynamic_sampling_ahead: whole(0, 0)`
    Prompts sampled beyond those needed, so that replacements are ready sooner. Costs extra work.`,
  dynamic_sampling_probe: whole(2, null)`
    Give up on a group if its first N completions have equal rewards. null: sample every group to the end.`,
  dynamic_sampling_reward: text(null, "NAME")`
    The reward function whose spread decides whether a group has signal (DAPO: accuracy alone). null: what the advantages are
    computed from: the weighted sum or, with normalize_then_sum, any function with a weight.`,
} as const;
