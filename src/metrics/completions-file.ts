/**
 * `completions/step-000001.jsonl`: every rollout of a step, in the format that `grpo update --rollouts` reads, with the
 * texts beside the tokens. Written next to its place and renamed, so that a file is whole or absent.
 */
import { closeSync, mkdirSync, openSync, readdirSync, renameSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { writing } from "./write-error.ts";

type Numbers = readonly number[] | Float32Array | Float64Array | Int32Array | Uint32Array;

export interface CompletionRow {
  /** Which prompt; rows of one group are neighbours. */
  readonly group: number;
  readonly prompt_ids: Numbers;
  readonly completion_ids: Numbers;
  readonly finished: boolean;
  /** null: not scored. */
  readonly reward: number | null;
  /** log π_old of each completion token, at the training temperature. */
  readonly old_logprobs?: Numbers;
  readonly ref_logprobs?: Numbers;
  /** Of the distribution really drawn from. */
  readonly sampling_logprobs?: Numbers;
  readonly prompt?: string;
  readonly completion?: string;
  readonly answer?: string | null;
  /** Each reward function's own value. */
  readonly rewards?: Readonly<Record<string, number | null>>;
  readonly advantage?: number;
}

const flushBytes = 1 << 20;

/** The path of a step's file. */
export function completionsPath(outputDir: string, step: number): string {
  return join(outputDir, "completions", `step-${String(step).padStart(6, "0")}.jsonl`);
}

/**
 * Writes a step's rollouts; numbers in full, so that an update from the file repeats the step exactly. Gives way to the
 * event loop about every megabyte.
 * @returns the file's path
 * @throws RunError where the disk is full
 */
export async function writeCompletions(
  outputDir: string,
  step: number,
  rows: readonly CompletionRow[],
): Promise<string> {
  const path = completionsPath(outputDir, step);
  const partial = `${path}.tmp`;
  writing(path, () => mkdirSync(join(outputDir, "completions"), { recursive: true }));
  const file = writing(path, () => openSync(partial, "w"));
  try {
    let pending = "";
    const flush = () => {
      const bytes = Buffer.from(pending);
      pending = "";
      writing(path, () => {
        for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done);
      });
    };
    for (const row of rows) {
      pending += `${JSON.stringify(row, plainNumbers)}\n`;
      if (pending.length < flushBytes) continue;
      flush();
      await new Promise((resolve) => setImmediate(resolve));
    }
    flush();
  } catch (error) {
    closeSync(file);
    rmSync(partial, { force: true });
    throw error;
  }
  closeSync(file);
  writing(path, () => renameSync(partial, path));
  return path;
}

/** Removes the files of later steps: a run that goes on from `step` writes them anew. */
export function removeCompletionsAfter(outputDir: string, step: number): void {
  const folder = join(outputDir, "completions");
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch {
    return;
  }
  for (const name of names) {
    const number = /^step-(\d+)\.jsonl(\.tmp)?$/.exec(name)?.[1];
    if (number !== undefined && Number(number) > step)
      writing(folder, () => rmSync(join(folder, name), { force: true }));
  }
}

/** Typed arrays as plain lists; JSON would write them as objects. */
function plainNumbers(_key: string, value: unknown): unknown {
  return ArrayBuffer.isView(value) ? Array.from(value as Float32Array) : value;
}
