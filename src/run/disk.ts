/** Estimates the disk space of a training run. Logs, tokenizer files and headers are left out: a few MiB. */
import { existsSync, statfsSync } from "node:fs";
import { dirname, resolve } from "node:path";
import type { ModelConfig } from "../families/config.ts";
import { parameterSpecs, trainedCount } from "../families/parameters.ts";
import { type FormSettings, savedBytes } from "../optim/form.ts";
import { bytesPerElement, type ComputeDType } from "../tensor/dtype.ts";
import { mebibytes } from "../tensor/mebibytes.ts";

export interface DiskUse {
  readonly modelBytes: number;
  readonly checkpointBytes: number;
  /** Checkpoints kept at the end. */
  readonly checkpoints: number;
}

/** What a run saves, and how often. */
export interface Saving {
  readonly steps: number;
  /** In steps; 0: only when stopped by a signal, which makes one checkpoint. */
  readonly every: number;
  /** null: all are kept. */
  readonly limit: number | null;
  /** PPO's critic and a moving reference are saved too. */
  readonly hasCritic: boolean;
  readonly hasMovingReference: boolean;
  /** How the optimizer's state is kept. */
  readonly form: FormSettings;
}

export function diskUse(config: ModelConfig, dtype: ComputeDType, saving: Saving): DiskUse {
  const parameters = trainedCount(config);
  const weightBytes = bytesPerElement(dtype);
  const models = saving.hasCritic ? 2 : 1;
  const modelBytes = models * parameters * weightBytes;
  const form = { ...saving.form, embeddings: new Set([config.embedding.name]) };
  const optimizerBytes = parameterSpecs(config).reduce(
    (sum, spec) => sum + (spec.trainable ? savedBytes(form, spec, dtype) : 0),
    0,
  );
  const reference = saving.hasMovingReference ? parameters * weightBytes : 0;
  return {
    modelBytes,
    checkpointBytes: modelBytes + models * optimizerBytes + reference,
    checkpoints: Math.min(
      saving.limit ?? Infinity,
      Math.max(1, saving.every > 0 ? Math.floor(saving.steps / saving.every) : 1),
    ),
  };
}

/** @param overwrite the run replaces what is in `outputDir` */
export function describeDisk(
  { modelBytes, checkpointBytes, checkpoints }: DiskUse,
  outputDir: string,
  overwrite: boolean,
): string[] {
  let there = resolve(outputDir);
  while (!existsSync(there)) there = dirname(there);
  const { bavail, bsize } = statfsSync(there);
  const line = (name: string, bytes: number) => `${name.padEnd(54)} ${mebibytes(bytes).padStart(9)}`;
  return [
    line("on disk, a checkpoint", checkpointBytes),
    line("on disk, the model", modelBytes),
    line(
      `on disk, ${checkpoints} checkpoint${checkpoints === 1 ? "" : "s"} and the model`,
      checkpoints * checkpointBytes + modelBytes,
    ),
    `${line("free on that disk", bavail * bsize)}${overwrite ? "  what is replaced stays until the first is saved" : ""}`,
  ];
}
