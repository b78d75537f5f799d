/** `grpo bench roofline`: the tables, as text. */
import { microBatchTokens } from "../../src/device/cuda/device.ts";
import { usualShards } from "../../src/ranks/ranks.ts";
import { type NamedModel, rooflineModels } from "../models.ts";
import { type CountsTable, type OpTime, opTimes, phaseTime } from "./evaluate.ts";
import { type Exchange, exchangeOf, networks } from "./exchanges.ts";
import { type Gpu, gpus } from "./machines.ts";
import { type Phase, type StepShape, stepPhases } from "./phases.ts";
import { LEAST_SHARE, reasons } from "./reasons.ts";

const exchangeWidths = [30, 11, 10, 11, 10];

/** What `ranks` ranks send each other in a step, and the time it takes over each network. */
export function exchangeTable(models: readonly NamedModel[], ranks: number): string[] {
  const { groups, samples, completionTokens } = stepShape;
  const shards = usualShards(ranks);
  const tokens = groups * samples * completionTokens;
  const lines = [
    "A model, not a measurement: what a rank sends to the others in a step (as much arrives at the same time), by the rules of",
    "docs/ranks.md, and the least time it takes over networks of a given speed, one way, if all ranks are connected by one.",
    "",
    `A step of ${groups * samples} completions of ${completionTokens} tokens on ${ranks} ranks, ${shards} gradient shards; bfloat16 weights, float32 gradients.`,
  ];
  for (const { name, config } of models) {
    const [divided, whole] = [true, false].map((zero) =>
      exchangeOf(config, { ranks, shards, zero, completionTokens: tokens }),
    ) as [Exchange, Exchange];
    const row = (what: string, bytes: number) =>
      line([what, amount(bytes, "B"), ...networks.map(({ bandwidth }) => seconds(bytes / bandwidth))], exchangeWidths);
    lines.push(
      "",
      line([name, "bytes", ...networks.map(({ name: network }) => network)], exchangeWidths),
      row("gradients, to who sums them", divided.gradients),
      row("updated weights, to all", divided.updated),
      row("completions, to all", divided.completions),
      row("step", divided.gradients + divided.updated + divided.completions),
      row("step, optimizer not divided", whole.gradients + whole.updated + whole.completions),
      `memory of a rank: weights and gradients ${amount(divided.model, "B")}; masters and moments ${amount(divided.optimizer, "B")}, not divided ${amount(whole.optimizer, "B")}`,
    );
  }
  lines.push("", ...networks.map(({ name, bandwidth, source }) => `${name}, ${amount(bandwidth, "B/s")}: ${source}`));
  return lines;
}

/** G = 64 and 1,024 tokens as in DeepSeekMath (arXiv 2402.03300); 1,024 completions a step. */
const stepShape: Omit<StepShape, "microBatchTokens"> = {
  groups: 16,
  samples: 64,
  promptTokens: 128,
  completionTokens: 1024,
  sequences: 256,
};

const line = (cells: readonly string[], widths: readonly number[]) =>
  cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join("  ");

const seconds = (value: number): string =>
  value >= 1
    ? `${value.toFixed(2)} s`
    : value >= 1e-3
      ? `${(value * 1e3).toFixed(2)} ms`
      : `${(value * 1e6).toFixed(1)} µs`;

const amount = (value: number, unit: string): string => {
  const scale = value >= 1e12 ? ([1e12, "T"] as const) : value >= 1e9 ? ([1e9, "G"] as const) : ([1e6, "M"] as const);
  return `${(value / scale[0]).toPrecision(3)} ${scale[1]}${unit}`;
};

const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;

const phaseWidths = [10, 6, 9, 9, 11, 10, 10, 6, 10];

function phaseLines(phases: readonly Phase[], counts: CountsTable, gpu: Gpu): string[] {
  const heads = ["phase", "times", "launches", "bytes", "FLOP", "bound", "allowed", "share", "gaps"];
  let [bound, allowed, gaps] = [0, 0, 0];
  const rows = phases.map((phase) => {
    const t = phaseTime(phase, counts, gpu);
    bound += t.times * t.bound;
    allowed += t.times * t.allowed;
    gaps += t.times * t.gaps;
    return line(
      [
        t.name,
        String(t.times),
        String(t.launches),
        amount(t.bytes, "B"),
        amount(t.flops, "FLOP"),
        seconds(t.bound),
        seconds(t.allowed),
        percent(t.bound / t.allowed),
        seconds(t.gaps),
      ],
      phaseWidths,
    );
  });
  const total = ["step", "", "", "", "", seconds(bound), seconds(allowed), percent(bound / allowed), seconds(gaps)];
  return [line(heads, phaseWidths), ...rows, line(total, phaseWidths)];
}

const opWidths = [22, 10, 9, 11, 10, 10, 8, 6];

function opLines(phase: Phase, counts: CountsTable, gpu: Gpu): string[] {
  const heads = [phase.name, "calls", "bytes", "FLOP", "bound", "allowed", "by", "share"];
  const rows = opTimes(phase, counts, gpu).map((t) => {
    const cells = [t.op, String(t.calls), amount(t.bytes, "B"), amount(t.flops, "FLOP"), seconds(t.bound)];
    const share = t.bound / t.allowed;
    const limited = share < LEAST_SHARE ? `  limit: ${t.limit}` : "";
    return `${line([...cells, seconds(t.allowed), t.by, percent(share)], opWidths)}${limited}`;
  });
  return [line(heads, opWidths), ...rows];
}

/** Ops of all tables that stay below 70 % of their bound, with the lowest share of each. */
function lowShares(all: readonly { readonly gpu: Gpu; readonly times: readonly OpTime[] }[]): Map<string, number> {
  const low = new Map<string, number>();
  for (const { times } of all)
    for (const { op, bound, allowed } of times) {
      const share = bound / allowed;
      if (share < LEAST_SHARE) low.set(op, Math.min(share, low.get(op) ?? 1));
    }
  return low;
}

export interface RooflineTables {
  readonly lines: readonly string[];
  readonly low: ReadonlyMap<string, number>;
}

/** The tables of the selected models and GPUs, each by its name; an empty list selects all. */
export async function rooflineTables(
  counts: CountsTable,
  chosen: { readonly gpus?: readonly Gpu[]; readonly models?: readonly NamedModel[]; readonly ops?: boolean } = {},
): Promise<RooflineTables> {
  const { groups, samples, promptTokens, completionTokens, sequences } = stepShape;
  const lines = [
    "A model, not a measurement: least bytes and operations of each op by the data sheets' figures (bound), and what the",
    "kernels' own instructions take where that is more (allowed; counted on the emulated driver, every unit overlapped with",
    "the others). Nothing here has run on a GPU. gaps: idle time between launches if none is hidden.",
    "",
    `A step: ${groups} prompts of ${promptTokens} tokens, G = ${samples}, ${completionTokens} tokens a completion, ${sequences} sequences decoded at once; bfloat16.`,
  ];
  const times: { gpu: Gpu; times: OpTime[] }[] = [];
  for (const { name, config } of chosen.models ?? rooflineModels) {
    for (const gpu of chosen.gpus ?? gpus) {
      const shape = { ...stepShape, microBatchTokens: microBatchTokens(gpu.totalBytes) };
      const { phases, memory } = await stepPhases(config, shape, gpu);
      const bytes = memory.peakBytes;
      const fits = bytes <= gpu.totalBytes ? "" : ` (${amount(gpu.totalBytes, "B")} there: it does not fit one GPU)`;
      lines.push(
        "",
        `${name} on ${gpu.name}: ${amount(bytes, "B")} planned${fits}, ${shape.microBatchTokens} tokens a micro-batch`,
        ...phaseLines(phases, counts, gpu),
      );
      for (const phase of phases) {
        times.push({ gpu, times: opTimes(phase, counts, gpu) });
        if (chosen.ops) lines.push("", ...opLines(phase, counts, gpu));
      }
    }
  }
  const low = lowShares(times);
  if (low.size > 0) lines.push("", "Below 70 % of their bound, and why:");
  for (const [op, share] of low)
    lines.push(
      `  ${op} (${percent(share)} at worst): ${reasons[op as keyof typeof reasons] ?? "no reason is written"}`,
    );
  lines.push("", ...gpus.map(({ name, source }) => `${name}: ${source}`));
  return { lines, low };
}
