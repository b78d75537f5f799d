/**
 * What stands in where a model or a dataset is not named: the bundled tiny model, its problems, and settings that suit
 * them (data/README.md says how they were found).
 */
import { existsSync } from "node:fs";
import { assetPath } from "../assets.ts";
import type { ConfigInput } from "../config/schema.ts";
import { RunError } from "../errors.ts";

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

function bundledPath(relative: string): string {
  const path = assetPath(relative);
  if (!existsSync(path)) throw new RunError(`${path} is missing; restore it, or make it anew with: bun data/make.ts`);
  return path;
}

export const bundledModel = (): string => bundledPath("data/model");
export const bundledProblems = (): string => bundledPath("data/problems/train.arrow");
export const bundledEvalProblems = (): string => bundledPath("data/problems/eval.arrow");
