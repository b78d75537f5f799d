/**
 * Settings as programs give them: the names of the schema, and in place of some of them values that no file can hold:
 * rows, reward functions, a loss, an estimator. Takes these out and puts names in, so that all else sees plain settings.
 */
import type { CommandName, ConfigInput } from "../config/schema.ts";
import type { Rows } from "../data/rows.ts";
import { InputError } from "../errors.ts";
import type { OwnEstimator } from "../grpo/estimators/own.ts";
import type { OwnLoss } from "../grpo/loss/config.ts";
import type { OwnFunctions } from "../grpo/own-functions.ts";
import { gsm8k, math } from "../rewards/by-answer.ts";
import type { RewardFunction } from "../rewards/pool/functions.ts";
import { inlineName } from "../rewards/specs.ts";

/** The command's settings, where these four may be values. */
type WithValues<C extends CommandName> = Omit<ConfigInput<C>, keyof Values> &
  Pick<Values, keyof Values & keyof ConfigInput<C>>;

interface Values {
  /** As the setting, or the rows themselves: a list, or an iterable that gives them in the same order every time. */
  readonly dataset?: string | Rows | null | undefined;
  /** Likewise. */
  readonly evalDataset?: string | Rows | null | undefined;
  /** As the setting; a function among them runs in this process, with `rewardTimeout` only where it waits. */
  readonly rewardFuncs?: readonly (string | RewardFunction)[] | null | undefined;
  /** As the setting, or a loss of your own. */
  readonly lossType?: ConfigInput<"train">["lossType"] | OwnLoss;
  /** As the setting, or an estimator of your own. */
  readonly advantageEstimator?: ConfigInput<"train">["advantageEstimator"] | OwnEstimator;
}

export type TrainSettings = WithValues<"train">;
export type SftSettings = WithValues<"sft">;
export type UpdateSettings = WithValues<"update">;
export type EvaluateSettings = WithValues<"eval">;

type Plain<C extends CommandName> = {
  readonly settings: ConfigInput<C>;
  readonly functions: OwnFunctions;
  /** The settings once more with the rows in files, which are written only now. @throws InputError as `rowsFile` */
  withRows(): Promise<ConfigInput<C>>;
};

/** The built-in rewards that are functions too: by name they run as ever, in processes. */
const builtIn = new Map<RewardFunction, string>([
  [gsm8k, "gsm8k"],
  [math, "math"],
]);

/** Takes the values out of a call's settings. */
export function plainSettings<C extends CommandName>(given: WithValues<C>): Plain<C> {
  const { dataset, evalDataset, rewardFuncs, lossType, advantageEstimator, ...others } = given as Values;
  const rewards = new Map<string, RewardFunction>();
  const names = rewardFuncs?.map((each) => (typeof each === "function" ? nameOf(each, rewards) : each));
  const settings = {
    ...others,
    ...(rewardFuncs !== undefined && { rewardFuncs: names ?? null }),
    ...(dataset !== undefined && { dataset: isRows(dataset) ? "dataset" : dataset }),
    ...(evalDataset !== undefined && { evalDataset: isRows(evalDataset) ? "evalDataset" : evalDataset }),
    ...(lossType !== undefined && typeof lossType !== "function" && { lossType }),
    ...(advantageEstimator !== undefined && typeof advantageEstimator !== "function" && { advantageEstimator }),
  } as ConfigInput<C>;
  return {
    settings,
    functions: {
      rewards,
      loss: typeof lossType === "function" ? lossType : null,
      estimator: typeof advantageEstimator === "function" ? advantageEstimator : null,
    },
    async withRows() {
      const { rowsFile } = await import("../data/rows.ts");
      const files: Record<string, string> = {};
      for (const [name, value] of Object.entries({ dataset, evalDataset }))
        if (isRows(value)) files[name] = await rowsFile(value, name);
      return { ...settings, ...files };
    },
  };
}

const isRows = (value: unknown): value is Rows => typeof value === "object" && value !== null;

/** A built-in's name, or one for a function of the caller's, which goes into `rewards`. */
function nameOf(call: RewardFunction, rewards: Map<string, RewardFunction>): string {
  const known = builtIn.get(call);
  if (known !== undefined) return known;
  const stem = call.name === "" ? "reward" : call.name;
  if ([...rewards.values()].includes(call))
    throw new InputError(`rewardFuncs: ${stem} is listed twice; use rewardWeights`);
  let name = inlineName(stem);
  for (let k = 2; rewards.has(name); k++) name = inlineName(`${stem}_${k}`);
  rewards.set(name, call);
  return name;
}
