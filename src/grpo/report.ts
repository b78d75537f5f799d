/**
 * Reports a generation after it has been learned from: a record for each of its steps, warnings, its rollouts for
 * `grpo update`, some completions for the console. Ends a run in which nothing is ever scored.
 */
import { activeCount } from "../families/parameters.ts";
import type { Turn } from "../run/run.ts";
import { anonymousBytes } from "../session/memory.ts";
import type { Estimate } from "./estimators/estimators.ts";
import { completionRows, completionSamples, type Generation, recordRollouts, tokenEnds } from "./generation.ts";
import type { GenerationStep } from "./generation-steps.ts";
import type { Learned } from "./learner/learner.ts";
import type { Scored, Weighed } from "./sample.ts";
import type { TrainingSession, TrainingSetup } from "./setup.ts";
import { generationMetrics, samplerDifference } from "./step-metrics.ts";
import type { StepWarnings } from "./step-warnings.ts";
import { createUnscoredGuard } from "./unscored.ts";

export interface LearnedGeneration {
  readonly generation: Generation;
  readonly samples: readonly (Scored & Weighed)[];
  readonly estimate: Estimate;
  readonly cut: readonly GenerationStep[];
  readonly learned: Learned;
  /** Tokens that all ranks processed in the update, and with the reference. */
  readonly updateTokens: number;
  readonly referenceTokens: number;
  /** The run's progress after it. */
  readonly reached: { readonly position: number; readonly skippedRows: number; readonly numTokens: number };
}

/**
 * @returns a function that reports one generation
 * @throws RunError as the file writers do, and if nothing has been scored for too long
 */
export function createReport(
  { config, problems, tokenizer, team: { ranks } }: TrainingSetup,
  { policy: { model }, critic }: TrainingSession,
  warnings: StepWarnings,
): (turn: Turn, done: LearnedGeneration) => Promise<void> {
  const {
    device,
    config: modelConfig,
    weights: { dtype },
  } = model;
  const active = activeCount(modelConfig);
  const unscored = createUnscoredGuard();
  const savesDetails = config.saveTokenDetails ?? config.dashboard !== false;
  let hasLearned = false;

  return async (turn, { generation, samples, estimate, cut, learned, updateTokens, referenceTokens, reached }) => {
    const { firstStep } = turn;
    const { perFunction, total } = generation.rewards;
    const { firstLogprobs } = learned;
    const { position, numTokens, skippedRows } = reached;
    const shared = {
      ...generationMetrics(generation, samples, estimate, {
        ...{ epoch: position / problems.dataset.numRows, numTokens, skippedRows, dynamic: config.dynamicSampling },
        ...{ times: turn.times(), updateTokens, referenceTokens },
        ...{ parameters: active.all, trained: active.trained },
        peakFlops: ranks.size * device.peakFlops(dtype),
        memoryPeakBytes: device.heldBytes() ?? anonymousBytes(),
      }),
      // If π_old is the sampler's logprobs to the bit, compare them with the first forward pass instead.
      ...samplerDifference(
        samples,
        samples.map(({ oldLogprobs }, i) => (device.exactlyOnPolicy ? null : oldLogprobs) ?? firstLogprobs[i]),
      ),
    };
    for (const [i, update] of learned.steps.entries()) {
      const record = { step: firstStep + i, ...update, ...shared };
      turn.step(record, warnings.step(record, estimate.hasSpread));
    }
    if (config.saveCompletions && ranks.rank === 0) {
      const weights = config.rewardWeights ?? perFunction.map(() => 1);
      await recordRollouts(config.outputDir, firstStep, samples, firstLogprobs, {
        rewardWeights: Object.fromEntries(perFunction.map(({ name }, f) => [name, weights[f]!])),
        withAdvantages: critic !== null, // no replay of the policy's update has a critic
        cut,
        detailsOf: savesDetails
          ? ({ completionIds, text, advantage, refLogprobs }, i) => ({
              ...{ advantage, refLogprobs, verdict: generation.rewards.reasons[i] ?? null },
              ends: tokenEnds(completionIds, text, tokenizer.incrementalDecoder({ skipSpecialTokens: true })),
              entropies: learned.entropies[i] ?? null,
            })
          : null,
      });
    }
    if (config.logCompletions && (firstStep === 1 || firstStep % config.logCompletionsSteps === 0)) {
      turn.completions(firstStep, completionSamples(samples, config.numCompletionsToPrint));
      turn.table(firstStep, completionRows(samples));
    }
    const hopeless = unscored(generation.rewards);
    hasLearned ||= total.some((reward) => reward !== null);
    if (hopeless !== null) await turn.giveUp(hopeless, hasLearned);
  };
}
