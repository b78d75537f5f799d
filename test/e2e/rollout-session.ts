/** A golden model ready for sampling and for scoring the samples with the training pass. */
import { join } from "node:path";
import type { Device } from "../../src/device/device.ts";
import type { RolloutLimits } from "../../src/rollout/buffers.ts";
import { planPolicy, planSampling, planScoring } from "../../src/session/policy.ts";
import { planSession, type Session } from "../../src/session/session.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";

export const goldenModel = (name: string) => join(import.meta.dir, "../golden", name);

/** Options of a rollout that keeps at most three prompts in the cache. */
export type RolloutSize = Omit<RolloutLimits, "promptRoom">;

export function planGolden(device: Device, model: string, dtype: ComputeDType, size: RolloutSize) {
  const { maxSequences, longestPrompt, maxCompletion } = size;
  return planSession(device, (plan) => {
    const positions = longestPrompt + maxCompletion;
    const policy = planPolicy(plan, plan.folder(goldenModel(model)), { dtype, positions });
    return {
      scorer: planScoring(plan, policy, { tokens: 4096, longestPrompt }),
      rollout: planSampling(plan, policy, { ...size, promptRoom: Math.min(maxSequences, 3) }),
    };
  });
}

export type RolloutSession = Session<ReturnType<typeof planGolden>["tenants"]>;
