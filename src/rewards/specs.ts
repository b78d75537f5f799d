/**
 * What a name in `reward_funcs` stands for: a built-in reward, a module with a reward function, or a reward model.
 * Decided by the name and the files on the disk; loads nothing.
 */
import { existsSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { nearest } from "../config/nearest.ts";
import { type BuiltInReward, builtInRewards, ownRewardName, textRewards } from "../config/reward-names.ts";
import { InputError } from "../errors.ts";

/**
 * A built-in reward by its name ("auto": gsm8k for gold answers that are numbers, math for the others), the `path` of a
 * module with a reward function, the name of a function that the program gives itself (`inline`), or a reward `model`: a
 * folder or hub id, scored by the caller (`RewardPool.score`).
 */
export type RewardSpec =
  | BuiltInReward
  | { readonly path: string }
  | { readonly inline: string }
  | { readonly model: string };

/** How `reward_funcs` spells a function that is given as a value. */
const inlinePrefix = "function:";
export const inlineName = (name: string): string => `${inlinePrefix}${name}`;

const moduleFile = /\.[cm]?[jt]sx?$/i;
/** Endings that no hub id has. */
const otherFile = /\.(?:py|json|jsonl|toml|ya?ml|txt|md|arrow|parquet|safetensors|gguf|bin|so)$/i;
/** `owner/name`, `owner/name@revision`, as the hub spells them. A plain `name` is more likely a mistyped built-in. */
const hubId = /^\w[\w.-]*\/\w[\w.-]*(@[\w][\w./+-]*)?$/;

const isFolder = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
const isBuiltIn = (name: string): name is BuiltInReward => (builtInRewards as readonly string[]).includes(name);

/**
 * @param given an entry of `reward_funcs`; a built-in takes precedence over a folder of the same name (write `./math`)
 * @throws InputError for anything else, with the nearest built-in
 */
export function parseRewardSpec(given: string): RewardSpec {
  if (given.startsWith(inlinePrefix)) return { inline: given };
  const name = ownRewardName(given);
  if (isBuiltIn(name)) return name;
  if (moduleFile.test(given)) return { path: given };
  if (isFolder(given)) {
    if (existsSync(join(given, "config.json"))) return { model: given };
    throw new InputError(
      `reward_funcs: ${given} is a folder without a config.json; give a reward model's, or a module's path`,
    );
  }
  const extended = [".ts", ".js", ".mts", ".mjs"].map((ending) => given + ending).find((path) => existsSync(path));
  if (extended !== undefined) throw new InputError(`reward_funcs: ${given} does not exist; did you mean ${extended}?`);
  if (hubId.test(given) && !otherFile.test(given) && !existsSync(given)) return { model: given };
  if (otherFile.test(given) || existsSync(given)) {
    throw new InputError(
      `reward_funcs: ${given} is not a TypeScript or JavaScript module; reward functions are .ts files`,
    );
  }
  const near = nearest(name, builtInRewards);
  const cure = near === undefined ? `there are ${builtInRewards.join(", ")}` : `did you mean ${near}?`;
  throw new InputError(
    `reward_funcs: ${given} is not a built-in reward, module (.ts) or reward model (a folder or owner/name); ${cure}`,
  );
}

/** Whether the reward is a user's module. */
export const isModule = (spec: RewardSpec): spec is { readonly path: string } =>
  typeof spec === "object" && "path" in spec;

/** Whether the reward is a user's function, a module's or inline: what it logs is not known. */
export const isOwn = (spec: RewardSpec): boolean => typeof spec === "object" && ("path" in spec || "inline" in spec);

/** Whether the reward needs to know the right answer; without any gold answer in the dataset it would score nothing. */
export const needsGold = (spec: RewardSpec): boolean =>
  typeof spec === "string" && !(textRewards as readonly string[]).includes(spec);

/** The name in metrics and in `dynamic_sampling_reward`: the built-in's, or the last part of the file's or the model's. */
export function rewardNames(specs: readonly RewardSpec[]): string[] {
  const taken = new Set<string>();
  return specs.map((spec) => {
    const stem = stemOf(spec);
    let name = stem;
    for (let k = 2; taken.has(name); k++) name = `${stem}_${k}`;
    taken.add(name);
    return name;
  });
}

function stemOf(spec: RewardSpec): string {
  if (typeof spec === "string") return spec;
  if ("inline" in spec) return spec.inline.slice(inlinePrefix.length);
  if ("path" in spec) return basename(spec.path).replace(/\.[^.]*$/, "");
  return basename(hubId.test(spec.model) && !existsSync(spec.model) ? spec.model.replace(/@.*$/, "") : spec.model);
}
