/** Where a training run stands: what a checkpoint keeps beside weights and optimizer, and what to say on resuming. */
import { z } from "zod";
import { configDifferences, freeOnResume, toJson } from "../config/record.ts";
import type { TrainConfig } from "../config/schema.ts";
import type { RewardTrainerState } from "../rewards/pool/pool.ts";
import { bestState } from "../run/best-checkpoint.ts";

export const trainerState = z.object({
  step: z.int().min(0),
  totalSteps: z.int().min(1),
  /** Rows drawn so far, over all epochs. */
  position: z.int().min(0),
  skippedRows: z.int().min(0),
  numTokens: z.number().min(0),
  /** Of the entropy bonus, where it is adaptive. */
  entropyControl: z.object({ coef: z.number(), lastEntropy: z.number().nullable() }).optional(),
  /** The best evaluation, where a setting asks for it. */
  best: bestState.optional(),
  /** Device and instruction path: the same bits come only from the same. */
  numerics: z.string(),
  config: z.record(z.string(), z.unknown()),
});
export type TrainerState = z.infer<typeof trainerState>;

/** What changed between a checkpoint's settings and the run's that makes the two runs differ; one remark each. */
export function resumeRemarks(state: TrainerState, config: TrainConfig, numerics: string): string[] {
  const remarks = configDifferences(state.config, toJson(config), freeOnResume).map(
    ({ key, before, now }) => `${key} was ${JSON.stringify(before)} and is now ${JSON.stringify(now)}`,
  );
  if (state.numerics !== numerics)
    remarks.push(`the checkpoint was written on ${state.numerics}, this is ${numerics}: the bits will differ`);
  return remarks;
}

/** What reward functions are told of where the run stands. */
export function rewardTrainerState(
  { step, totalSteps, position, numTokens }: TrainerState,
  rows: number,
  isEvaluation: boolean,
): RewardTrainerState {
  return {
    global_step: step,
    max_steps: totalSteps,
    epoch: position / rows,
    num_input_tokens_seen: numTokens,
    progress: step / totalSteps,
    is_evaluation: isEvaluation,
  };
}
