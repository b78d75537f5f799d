/**
 * The TypeScript API. Reward modules import it as `bun-grpo`, also under the single executable. Settings are spelled in
 * camelCase and mean what the flags of the same name mean. docs/typescript.md has an example of each function.
 */
export { lastBoxed } from "./answers/marks.ts";
export { type Verdict, verify } from "./answers/verify.ts";
export {
  evaluate,
  type GenerateHooks,
  type GenerateSettings,
  generate,
  loadModel,
  type ScoreSettings,
  score,
  sft,
  train,
  update,
} from "./api/commands.ts";
export type { Hooks, MetricsRecord, Progress, ProgressHooks, RunEvent, RunHooks } from "./api/control.ts";
export type { EvaluationResult } from "./api/evaluate.ts";
export type { Generated, GeneratedCompletion, Prompt, TokenEvent } from "./api/generate.ts";
export type { CallSettings, LoadedModel, LoadModelSettings } from "./api/loaded-model.ts";
export { type RecordedRun, readRun } from "./api/read-run.ts";
export type { Running } from "./api/running.ts";
export type { TokenGroup, TokenScores } from "./api/score.ts";
export type { RunResult } from "./api/train.ts";
export type { UpdateResult } from "./api/update.ts";
export type { EvaluateSettings, SftSettings, TrainSettings, UpdateSettings } from "./api/values.ts";
export { configFrom } from "./config/load.ts";
export type { ConfigInput, EvalConfig, SftConfig, TrainConfig, UpdateConfig } from "./config/schema.ts";
export { openDataset } from "./data/dataset.ts";
export type { Row, Rows } from "./data/rows.ts";
export { InputError, RunError } from "./errors.ts";
export { type AdvantageInput, computeAdvantages } from "./grpo/advantages.ts";
export {
  type AdvantageEstimator,
  type Estimate,
  type EstimatorInput,
  type EstimatorSettings,
  estimateAdvantages,
} from "./grpo/estimators/estimators.ts";
export type { OwnEstimator, OwnEstimatorInput } from "./grpo/estimators/own.ts";
export {
  LOSS_DEFAULTS,
  type LossCompletion,
  type LossConfig,
  type LossType,
  type OwnLoss,
  type OwnLossInput,
  type OwnLossOutput,
} from "./grpo/loss/config.ts";
export { computeLoss } from "./grpo/loss/loss.ts";
export { foldMetrics } from "./grpo/loss/metrics.ts";
export { checkLossGradient, type LossCheckOptions } from "./grpo/loss/own-check.ts";
export { stepDenominators } from "./grpo/loss/step.ts";
export { computeValueLoss, type ValueCompletion, type ValueLossConfig, valueTokens } from "./grpo/loss/value.ts";
export { type RolloutGroup, readRollouts } from "./grpo/rollout-file.ts";
export type { Message } from "./message.ts";
export { gsm8k, math } from "./rewards/by-answer.ts";
export type { RewardFunction, RewardTools } from "./rewards/pool/functions.ts";
export {
  createRewardPool,
  joinResults,
  type RewardBatch,
  type RewardPool,
  type RewardResult,
  type RewardSpec,
  type RewardTrainerState,
} from "./rewards/pool/pool.ts";
export { loadTokenizer, type Tokenizer } from "./tokenizer/tokenizer.ts";
