/** A golden model made ready for sampling and, by the training pass, for scoring what was sampled. */
import { join } from "node:path";
import { readModelConfig } from "../../src/checkpoint/huggingface.ts";
import type { Device } from "../../src/device/device.ts";
import type { RolloutLimits } from "../../src/rollout/buffers.ts";
import { packedSizes } from "../../src/run/inputs.ts";
import { planSession, type Session } from "../../src/session/session.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";

export const goldenModel = (name: string) => join(import.meta.dir, "../golden", name);

/** Of a rollout that keeps at most three prompts in the cache. */
export type RolloutSize = Omit<RolloutLimits, "promptSlots">;

export function openRollout(device: Device, model: string, dtype: ComputeDType, size: RolloutSize): Promise<Session> {
  const { maxSequences, longestPrompt, maxCompletion } = size;
  const folder = goldenModel(model);
  return planSession({
    ...{ device, folder, dtype, training: false, reference: null },
    packed: packedSizes(device, readModelConfig(folder), 4096, longestPrompt),
    rollout: { ...size, promptSlots: Math.min(maxSequences, 3) },
    positions: longestPrompt + maxCompletion,
  }).open();
}
