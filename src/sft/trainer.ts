/**
 * Supervised fine-tuning: cross-entropy of the answers' tokens, averaged over the tokens of an optimizer step. It is
 * the warm start that a base model needs before GRPO, and shares model code, optimizer, checkpoints and metrics with
 * it.
 */
import { z } from "zod";
import { toJson } from "../config/record.ts";
import type { SftConfig } from "../config/schema.ts";
import { createSampler } from "../data/order.ts";
import { InputError, RunError } from "../errors.ts";
import type { RunConsole } from "../metrics/console.ts";
import type { MetricsRecord } from "../metrics/metrics-file.ts";
import { balanced } from "../model/expert-load.ts";
import { forwardBackward } from "../model/lm-head.ts";
import type { MicroBatch, PackedGroup } from "../model/micro-batches.ts";
import { optimizerSettings } from "../optim/adamw.ts";
import { learningRate, scheduleOf } from "../optim/schedule.ts";
import type { Team } from "../ranks/ranks.ts";
import { type BestState, bestState } from "../run/best-checkpoint.ts";
import type { OnDevice } from "../run/device.ts";
import type { ProblemSource } from "../run/prompts.ts";
import { keepRun, type RunOptions, type RunOutcome, type Turn } from "../run/run.ts";
import type { TrainedModels } from "../session/checkpointing.ts";
import { passesOf, stepAfter } from "../session/gradient-shards.ts";
import { anonymousBytes } from "../session/memory.ts";
import type { TrainedModel } from "../session/policy.ts";
import { expertsOfPass, expertsOfStep, routed } from "../session/step-routes.ts";
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
  readonly config: OnDevice<SftConfig>;
  readonly models: TrainedModels;
  readonly tokenizer: Tokenizer;
  readonly problems: ProblemSource;
  readonly console: RunConsole;
  readonly evaluate: (() => Promise<{ values: Record<string, number>; note: string }>) | null;
  readonly team: Team;
  /** Called after a checkpoint was saved. */
  readonly onSaved?: RunOptions["onSaved"];
  readonly sinks?: RunOptions["sinks"];
  readonly resume: { readonly folder: string; readonly state: SftState } | null;
}

/** Rows of one optimizer step. */
export function rowsPerStep(
  { perDeviceTrainBatchSize, gradientAccumulationSteps }: SftConfig,
  { devices }: Pick<Team, "devices">,
): number {
  return perDeviceTrainBatchSize * gradientAccumulationSteps * devices;
}

/** Forward, backward and optimizer step over one batch; the loss is the mean negative logprob of its answer tokens. */
async function learn(policy: TrainedModel, given: readonly PackedGroup[], config: OnDevice<SftConfig>, lr: number) {
  const { model, activations, optimizer, shards } = policy;
  const { groups: batch, experts } = await routed(policy, given, config);
  const answers = batch.reduce((sum, g) => sum + g.completions.reduce((n, c) => n + c.completionIds.length, 0), 0);
  const pass = async (cut: MicroBatch) => {
    const micro = balanced(cut, experts?.slopes ?? null);
    const derive = (entries: Int32Array) => ({
      dlogprobs: new Float64Array(entries.length).fill(-1 / answers),
      dentropies: new Float64Array(entries.length),
    });
    const scored = await forwardBackward(model, micro, activations, optimizer.gradients, derive, 1);
    const { logprobs, entropies } = scored;
    const broken = logprobs.find((logprob) => !Number.isFinite(logprob));
    if (broken !== undefined)
      throw new RunError(`the loss is ${-broken}: stopped before any weight changed; lower learning_rate`);
    const scores = { logprobs: logprobs.slice(), entropies: entropies.slice(), tokens: micro.tokens.length };
    return { ...scores, ...expertsOfPass(micro, scored.experts, experts) };
  };
  const passes = await passesOf(model.device, optimizer, shards, batch, config.microBatchTokens, pass);
  let loss = 0;
  let entropy = 0;
  let tokens = 0;
  for (const scores of passes.results) {
    for (const [i, logprob] of scores.logprobs.entries()) {
      loss -= logprob / answers;
      entropy += scores.entropies[i]! / answers;
    }
    tokens += scores.tokens;
  }
  const norm = await stepAfter(model.device, policy, passes, optimizerSettings(config), lr);
  const { balanceLoss, metrics } = expertsOfStep(experts, passes.results);
  return { metrics: { loss: loss + balanceLoss, grad_norm: norm, learning_rate: lr, entropy, ...metrics }, tokens };
}

/** Runs supervised fine-tuning to its end or until the user stops it. */
export async function runSft(run: SftRun): Promise<RunOutcome> {
  const { config, models, tokenizer, problems, resume } = run;
  const { ranks } = run.team;
  const { device } = models.policy.model;
  const batchRows = rowsPerStep(config, run.team);
  const { numRows, path } = problems.dataset;
  const steps = config.maxSteps ?? Math.max(1, Math.floor((numRows * config.numTrainEpochs) / batchRows));
  const schedule = scheduleOf(config, steps);
  let { step, skippedRows, numTokens } = resume?.state ?? { step: 0, skippedRows: 0, numTokens: 0 };
  const position = resume?.state.position ?? 0;
  const sampler = createSampler({ numRows, seed: config.seed, shuffle: config.shuffleDataset, position });
  const settings = {
    maxLength: config.maxLength,
    completionOnlyLoss: config.completionOnlyLoss,
    systemPrompt: config.systemPrompt ?? undefined,
    chatTemplateKwargs: config.chatTemplateKwargs,
  };
  const state = (best: BestState | null): SftState => ({
    ...{ step, totalSteps: steps, position: sampler.position, skippedRows, numTokens },
    ...(best ? { best } : {}),
    numerics: device.numericsKey,
    config: toJson(config) as Record<string, unknown>,
  });

  /** The next rows, skipping those that are too long. */
  const nextBatch = (): PackedGroup[] => {
    const batch: PackedGroup[] = [];
    let skippedNow = 0;
    while (batch.length < batchRows) {
      const example = supervisedExample(problems, tokenizer, sampler.next().row, settings);
      if (example) batch.push(example);
      else if (++skippedNow > numRows)
        throw new InputError(`${path}: every row is longer than max_length ${config.maxLength}; raise it`);
    }
    skippedRows += skippedNow;
    return batch;
  };

  const oneStep = async (turn: Turn): Promise<boolean> => {
    turn.phase("update");
    const batch = nextBatch();
    turn.progress("update");
    const { metrics, tokens } = await learn(models.policy, batch, config, learningRate(schedule, step));
    step++;
    numTokens += tokens;
    const times = turn.times();
    const record: MetricsRecord = {
      ...{ step, epoch: sampler.position / numRows, ...metrics },
      ...{ tokens_per_second: tokens / (times.step_time ?? 1), num_tokens: numTokens },
      memory_peak_bytes: device.heldBytes() ?? anonymousBytes(),
      ...(skippedRows > 0 ? { skipped_rows: skippedRows } : {}),
      ...times,
    };
    turn.step(record, []);
    return true;
  };

  return keepRun(
    {
      ...{ models, config, state, resume, steps, stepsPerTurn: 1, byDefault: "eval_accuracy" },
      settings: toJson(config),
      ...{ console: run.console, ranks },
      evaluate: run.evaluate,
      ...{ onSaved: run.onSaved, sinks: run.sinks },
    },
    oneStep,
  );
}
