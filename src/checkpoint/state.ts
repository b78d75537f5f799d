/**
 * The trainer's own part of a checkpoint, `checkpoint-N/trainer_state.json`, and finding the newest checkpoint. The
 * trainer supplies the schema of its state.
 */
import { existsSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import type { z } from "zod";
import { readJsonFile } from "../config/json-file.ts";
import { errorText, InputError, RunError } from "../errors.ts";
import { recoverFolder, writeFileAtomic } from "../files/atomic.ts";
import { openSafetensors } from "./safetensors.ts";

const trainerStateName = "trainer_state.json";

/** The folder name of the checkpoint after `step` optimizer steps. */
export function checkpointName(step: number): string {
  return `checkpoint-${step}`;
}

/** @throws RunError if it cannot be written */
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
 * @param schema the state's schema
 * @throws InputError if the file is missing, incomplete, or does not match
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

/** The checkpoints in a folder for which a dying process left a temporary or moved-aside version. */
export function interruptedCheckpoints(folder: string): string[] {
  const names = readdirSync(folder).flatMap((name) => /^(checkpoint-\d+)\.(old|tmp)-/.exec(name)?.[1] ?? []);
  return [...new Set(names)].map((name) => join(folder, name));
}

/**
 * @returns the path of the complete checkpoint with the highest step in `outputDir`, or null. One that a dying process
 * left moved aside is brought back first.
 */
export function latestCheckpoint(outputDir: string): string | null {
  if (!isFolder(outputDir)) return null;
  for (const checkpoint of interruptedCheckpoints(outputDir)) recoverFolder(checkpoint);
  return listCheckpoints(outputDir).findLast(({ folder }) => isComplete(folder))?.folder ?? null;
}

export interface ListedCheckpoint {
  readonly step: number;
  readonly folder: string;
}

/** The checkpoints in `outputDir` by their steps, complete or not, oldest first. */
export function listCheckpoints(outputDir: string): ListedCheckpoint[] {
  if (!isFolder(outputDir)) return [];
  return readdirSync(outputDir)
    .flatMap((name) => /^checkpoint-(\d+)$/.exec(name)?.[1] ?? [])
    .map((digits) => ({ step: Number(digits), folder: join(outputDir, checkpointName(Number(digits))) }))
    .sort((a, b) => a.step - b.step);
}

/**
 * Removes the oldest checkpoints down to `limit`; null: removes none. The best one counts too but is never removed, nor is
 * the newest, so a limit of one may leave two (transformers' rule).
 *
 * @param best its step; null: there is none
 */
export function keepNewestCheckpoints(outputDir: string, limit: number | null, best: number | null = null): void {
  if (limit === null) return;
  const all = listCheckpoints(outputDir);
  const newest = all.at(-1);
  const kept = all.filter(({ step }) => step === best && step !== newest?.step);
  const others = all.filter((checkpoint) => !kept.includes(checkpoint));
  for (const { folder } of others.slice(0, -Math.max(1, limit - kept.length))) {
    try {
      rmSync(folder, { recursive: true, force: true });
    } catch (error) {
      throw new RunError(`${folder}: cannot be removed (${errorText(error)}); check its permissions`);
    }
  }
}

export function isFolder(path: string): boolean {
  return existsSync(path) && statSync(path).isDirectory();
}

/** Whether the state exists and every safetensors file, including those of models inside, has the length its header gives. */
export const isComplete = (folder: string): boolean => damageOf(folder) === null;

/** What makes a checkpoint incomplete; null: it is complete. */
export function damageOf(folder: string): string | null {
  try {
    readJsonFile(join(folder, trainerStateName));
    const files = readdirSync(folder, { recursive: true, encoding: "utf8" });
    const weights = files.filter((name) => name.endsWith(".safetensors"));
    for (const name of weights) openSafetensors(join(folder, name)).close();
    return weights.length > 0 ? null : `${folder}: holds no weights`;
  } catch (error) {
    if (error instanceof InputError || (error as NodeJS.ErrnoException).code !== undefined) return errorText(error);
    throw error;
  }
}
