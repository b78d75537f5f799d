/**
 * Which command has which settings. Each setting is written once, in `settings/`; a command is a list of titled
 * sections of them, some with a default of their own. Types, checks, `--help` and both spellings follow from this table.
 */
import type { z } from "zod";
import type { CamelKeys } from "./names.ts";
import { adapterSettings } from "./settings/adapters.ts";
import { bestModelSettings } from "./settings/best.ts";
import { criticSettings } from "./settings/critic.ts";
import {
  datasetSettings,
  evalCommandSettings,
  evaluationSettings,
  orderSettings,
  promptSettings,
  supervisedEvaluationSettings,
  supervisedSettings,
} from "./settings/data.ts";
import { dynamicSamplingSettings } from "./settings/dynamic.ts";
import { debugSettings, engineSettings, referenceModelSettings, referenceSyncSettings } from "./settings/engine.ts";
import { hubSettings } from "./settings/hub.ts";
import { withDefault } from "./settings/kinds.ts";
import { advantageSettings, lossSettings, ppoSettings, replaySettings, routerSettings } from "./settings/loss.ts";
import {
  batchSettings,
  checkpointingSettings,
  durationSettings,
  generationScheduleSettings,
  iterationSettings,
  microBatchSettings,
  optimizerSettings,
  rowBatchSettings,
} from "./settings/optimizer.ts";
import {
  checkpointSettings,
  completionLogSettings,
  dashboardSettings,
  fileSettings,
  loggingSettings,
  outputFolderSettings,
  planSettings,
  quietSettings,
  resumeSettings,
  trackerSettings,
} from "./settings/output.ts";
import { presetSettings } from "./settings/preset.ts";
import { rankSettings, stepRankSettings } from "./settings/ranks.ts";
import { rewardFunctionSettings } from "./settings/rewards.ts";
import {
  answerSettings,
  evalRewardSettings,
  generationKwargsSettings,
  greedyTemperatureSettings,
  groupSettings,
  lengthSettings,
  modelLengthSettings,
  recordedGroupSettings,
  rewardSettings,
  rewardTimeoutSettings,
  samplingSettings,
  slotSettings,
  stopSettings,
  temperatureSettings,
} from "./settings/rollout.ts";

const train = {
  Model: { ...engineSettings, ...referenceModelSettings, ...referenceSyncSettings },
  Adapters: adapterSettings,
  Data: { ...datasetSettings, ...promptSettings, ...orderSettings },
  Rewards: { ...rewardSettings, ...rewardTimeoutSettings },
  "Reward functions": rewardFunctionSettings,
  Rollout: {
    ...groupSettings,
    ...lengthSettings,
    ...temperatureSettings,
    ...samplingSettings,
    ...stopSettings,
    ...generationKwargsSettings,
    ...slotSettings,
  },
  "Dynamic sampling": dynamicSamplingSettings,
  Batch: {
    ...batchSettings,
    ...generationScheduleSettings,
    ...iterationSettings,
    ...durationSettings,
    ...microBatchSettings,
    ...checkpointingSettings,
  },
  Ranks: { ...rankSettings, ...stepRankSettings },
  Advantages: advantageSettings,
  Loss: { ...presetSettings, ...lossSettings, ...routerSettings, ...replaySettings },
  Critic: { ...criticSettings, ...ppoSettings },
  Optimizer: optimizerSettings,
  Evaluation: { ...evaluationSettings, ...bestModelSettings },
  Output: {
    ...outputFolderSettings("train"),
    ...resumeSettings,
    ...checkpointSettings,
    ...loggingSettings,
    ...trackerSettings,
    ...completionLogSettings,
    ...quietSettings,
    ...debugSettings,
  },
  Dashboard: dashboardSettings,
  Hub: hubSettings,
} as const;

/** Every command that has settings: its sections in the order of `--help`. */
export const commandSections = {
  train,
  plan: { ...train, Plan: planSettings },
  sft: {
    Model: engineSettings,
    Adapters: adapterSettings,
    Data: { ...datasetSettings, ...promptSettings, ...orderSettings, ...supervisedSettings },
    Batch: {
      ...rowBatchSettings,
      ...durationSettings,
      ...microBatchSettings,
      ...checkpointingSettings,
    },
    Ranks: { ...rankSettings, ...stepRankSettings },
    Loss: routerSettings,
    Optimizer: { ...optimizerSettings, learning_rate: withDefault(optimizerSettings.learning_rate, 2e-5) },
    Evaluation: {
      ...supervisedEvaluationSettings,
      ...bestModelSettings,
      ...lengthSettings,
      ...stopSettings,
      ...slotSettings,
      ...rewardTimeoutSettings,
    },
    Output: {
      ...outputFolderSettings("sft"),
      ...resumeSettings,
      ...checkpointSettings,
      ...loggingSettings,
      ...trackerSettings,
      ...quietSettings,
      ...debugSettings,
    },
    Dashboard: dashboardSettings,
    Hub: hubSettings,
  },
  eval: {
    Model: engineSettings,
    Data: {
      ...datasetSettings,
      dataset_split: withDefault(datasetSettings.dataset_split, "test"),
      ...promptSettings,
      ...evalCommandSettings,
    },
    Rewards: { ...evalRewardSettings, ...rewardTimeoutSettings, ...microBatchSettings },
    "Reward functions": rewardFunctionSettings,
    Rollout: {
      ...answerSettings,
      ...lengthSettings,
      ...greedyTemperatureSettings,
      ...samplingSettings,
      ...stopSettings,
      ...generationKwargsSettings,
      ...slotSettings,
    },
    Ranks: rankSettings,
    Output: { ...outputFolderSettings("eval"), ...debugSettings },
  },
  generate: {
    Model: engineSettings,
    Prompt: { ...fileSettings.generate, ...promptSettings },
    Rollout: {
      ...answerSettings,
      ...lengthSettings,
      ...modelLengthSettings,
      ...greedyTemperatureSettings,
      ...samplingSettings,
      ...stopSettings,
      ...generationKwargsSettings,
      ...slotSettings,
    },
    Output: debugSettings,
  },
  score: {
    Model: engineSettings,
    Rollouts: { ...fileSettings.score, ...temperatureSettings, ...microBatchSettings },
    Output: debugSettings,
  },
  update: {
    Model: { ...engineSettings, ...referenceModelSettings },
    Adapters: adapterSettings,
    Rollouts: { ...fileSettings.update, ...recordedGroupSettings, ...lengthSettings, ...temperatureSettings },
    Batch: { ...iterationSettings, ...microBatchSettings, ...checkpointingSettings },
    Advantages: advantageSettings,
    Loss: { ...presetSettings, ...lossSettings, ...routerSettings, ...replaySettings },
    Optimizer: optimizerSettings,
    Output: { ...outputFolderSettings("update"), ...resumeSettings, ...quietSettings, ...debugSettings },
  },
} as const;

export type CommandName = keyof typeof commandSections;

type Merge<U> = (U extends unknown ? (part: U) => void : never) extends (whole: infer I) => void ? I : never;
type Settings<C extends CommandName> = Merge<(typeof commandSections)[C][keyof (typeof commandSections)[C]]>;
type Output<S> = { [K in keyof S]: S[K] extends z.ZodType ? z.output<S[K]> : never };
type Input<S> = { [K in keyof S]?: S[K] extends z.ZodType ? z.input<S[K]> : never };

/** The settings of one command, checked and complete, in camelCase. */
export type ConfigOf<C extends CommandName> = CamelKeys<Output<Settings<C>>>;

/** What a caller of the TypeScript API may leave out: anything that has a default. */
export type ConfigInput<C extends CommandName> = CamelKeys<Input<Settings<C>>>;

export type TrainConfig = ConfigOf<"train">;
export type PlanConfig = ConfigOf<"plan">;
export type SftConfig = ConfigOf<"sft">;
export type EvalConfig = ConfigOf<"eval">;
export type GenerateConfig = ConfigOf<"generate">;
export type UpdateConfig = ConfigOf<"update">;

/** What adapters are made of; `train`, `sft` and `update` have it. */
export type AdapterConfigSettings = CamelKeys<Output<typeof adapterSettings>>;

/** What AdamW and the schedule read; `train`, `sft` and `update` have it. */
export type OptimizerConfig = CamelKeys<Output<typeof optimizerSettings>>;
export type SettingTypes = Readonly<Record<string, z.ZodType>>;

/** All settings of a command by their snake_case names. */
export function settingsOf(command: CommandName): SettingTypes {
  return Object.assign({}, ...Object.values(commandSections[command]));
}

/** The commands that have a setting of this name. */
export function commandsWith(key: string): CommandName[] {
  return (Object.keys(commandSections) as CommandName[]).filter((command) => Object.hasOwn(settingsOf(command), key));
}
