/** The state of the run that recorded a generation, and whether an update from it repeats that run's step. */
import { z } from "zod";
import { configDifferences, freeInReplay, toJson } from "../config/record.ts";
import { settingsOf, type UpdateConfig } from "../config/schema.ts";
import type { RecordedSteps } from "./recorded-generation.ts";

/** The part of a trainer's state that an update resumes from. */
export const updateState = z.looseObject({
  step: z.int().min(0),
  totalSteps: z.int().min(1),
  config: z.record(z.string(), z.unknown()),
  entropyControl: z.object({ coef: z.number(), lastEntropy: z.number().nullable() }).optional(),
  numerics: z.string().optional(),
});

/**
 * A run's state and the checkpoint with its weights and Adam moments. `folder` is null at the start of the run, which
 * has no checkpoint: its weights are the start model's.
 */
export interface ReplayStart {
  readonly folder: string | null;
  readonly state: z.infer<typeof updateState>;
}

/** The settings of a run with a moving reference. */
const movingReference = z.object({
  sync_ref_model: z.literal(true),
  ref_model_sync_steps: z.int().min(1),
  ref_model_mixup_alpha: z.number(),
});

/** How the run's own reference moves; null if it does not, or another one is asked for. */
export function movement(config: UpdateConfig, resume: ReplayStart | null) {
  const namesAnother = config.refModel !== null && config.refModel !== (resume?.state.config.ref_model ?? null);
  if (config.beta === 0 || namesAnother) return null;
  const found = movingReference.safeParse(resume?.state.config).data;
  return found ? { everySteps: found.ref_model_sync_steps, alpha: found.ref_model_mixup_alpha } : null;
}

/** Reasons why the update does not repeat the recorded step. */
export function replayRemarks(
  config: UpdateConfig,
  resume: ReplayStart | null,
  { first, cut }: RecordedSteps,
): string[] {
  const { rollouts } = config;
  if (!resume)
    return first !== null && first > 1
      ? [
          `${rollouts} was learned from at step ${first}: without that step's checkpoint (--resume_from_checkpoint) weights, Adam's state and the schedule start fresh`,
        ]
      : [];
  const { step, config: before } = resume.state;
  if (first !== null && first !== step + 1)
    return [
      `${rollouts} was learned from at step ${first}, and the checkpoint is of step ${step}: this is not the recorded step; checkpoint-${first - 1} would be`,
    ];
  const remarks = configDifferences(before, toJson(config), freeInReplay)
    .filter(
      ({ key, before: was, now }) => was !== undefined && now !== undefined && Object.hasOwn(settingsOf("train"), key),
    )
    .map(({ key, before: was, now }) => `${key} was ${JSON.stringify(was)} and is now ${JSON.stringify(now)}`);
  const { gradient_accumulation_steps: perStep, steps_per_generation: perGeneration } = before;
  if (first === null && cut.length === 1 && typeof perGeneration === "number" && perGeneration !== perStep)
    remarks.push(
      `${rollouts} has no "step", and a generation of the checkpoint's run served several steps: all lines are one step here; record it again, or give each line its step`,
    );
  return remarks;
}
