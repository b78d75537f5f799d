/**
 * What a second rank gains: `grpo train` on one and on several ranks of one thread each, in turn, on the same completions:
 *
 *   bun bench/ranks.ts [--ranks 2] [--pairs 3] [-- --model M --dataset D …]
 *
 * What follows `--` are settings of `train`; per_device_train_batch_size is of the whole step. Needs as many free cores as ranks.
 * Prints the ratio of step times (the first step of each run left out) and the phases, and ends with status 1 if the runs do not
 * have the same bytes.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { median } from "./measure.ts";

const split = process.argv.indexOf("--");
const { values } = parseArgs({
  args: process.argv.slice(2, split < 0 ? undefined : split),
  options: { ranks: { type: "string" }, pairs: { type: "string" } },
});
const ranks = Number(values.ranks ?? 2);
const pairs = Number(values.pairs ?? 3);
const given = split < 0 ? [] : process.argv.slice(split + 1);

/** The value of a setting that was given, which is taken out. */
function taken(name: string, usual: number): number {
  const at = given.indexOf(`--${name}`);
  return at < 0 ? usual : Number(given.splice(at, 2)[1]);
}

const completions = taken("per_device_train_batch_size", 64);
const steps = taken("max_steps", 6);
const main = join(import.meta.dir, "../src/cli/main.ts");
const work = mkdtempSync(join(tmpdir(), "bun-grpo-ranks-"));

type Metrics = Readonly<Record<string, number>>;

async function trained(size: number): Promise<{ steps: Metrics[]; weights: string }> {
  const folder = join(work, String(size));
  const flags = {
    ...{ device: "cpu", threads: 1, ranks: size, per_device_train_batch_size: completions / size, max_steps: steps },
    ...{ save_steps: 0, eval_samples: 1, eval_steps: 1_000_000, output_dir: folder, report_to: "none" },
  };
  const argv = Object.entries(flags).flatMap(([key, value]) => [`--${key}`, String(value)]);
  const child = Bun.spawn([process.execPath, main, "train", ...argv, "--overwrite", "--quiet", ...given], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  if ((await child.exited) !== 0) throw new Error(`${size} ranks ended with ${child.exitCode}`);
  const lines = readFileSync(join(folder, "metrics.jsonl"), "utf8").trim().split("\n");
  const all = lines.map((line) => JSON.parse(line) as Metrics).filter(({ loss }) => loss !== undefined);
  const weights = Bun.hash(readFileSync(join(folder, "model.safetensors"))).toString(16);
  return { steps: all.slice(1), weights };
}

const mean = (all: readonly Metrics[], name: string) =>
  all.reduce((sum, record) => sum + (record[name] ?? 0), 0) / all.length;

try {
  const ratios: number[] = [];
  const phases = ["time/rollout", "time/reward", "time/update", "time/wait", "step_time"];
  let differs = false;
  for (let i = 0; i < pairs; i++) {
    const order = i % 2 === 0 ? [1, ranks] : [ranks, 1];
    const runs = new Map<number, Awaited<ReturnType<typeof trained>>>();
    for (const size of order) runs.set(size, await trained(size));
    const [one, several] = [runs.get(1)!, runs.get(ranks)!];
    differs ||= one.weights !== several.weights;
    ratios.push(mean(one.steps, "step_time") / mean(several.steps, "step_time"));
    for (const [size, run] of [...runs].sort(([a], [b]) => a - b)) {
      const cells = phases.map((name) => `${name.replace("time/", "")} ${mean(run.steps, name).toFixed(3)}`);
      console.log(`pair ${i + 1}, ${size} ${size === 1 ? "rank" : "ranks"}: ${cells.join("  ")} s`);
    }
  }
  const [low, high] = [Math.min(...ratios), Math.max(...ratios)];
  console.log(
    `${ranks} ranks are ${median(ratios).toFixed(2)} times as fast as one (${low.toFixed(2)} to ${high.toFixed(2)}), ${differs ? "with OTHER bytes" : "with the same bytes"}`,
  );
  process.exitCode = differs ? 1 : 0;
} finally {
  rmSync(work, { recursive: true });
}
