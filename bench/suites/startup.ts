/**
 * `bench startup`: seconds from the start of a process to the first prompts prefilled, for `train` with its usual settings. The
 * kernels are built before. The process is this program again, told by its environment to stop once the first tokens are there.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { RunError } from "../../src/errors.ts";
import { compiled } from "../../src/program.ts";
import { type Figure, less } from "../figures.ts";
import type { BenchFlags } from "../flags.ts";
import { median } from "../measure.ts";
import { requireModel } from "../model.ts";
import { openBenchDevice } from "../open.ts";
import { writeRandomModel } from "../random-model.ts";
import { runTrainer, trainerSettings } from "./step.ts";
import { reportOf, type Suite } from "./suite.ts";

/** Set for the measured process: the folder that it may write into. */
const CHILD = "BUN_GRPO_BENCH_STARTUP";

/** The words that start this program once more, without a command. */
export function programWords(): string[] {
  return compiled
    ? [process.execPath]
    : [process.execPath, fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url))];
}

/** In the measured process: trains until the first tokens are sampled, and says so. */
async function untilFirstTokens(flags: BenchFlags, work: string): Promise<void> {
  let first: string | null = null;
  await runTrainer(
    await trainerSettings(flags, work, 1),
    (phase) => {
      if (first !== null) return;
      first = phase;
      process.stdout.write(`${phase}\n`);
    },
    () => first !== null,
  );
}

/** Milliseconds until the child says something, and what. */
async function firstWord(
  command: readonly string[],
  env: Record<string, string> = {},
): Promise<readonly [number, string]> {
  const start = performance.now();
  const child = Bun.spawn([...command], { env: { ...process.env, ...env }, stdout: "pipe", stderr: "pipe" });
  const reader = child.stdout.getReader();
  const { value } = await reader.read();
  const taken = performance.now() - start;
  child.kill("SIGKILL");
  const [err] = await Promise.all([child.stderr.text(), child.exited]);
  if (value === undefined) throw new RunError(`startup: ${command.join(" ")} said nothing: ${err.trim()}`);
  return [taken, new TextDecoder().decode(value).trim()];
}

export const startup: Suite = {
  summary: "seconds from the start of train to the first prompts prefilled",
  usual: true,
  takesTraining: true,
  takes: ["device", "shape", "model", "dtype", "threads", "path", "quick"],
  async run(flags, line) {
    const given = process.env[CHILD];
    if (given !== undefined) {
      await untilFirstTokens(flags, given);
      return null;
    }
    requireModel(flags);
    const device = await openBenchDevice(flags); // builds the kernels
    const { description } = device;
    device.close();
    const work = mkdtempSync(join(tmpdir(), "grpo-bench-"));
    try {
      const runs = flags.quick ? 3 : 7;
      const model = flags.shape === null ? [] : ["--model", await writeRandomModel(join(work, "model"), flags.shape)];
      const [bare, train]: number[][] = [[], []];
      for (let i = 0; i <= runs; i++) {
        const path: Record<string, string> = flags.path === null ? {} : { BUN_GRPO_CPU_PATH: flags.path };
        const [version] = await firstWord([...programWords(), "--version"]);
        const words = [...programWords(), "bench", "startup", ...flags.forTrainer, ...model];
        const [first, phase] = await firstWord(words, { ...path, [CHILD]: join(work, String(i)) });
        if (phase !== "rollout")
          throw new RunError(`startup: wrong result: the first progress is of ${JSON.stringify(phase)}`);
        if (i === 0) continue; // files and code come into the system's cache
        bare!.push(version);
        train!.push(first);
      }
      const figures: Figure[] = [
        less("grpo --version", median(bare!), "ms"),
        less("train, to the first prompts prefilled", median(train!), "ms"),
      ];
      const checked = "the first progress of every run is of its rollout";
      const name = flags.shape ?? flags.model ?? "the bundled model";
      const report = reportOf("startup", { description }, checked, figures, line, { model: name, runs });
      line(
        `  ${name}; the median of ${runs} starts, ${Math.min(...train!).toFixed(0)} to ${Math.max(...train!).toFixed(0)} ms`,
      );
      return report;
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  },
};
