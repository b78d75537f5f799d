/**
 * The trainer's own part of a checkpoint, `checkpoint-N/trainer_state.json`, and which checkpoint is the newest. What the
 * state holds is the trainer's business: it brings the schema.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { z } from "zod";
import { readJsonFile } from "../config/json_file.ts";
import { InputError } from "../errors.ts";
import { recoverFolder, writeFileAtomic } from "./atomic.ts";
import { openSafetensors } from "./safetensors.ts";

export const trainerStateName = "trainer_state.json";

/** The folder's name of the checkpoint after `step` optimizer steps. */
export function checkpointName(step: number): string {
  return `checkpoint-${step}`;
}

/** @throws RunError where it cannot be written */
export function writeTrainerState(folder: string, state: unknown): void {
  const path = join(folder, trainerStateName);
  const text = JSON.stringify(
    state,
    (key, value) => {
      // JSON would write null, and resuming would go wrong much later.
      if (typeof value === "number" && !Number.isFinite(value)) throw new Error(`${path}: ${key} is ${value}`);
      return value;
    },
    2,
  );
  writeFileAtomic(path, `${text}\n`);
}

/**
 * @param schema what the state must look like
 * @throws InputError where the file is missing, torn, or holds something else
 */
export function readTrainerState<T>(folder: string, schema: z.ZodType<T>): T {
  const path = join(folder, trainerStateName);
  if (!existsSync(path))
    throw new InputError(`${folder}: holds no ${trainerStateName}; give a checkpoint-N folder that training wrote`);
  const parsed = schema.safeParse(readJsonFile(path));
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  const field = issue.path.join(".") || "the state";
  throw new InputError(
    `${path}: ${field}: ${issue.message}; it was written by another version or changed by hand: resume from another checkpoint`,
  );
}

/**
 * @returns the path of the complete checkpoint with the highest step in `outputDir`, or null. One that a dying process
 * left moved aside is brought back first.
 */
export function latestCheckpoint(outputDir: string): string | null {
  if (!existsSync(outputDir)) return null;
  for (const name of readdirSync(outputDir)) {
    const aside = /^(checkpoint-\d+)\.(old|tmp)-\d+$/.exec(name);
    if (aside !== null) recoverFolder(join(outputDir, aside[1]!));
  }
  const steps = readdirSync(outputDir)
    .flatMap((name) => /^checkpoint-(\d+)$/.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => b - a);
  for (const step of steps) {
    const folder = join(outputDir, checkpointName(step));
    if (isComplete(folder)) return folder;
  }
  return null;
}

/** Whether the state is there and every safetensors file has the length that its header says. */
function isComplete(folder: string): boolean {
  try {
    readJsonFile(join(folder, trainerStateName));
    const weights = readdirSync(folder).filter((name) => name.endsWith(".safetensors"));
    for (const name of weights) openSafetensors(join(folder, name)).close();
    return weights.length > 0;
  } catch (error) {
    if (error instanceof InputError || (error as NodeJS.ErrnoException).code !== undefined) return false;
    throw error;
  }
}
