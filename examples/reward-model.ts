/**
 * A reward model beside a rule: a sequence classification model with one label scores every completion, on the same device
 * and in the same plan of memory. bun examples/reward-model.ts REWARD_MODEL_FOLDER
 */
import { InputError, train } from "bun-grpo";

const [rewardModel] = process.argv.slice(2);
if (rewardModel === undefined) {
  console.error("give the folder of a reward model");
  process.exit(2);
}
try {
  const run = train({
    rewardFuncs: ["gsm8k", rewardModel],
    // Reward models have their own scale: a small weight keeps the rule in charge.
    rewardWeights: [1, 0.1],
    maxSteps: 2,
    perDeviceTrainBatchSize: 16,
    evalSamples: 10,
    outputDir: "outputs/reward-model",
  });
  for await (const event of run) if (event.type === "step") console.log(`step ${event.step}`, event.metrics.reward);
} catch (error) {
  if (!(error instanceof InputError)) throw error;
  for (const { field, message } of error.errors) console.error(field ?? "", message);
  process.exit(2);
}
