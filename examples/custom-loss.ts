/**
 * A loss and an advantage estimator of one's own: the squared log-ratio as a soft trust region, and the rank within the group
 * as the advantage. Their derivatives are checked before the run. Runs the bundled model: bun examples/custom-loss.ts
 */
import { checkLossGradient, type OwnEstimator, type OwnLoss, train } from "bun-grpo";

/** −A·ρ + ½·(log ρ)², averaged over the step's tokens. */
const softRegion: OwnLoss = ({ logprobs, oldLogprobs, advantages, mask, step }) => {
  let loss = 0;
  let drift = 0;
  const dlogprobs = new Float64Array(logprobs.length);
  for (let t = 0; t < logprobs.length; t++) {
    if (mask[t] === 0) continue;
    const logRatio = logprobs[t]! - oldLogprobs[t]!;
    const ratio = Math.exp(logRatio);
    loss += (logRatio ** 2 / 2 - advantages[t]! * ratio) / step.tokens;
    dlogprobs[t] = (logRatio - advantages[t]! * ratio) / step.tokens;
    drift += logRatio ** 2;
  }
  return { loss, dlogprobs, metrics: { "loss/drift": drift / logprobs.length } };
};

/** From −1 for the worst of a group to 1 for the best; equal rewards have equal ranks. */
const rank: OwnEstimator = ({ rewards, groups }) =>
  rewards.map((reward, i) => {
    if (reward === null) return 0;
    const others = rewards.filter((other, j) => other !== null && groups[j] === groups[i]);
    const below = others.filter((other) => other! < reward).length;
    const above = others.filter((other) => other! > reward).length;
    return (below - above) / Math.max(others.length - 1, 1);
  });

console.log(`largest error of the derivatives: ${checkLossGradient(softRegion)}`);
const run = train({
  lossType: softRegion,
  advantageEstimator: rank,
  beta: 0,
  numIterations: 2,
  maxSteps: 4,
  perDeviceTrainBatchSize: 32,
  evalSamples: 20,
  outputDir: "outputs/custom-loss",
});
for await (const event of run)
  if (event.type === "step") console.log(`step ${event.step}: loss ${event.metrics.loss}`, event.metrics["loss/drift"]);
