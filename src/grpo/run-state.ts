/** The state of a training run that a checkpoint keeps besides weights and optimizer, and remarks on resuming. */
import { z } from "zod";
import { type ConfigRecord, configDifferences, freeOnResume } from "../config/record.ts";
import type { RewardTrainerState } from "../rewards/pool/pool.ts";
import { bestState } from "../run/best-checkpoint.ts";

export const trainerState = z.object({
  step: z.int().min(0),
  totalSteps: z.int().min(1),
  /** Rows drawn so far, over all epochs. */
  position: z.int().min(0),
  skippedRows: z.int().min(0),
  numTokens: z.number().min(0),
  /** The adaptive entropy bonus's. */
  entropyControl: z.object({ coef: z.number(), lastEntropy: z.number().nullable() }).optional(),
  /** The best evaluation, if a setting tracks it. */
  best: bestState.optional(),
  /** Device and instruction path, which must match for identical bits. */
  numerics: z.string(),
  config: z.record(z.string(), z.unknown()),
});
export type TrainerState = z.infer<typeof trainerState>;

/**
 * Differences between a checkpoint's settings and the run's that change results; one remark each.
 *
 * @param now the run's settings as `recordOf` stores them
 */
export function resumeRemarks(state: TrainerState, now: ConfigRecord, numerics: string): string[] {
  const remarks = configDifferences(state.config, now, freeOnResume).map(
    (difference) =>
      `${difference.key} was ${JSON.stringify(difference.before)} and is now ${JSON.stringify(difference.now)}`,
  );
  if (state.numerics !== numerics)
    remarks.push(`the checkpoint was written on ${state.numerics}, this is ${numerics}: the bits will differ`);
  return remarks;
}

/** The training progress passed to reward functions. */
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
