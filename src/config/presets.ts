/**
 * Published recipes and other trainers' defaults, as sets of defaults. What each one sets, and its source, is in
 * `presets/NAME.toml`, which is also a complete configuration file for `train`. Only what the source states is set; batch
 * sizes are completions per step.
 */
import { toCamel } from "./names.ts";
import cispo from "./presets/cispo.toml" with { type: "toml" };
import dapo from "./presets/dapo.toml" with { type: "toml" };
import deepseekmath from "./presets/deepseekmath.toml" with { type: "toml" };
import drGrpo from "./presets/dr_grpo.toml" with { type: "toml" };
import gspo from "./presets/gspo.toml" with { type: "toml" };
import openRlhf from "./presets/openrlhf.toml" with { type: "toml" };
import ppo from "./presets/ppo.toml" with { type: "toml" };
import reinforcePlusPlus from "./presets/reinforce_plus_plus.toml" with { type: "toml" };
import rloo from "./presets/rloo.toml" with { type: "toml" };
import trl from "./presets/trl.toml" with { type: "toml" };
import verl from "./presets/verl.toml" with { type: "toml" };

export const presetNames = [
  "deepseekmath",
  "dr_grpo",
  "dapo",
  "gspo",
  "cispo",
  "rloo",
  "reinforce_plus_plus",
  "ppo",
  "trl",
  "verl",
  "openrlhf",
] as const;
export type PresetName = (typeof presetNames)[number];

/** Settings by their snake_case names. A command takes those that it has. */
export const presets: Readonly<Record<PresetName, Readonly<Record<string, unknown>>>> = {
  deepseekmath,
  dr_grpo: drGrpo,
  dapo,
  gspo,
  cispo,
  rloo,
  reinforce_plus_plus: reinforcePlusPlus,
  ppo,
  trl,
  verl,
  openrlhf: openRlhf,
};

/** The part of TRL's defaults that concerns only what is written and shown. */
const shownOnly: ReadonlySet<string> = new Set(["save_steps", "logging_steps", "log_completions"]);

/**
 * For settings under TRL's names without its preset: what is not given has other values here.
 * @param config complete, in camelCase
 * @param given keys in snake_case that the user wrote
 */
export function trlRemark(config: Readonly<Record<string, unknown>>, given: ReadonlySet<string>): string[] {
  const differences = Object.entries(presets.trl)
    .filter(([key, value]) => {
      const own = config[toCamel(key)];
      return !given.has(key) && !shownOnly.has(key) && own !== undefined && own !== null && own !== value;
    })
    .map(([key, value]) => `${key} ${config[toCamel(key)]} (${value})`);
  if (differences.length === 0) return [];
  return [
    `these are TRL's names, but settings left out have the paper's values, not TRL's: ${differences.join(", ")}; --preset trl uses TRL's`,
  ];
}

/** The part of a preset that says how much is generated: meaningless where rollouts are recorded already. */
export const generationKeys: ReadonlySet<string> = new Set([
  "num_generations",
  "per_device_train_batch_size",
  "steps_per_generation",
  "num_iterations",
]);

/** The part of a preset that belongs to its reward_funcs: meaningless where others are given. */
export const rewardKeys: ReadonlySet<string> = new Set(["reward_weights", "dynamic_sampling_reward"]);
