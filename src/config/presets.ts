/**
 * Published recipes as sets of defaults. Only what the source states is set; batch sizes are completions per step.
 * What a recipe needs beyond the settings here is said beside it.
 */

export const presetNames = ["deepseekmath", "dr_grpo", "dapo", "gspo"] as const;
export type PresetName = (typeof presetNames)[number];

export const presets: Readonly<Record<PresetName, Readonly<Record<string, unknown>>>> = {
  // Shao et al. 2024, DeepSeekMath, arXiv 2402.03300, section 4.2: 64 samples a question, 1,024 completions a batch,
  // one update per exploration.
  deepseekmath: {
    loss_type: "grpo",
    scale_rewards: "group",
    beta: 0.04,
    epsilon: 0.2,
    learning_rate: 1e-6,
    lr_scheduler_type: "constant",
    num_generations: 64,
    per_device_train_batch_size: 1024,
    num_iterations: 1,
    max_completion_length: 1024,
    temperature: 1,
  },
  // Liu et al. 2025, Understanding R1-Zero-Like Training, arXiv 2503.20783: no division by the standard deviation, a
  // constant length in the denominator; 128 questions with 8 answers each.
  dr_grpo: {
    loss_type: "dr_grpo",
    scale_rewards: "none",
    beta: 0,
    epsilon: 0.2,
    learning_rate: 1e-6,
    lr_scheduler_type: "constant",
    num_generations: 8,
    per_device_train_batch_size: 1024,
    num_iterations: 1,
    max_completion_length: 3000,
    temperature: 1,
  },
  // Yu et al. 2025, DAPO, arXiv 2503.14476: token mean over the batch, clip-higher, truncated answers left out, no KL.
  // Dynamic sampling and the soft punishment of overlong answers are not part of this preset.
  dapo: {
    loss_type: "dapo",
    scale_rewards: "group",
    beta: 0,
    epsilon: 0.2,
    epsilon_high: 0.28,
    mask_truncated_completions: true,
    learning_rate: 1e-6,
    lr_scheduler_type: "constant",
    num_generations: 16,
    max_completion_length: 20480,
    temperature: 1,
  },
  // Zheng et al. 2025, Group Sequence Policy Optimization, arXiv 2507.18071, section 5.1: the sequence's ratio, a
  // narrow clip range, each generation in four mini-batches (the ratio leaves 1 only from the second on).
  gspo: {
    loss_type: "grpo",
    importance_sampling_level: "sequence",
    scale_rewards: "group",
    beta: 0,
    epsilon: 3e-4,
    epsilon_high: 4e-4,
    steps_per_generation: 4,
  },
};

/** What of a preset says how much is generated: of no use where rollouts are recorded already. */
export const generationKeys: ReadonlySet<string> = new Set([
  "num_generations",
  "per_device_train_batch_size",
  "steps_per_generation",
  "num_iterations",
]);
