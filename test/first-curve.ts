/**
 * The time from `git clone` to the first reward curve on screen, as a newcomer has it: clones a repository (by default the one
 * that this file is in), installs the packages and builds the kernels into empty caches, trains the bundled model, and draws the
 * reward of every step when its line comes. `bun test/first-curve.ts [REPOSITORY] [--steps N] [--limit SECONDS]`: exit status 1 if the
 * curve takes longer. It needs git, a compiler, and the registry of the packages.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  args: process.argv.slice(2),
  options: { steps: { type: "string", default: "12" }, limit: { type: "string", default: "60" } },
  allowPositionals: true,
});
const repository = positionals[0] ?? join(import.meta.dir, "..");
const steps = Number(values.steps);
const limit = Number(values.limit);
const work = mkdtempSync(join(tmpdir(), "grpo-first-curve-"));
const folder = join(work, "bun-grpo");
const env = {
  ...process.env,
  BUN_INSTALL_CACHE_DIR: join(work, "packages"),
  BUN_GRPO_CACHE: join(work, "kernels"),
  NO_COLOR: "1",
};

const start = performance.now();
const seconds = (): string => ((performance.now() - start) / 1000).toFixed(1).padStart(5);
const say = (text: string): void => void process.stdout.write(`${seconds()} s  ${text}\n`);
/** A step's line in the table, with its number and mean reward. */
const stepLine = /^ +(\d+) +(-?\d\.\d+) /;
const rewards: number[] = [];

async function lines(from: ReadableStream<Uint8Array>, each: (line: string) => void): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of from) {
    const parts = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = parts.pop()!;
    parts.forEach(each);
  }
}

function show(line: string): void {
  const [, step, reward] = stepLine.exec(line) ?? [];
  if (reward === undefined) {
    if (/^(compiling|evaluation|data\/model|held-out)/.test(line)) say(line);
    return;
  }
  rewards.push(Number(reward));
  say(`step ${step!.padStart(2)}  reward ${reward}  ${"█".repeat(Math.round(60 * Math.max(0, Number(reward))))}`);
}

try {
  process.stdout.write(`load before: ${loadavg()[0]!.toFixed(1)} on ${navigator.hardwareConcurrency} cores\n`);
  say(`$ git clone ${positionals[0] ?? "bun-grpo"}`);
  const clone = Bun.spawn(["git", "clone", "--quiet", repository, folder], { stdout: "inherit", stderr: "inherit" });
  if ((await clone.exited) !== 0) process.exit(1);
  say(`$ bun run train --max_steps ${steps}`);
  const run = Bun.spawn([process.execPath, "run", "train", "--device", "cpu", "--max_steps", `${steps}`], {
    cwd: folder,
    env,
    stdout: "pipe",
    stderr: "pipe",
  });
  let drawn = Number.NaN;
  const seen = (line: string): void => {
    show(line);
    if (rewards.length === steps && Number.isNaN(drawn)) drawn = (performance.now() - start) / 1000;
  };
  await Promise.all([lines(run.stdout, seen), lines(run.stderr, seen)]);
  const code = await run.exited;
  // Of the whole tree of processes; on a busy machine the rest of the time was waiting.
  const processor = Number(run.resourceUsage()?.cpuTime.total ?? 0) / 1e6;
  if (code !== 0 || Number.isNaN(drawn)) {
    process.stderr.write(`the run ended with status ${code} after ${rewards.length} steps\n`);
    process.exitCode = 1;
  } else {
    const verdict = drawn <= limit ? `within ${limit} s` : `longer than ${limit} s`;
    process.stdout.write(`the curve of ${steps} steps: ${drawn.toFixed(1)} s after git clone began, ${verdict}\n`);
    process.stdout.write(`processor time of bun run train, all processes: ${processor.toFixed(1)} s\n`);
    if (drawn > limit) process.exitCode = 1;
  }
} finally {
  rmSync(work, { recursive: true, force: true });
}
