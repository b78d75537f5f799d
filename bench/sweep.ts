/**
 * `bun bench/sweep.ts FILE.json AXIS …`: a GRPO step's time and memory against one setting at a time, each point a process of its
 * own. Adds the measured axes to the file, which plot.ts draws. Flags after `--` go to `bench step`.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { errorText, InputError, RunError } from "../src/errors.ts";
import { programWords } from "./suites/startup.ts";

export interface Point {
  /** As the flag takes it. */
  readonly value: string;
  /** Of one step. */
  readonly seconds: number;
  readonly completionTokens: number;
  /** Most memory that the process held. */
  readonly peakMiB: number;
}

export interface Axis {
  readonly flag: string;
  readonly title: string;
  readonly points: readonly Point[];
}

export interface Sweep {
  /** What computed, and when: "2026-11-27". */
  readonly device: string;
  readonly date: string;
  /** The other settings. */
  readonly base: string;
  readonly axes: readonly Axis[];
}

/** Powers of two up to the machine's threads, and all of them. */
function threadCounts(): string[] {
  const most = availableParallelism();
  const powers = Array.from({ length: Math.ceil(Math.log2(most)) }, (_, i) => 2 ** i);
  return [...new Set([...powers, most])].map(String);
}

const axes: Readonly<
  Record<string, { readonly flag: string; readonly title: string; readonly values: readonly string[] }>
> = {
  group: { flag: "num_generations", title: "completions per prompt (G)", values: ["2", "4", "8", "16"] },
  length: { flag: "max_completion_length", title: "tokens per completion", values: ["8", "16", "32", "64"] },
  model: { flag: "shape", title: "model", values: ["data/model", "SmolLM2-135M", "Qwen2.5-0.5B"] },
  threads: { flag: "threads", title: "threads", values: threadCounts() },
};

/** One prompt, so that a point takes seconds. */
const base = { shape: "SmolLM2-135M", num_generations: "8", max_completion_length: "32", dtype: "bfloat16" };

async function pointOf(
  flag: string,
  value: string,
  more: readonly string[],
): Promise<{ point: Point; device: string }> {
  const settings: Record<string, string> = { ...base, [flag]: value };
  settings.per_device_train_batch_size = settings.num_generations!;
  const flags = Object.entries(settings).flatMap(([key, text]) => [`--${key}`, text]);
  const command = [...programWords(), "bench", "step", ...flags, "--max_steps", "1", "--json", ...more];
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe" });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  if (child.exitCode !== 0) throw new RunError(`${flags.join(" ")}: ${err.trim()}`);
  const { figures, device, completions, meanLength } = JSON.parse(out);
  const seconds = figures.find(({ name }: { name: string }) => name === "a step").value;
  const peakMiB = child.resourceUsage()!.maxRSS / 2 ** 20;
  return { point: { value, seconds, completionTokens: completions * meanLength, peakMiB }, device };
}

export async function main(argv: readonly string[]): Promise<void> {
  const end = argv.indexOf("--");
  const [file, ...names] = end < 0 ? argv : argv.slice(0, end);
  const more = end < 0 ? [] : argv.slice(end + 1);
  const unknown = names.find((name) => !Object.hasOwn(axes, name));
  if (!file?.endsWith(".json") || names.length === 0 || unknown !== undefined)
    throw new InputError(
      `usage: bun bench/sweep.ts FILE.json AXIS … [-- FLAGS]; the axes are ${Object.keys(axes).join(", ")}`,
    );
  for (const name of names) {
    const { flag, title, values } = axes[name]!;
    const points: Point[] = [];
    let device = "";
    for (const value of values) {
      const measured = await pointOf(flag, value, more);
      points.push(measured.point);
      device = measured.device;
      const { seconds, peakMiB } = measured.point;
      process.stdout.write(`${flag} ${value}: ${seconds.toFixed(2)} s, ${peakMiB.toFixed(0)} MiB\n`);
    }
    const earlier = existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as Sweep).axes : [];
    const order = Object.values(axes).map((axis) => axis.flag);
    const all = [...earlier.filter((axis) => axis.flag !== flag), { flag, title, points }];
    const sweep: Sweep = {
      device,
      date: new Date().toISOString().slice(0, 10),
      base: [
        ...Object.entries(base).map(([key, text]) => `${key} ${text}`),
        "one prompt",
        ...(more.length > 0 ? [more.join(" ")] : []),
      ].join(", "),
      axes: all.sort((a, b) => order.indexOf(a.flag) - order.indexOf(b.flag)),
    };
    writeFileSync(file, `${JSON.stringify(sweep, null, 2)}\n`);
  }
}

if (import.meta.main)
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`bench/sweep: ${errorText(error)}\n`);
    process.exit(error instanceof InputError ? 2 : 1);
  }
