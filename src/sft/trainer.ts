/**
 * Supervised fine-tuning: cross-entropy of the answers' tokens, averaged over the tokens of an optimizer step. The warm
 * start that a base model needs before GRPO. Same model code, optimizer, checkpoints and metrics as GRPO.
 */
import { z } from "zod";
import { everySteps } from "../config/often.ts";
import { toJson } from "../config/record.ts";
import type { SftConfig } from "../config/schema.ts";
import { createSampler } from "../data/order.ts";
import { InputError, RunError } from "../errors.ts";
import type { RunConsole } from "../metrics/console.ts";
import { createMetricsWriter, type MetricsRecord } from "../metrics/metrics-file.ts";
import { createStopwatch } from "../metrics/stopwatch.ts";
import { backward, forward } from "../model/lm-head.ts";
import { cutMicroBatches, type PackedGroup } from "../model/micro-batches.ts";
import { optimizerStep, zeroGradients } from "../optim/adamw.ts";
import { learningRate, scheduleOf } from "../optim/schedule.ts";
import { type BestState, bestState } from "../run/best-checkpoint.ts";
import type { ProblemSource } from "../run/prompts.ts";
import { openRunOutput } from "../run/run-output.ts";
import { restoreOptimizer, type TrainedModels } from "../session/checkpointing.ts";
import { anonymousBytes } from "../session/memory.ts";
import type { TrainedModel } from "../session/policy.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { supervisedExample } from "./examples.ts";

export const sftState = z.object({
  step: z.int().min(0),
  totalSteps: z.int().min(1),
  position: z.int().min(0),
  skippedRows: z.int().min(0),
  numTokens: z.number().min(0),
  best: bestState.optional(),
  numerics: z.string(),
  config: z.record(z.string(), z.unknown()),
});
export type SftState = z.infer<typeof sftState>;

export interface SftRun {
  readonly config: SftConfig;
  readonly models: TrainedModels;
  readonly tokenizer: Tokenizer;
  readonly problems: ProblemSource;
  readonly console: RunConsole;
  readonly evaluate: (() => Promise<{ values: Record<string, number>; note: string }>) | null;
  readonly stopRequested: () => boolean;
  readonly resume: { readonly folder: string; readonly state: SftState } | null;
}

/** Rows of one optimizer step. */
export function rowsPerStep({ perDeviceTrainBatchSize, gradientAccumulationSteps }: SftConfig): number {
  return perDeviceTrainBatchSize * gradientAccumulationSteps;
}

/** Forward, backward and optimizer step over one batch; the mean negative logprob of its answer tokens. */
async function learn(policy: TrainedModel, batch: readonly PackedGroup[], config: SftConfig, lr: number) {
  const { model, activations, optimizer } = policy;
  const answers = batch.reduce((sum, g) => sum + g.completions.reduce((n, c) => n + c.completionIds.length, 0), 0);
  zeroGradients(model.device, optimizer);
  let loss = 0;
  let entropy = 0;
  let tokens = 0;
  for (const micro of cutMicroBatches(batch, config.microBatchTokens)) {
    const scores = await forward(model, micro, activations, 1);
    for (const [i, logprob] of scores.logprobs.entries()) {
      loss -= logprob / answers;
      entropy += scores.entropies[i]! / answers;
    }
    if (!Number.isFinite(loss))
      throw new RunError(`the loss is ${loss}: stopped before any weight changed; lower learning_rate`);
    const dlogprobs = new Float64Array(scores.logprobs.length).fill(-1 / answers);
    const dentropies = new Float64Array(scores.logprobs.length);
    await backward(model, micro, activations, optimizer.gradients, { dlogprobs, dentropies }, 1);
    tokens += micro.tokens.length;
  }
  const norm = await optimizerStep(
    model.device,
    optimizer,
    {
      beta1: config.adamBeta1,
      beta2: config.adamBeta2,
      epsilon: config.adamEpsilon,
      weightDecay: config.weightDecay,
      maxGradNorm: config.maxGradNorm,
    },
    lr,
  );
  return { metrics: { loss, grad_norm: norm, learning_rate: lr, entropy }, tokens };
}

/** Runs supervised fine-tuning to its end or until the user stops it; true where it was stopped. */
export async function runSft(run: SftRun): Promise<boolean> {
  const { config, models, tokenizer, problems, console, resume } = run;
  const { device } = models.policy.model;
  const { outputDir } = config;
  const batchRows = rowsPerStep(config);
  const { numRows, path } = problems.dataset;
  const steps = config.maxSteps ?? Math.max(1, Math.floor((numRows * config.numTrainEpochs) / batchRows));
  const schedule = scheduleOf(config, steps);
  let { step, skippedRows, numTokens } = resume?.state ?? { step: 0, skippedRows: 0, numTokens: 0 };
  if (resume) restoreOptimizer(models, resume.folder);
  const position = resume?.state.position ?? 0;
  const sampler = createSampler({ numRows, seed: config.seed, shuffle: config.shuffleDataset, position });
  const settings = {
    maxLength: config.maxLength,
    completionOnlyLoss: config.completionOnlyLoss,
    systemPrompt: config.systemPrompt ?? undefined,
    chatTemplateKwargs: config.chatTemplateKwargs,
  };
  const metrics = createMetricsWriter(outputDir, resume ? { resumeStep: step } : {});
  const stopwatch = createStopwatch();
  const state = (best: BestState | null): SftState => ({
    step,
    totalSteps: steps,
    position: sampler.position,
    skippedRows,
    numTokens,
    ...(best ? { best } : {}),
    numerics: device.numericsKey,
    config: toJson(config) as Record<string, unknown>,
  });
  const output = openRunOutput({
    ...{ models, config, metrics, console, state, resume, stopRequested: run.stopRequested },
    byDefault: "eval_accuracy",
    evaluate: run.evaluate,
  });
  const often = everySteps(config, steps);
  const evaluationDue = () => often.eval !== null && step % often.eval === 0 && step < steps;
  try {
    // Resumed, the run may have ended before the evaluation of the checkpoint's step was written.
    if (step === 0 || evaluationDue()) await output.evaluate();
    while (step < steps && !run.stopRequested() && !output.exhausted) {
      stopwatch.lap();
      stopwatch.start("update");
      const batch: PackedGroup[] = [];
      let skippedNow = 0;
      while (batch.length < batchRows) {
        const example = supervisedExample(problems, tokenizer, sampler.next().row, settings);
        if (example) batch.push(example);
        else if (++skippedNow > numRows)
          throw new InputError(`${path}: every row is longer than max_length ${config.maxLength}; raise it`);
      }
      skippedRows += skippedNow;
      console.progress({ step: step + 1, steps, phase: "update" });
      const { metrics: values, tokens } = await learn(models.policy, batch, config, learningRate(schedule, step));
      step++;
      numTokens += tokens;
      const times = stopwatch.lap();
      const speed = { tokens_per_second: tokens / (times.step_time ?? 1), num_tokens: numTokens };
      const skips: Record<string, number> = skippedRows > 0 ? { skipped_rows: skippedRows } : {};
      const memory = { memory_peak_bytes: device.heldBytes() ?? anonymousBytes() };
      const record: MetricsRecord = {
        step,
        epoch: sampler.position / numRows,
        ...values,
        ...speed,
        ...memory,
        ...skips,
        ...times,
      };
      metrics.write(record);
      if (step % often.logging === 0 || step === steps) console.step(record);
      if (often.save > 0 && step % often.save === 0) await output.save();
      if (evaluationDue()) await output.evaluate();
    }
    await output.evaluate();
    const stopped = run.stopRequested();
    if (stopped) await output.stop();
    else await output.finish(steps);
    return stopped;
  } finally {
    metrics.close();
    console.close();
  }
}
