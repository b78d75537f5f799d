/**
 * What stands in where a model or a dataset is not named: the bundled tiny model, its problems, and settings that suit
 * them (data/README.md says how they were found).
 */
import { existsSync } from "node:fs";
import { assetPath } from "../assets.ts";
import type { ConfigInput, TrainConfig } from "../config/schema.ts";
import { RunError } from "../errors.ts";
import type { TrainingPaths } from "../grpo/setup.ts";

/** Settings of the bundled run, where the user gives no other. */
export const bundledTraining: ConfigInput<"train"> = {
  learningRate: 1.5e-4,
  lrSchedulerType: "linear",
  beta: 0.1,
  numGenerations: 16,
  perDeviceTrainBatchSize: 256,
  maxCompletionLength: 48,
  maxSteps: 40,
  maxConcurrentSequences: 256,
  saveSteps: 0,
  evalSteps: 10,
  evalSamples: 300,
};

/** Adapters take a higher learning rate (docs/lora.md). */
const bundledAdapters: ConfigInput<"train"> = { ...bundledTraining, learningRate: 2e-3 };

function bundledPath(relative: string): string {
  const path = assetPath(relative);
  if (!existsSync(path)) throw new RunError(`${path} is missing; restore it, or make it anew with: bun data/make.ts`);
  return path;
}

export const bundledModel = (): string => bundledPath("data/model");
export const bundledProblems = (): string => bundledPath("data/problems/train.arrow");
export const bundledEvalProblems = (): string => bundledPath("data/problems/eval.arrow");

/** The settings of `train` or `plan`; without a model and a dataset those of the bundled run stand in. */
export function orBundled<
  L extends { readonly config: { readonly model: unknown; readonly dataset: unknown; readonly usePeft: boolean } },
>(load: (options: { readonly defaults?: typeof bundledTraining }) => L): L & { readonly bundled: boolean } {
  const first = load({});
  const bundled = first.config.model === null && first.config.dataset === null;
  return {
    ...(bundled ? load({ defaults: first.config.usePeft ? bundledAdapters : bundledTraining }) : first),
    bundled,
  };
}

/** Where model and data come from. */
export function trainingPaths(config: TrainConfig): TrainingPaths {
  const dataset = config.dataset ?? bundledProblems();
  return {
    model: config.model ?? bundledModel(),
    dataset,
    evalDataset: config.evalDataset ?? (config.dataset === null ? bundledEvalProblems() : null),
  };
}
