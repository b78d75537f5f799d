/**
 * Rewards of one's own, as functions: half for the right answer, and up to as much again for being brief about it. Runs the
 * bundled model: bun examples/own-reward.ts
 */
import { gsm8k, type RewardFunction, train } from "bun-grpo";

/** Takes lists with an entry per completion; columns of the dataset come under their names. */
const brevity: RewardFunction = ({ completions, completion_ids, log_metric }) => {
  const lengths = completion_ids.map((ids) => ids.length);
  log_metric("tokens/longest", Math.max(...lengths));
  // null: not scored, so it does not count for the group's mean.
  return completions.map((text, i) => (text.trim() === "" ? null : Math.max(0, 1 - lengths[i]! / 40)));
};

const run = train({
  rewardFuncs: [gsm8k, brevity],
  rewardWeights: [1, 0.5],
  maxSteps: 3,
  perDeviceTrainBatchSize: 32,
  evalSamples: 20,
  outputDir: "outputs/own-reward",
});
for await (const event of run)
  if (event.type === "step")
    console.log(
      `step ${event.step}: right ${event.metrics["rewards/gsm8k/mean"]}, brief ${event.metrics["rewards/brevity/mean"]}`,
    );
console.log((await run).outputDir);
