/**
 * `completions/step-000001.jsonl`: the rollouts of one step, a line each. What a line holds is `grpo/rollout-file.ts`'s
 * business; here is where the file lies, and that it is whole or absent: it is written next to its place and renamed.
 */
import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { writeBytes, writeLargeFileAtomic } from "../files/atomic.ts";
import { runFile, writingForRun } from "../files/refusals.ts";

const flushCharacters = 1 << 20;

/** The path of a step's file. */
export function completionsPath(outputDir: string, step: number): string {
  return join(outputDir, "completions", `step-${String(step).padStart(6, "0")}.jsonl`);
}

/**
 * Writes a step's rollouts. Takes one line at a time from `lines`, so that they need not all exist at once, and gives way
 * to the event loop about every megabyte.
 * @param lines without their line breaks
 * @returns the file's path
 * @throws RunError where the disk is full; whatever making a line throws. Neither leaves a file.
 */
export async function writeCompletions(outputDir: string, step: number, lines: Iterable<string>): Promise<string> {
  const path = completionsPath(outputDir, step);
  writingForRun(path, () => mkdirSync(dirname(path), { recursive: true }));
  await writeLargeFileAtomic(
    path,
    async (file) => {
      let pending = "";
      for (const line of lines) {
        pending += `${line}\n`;
        if (pending.length < flushCharacters) continue;
        await writeBytes(file, Buffer.from(pending));
        pending = "";
      }
      await writeBytes(file, Buffer.from(pending));
    },
    runFile,
  );
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
    const number = /^\.?step-(\d+)\.jsonl(\.tmp-.*)?$/.exec(name)?.[1];
    if (number !== undefined && Number(number) > step)
      writingForRun(folder, () => rmSync(join(folder, name), { force: true }));
  }
}
