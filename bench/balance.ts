/**
 * How long ranks wait for each other when completions are of unequal length, simulated:
 *
 *   bun bench/balance.ts LENGTHS [--slots 64] [--samples 16] [--prompts 8] [--seed 1]
 *
 * LENGTHS has the tokens of a completion a line, or is the output folder of a run, whose completions are then counted. Every
 * rank has `prompts` prompts with `samples` completions each, of lengths drawn from these; within a group once all by themselves,
 * once all of one length, between which real groups are. A rollout takes as many decode steps as its longest rank, which samples
 * `slots` sequences at once and begins another where one ends; an update the tokens of its largest rank. Printed: the share of
 * its time that a rank waits, on average, as the trainer divides a step (neighbouring prompts are sampled; groups are dealt out by
 * their tokens for an update), and with two other ways of dividing it: a queue of prompts that all ranks take from, neighbouring
 * groups for an update.
 */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { shareOf, usualShards } from "../src/ranks/ranks.ts";
import { cutShards } from "../src/session/gradient-shards.ts";

export interface BalanceShape {
  readonly ranks: number;
  /** Prompts of each rank. */
  readonly prompts: number;
  readonly samples: number;
  /** Sequences that a rank samples at once. */
  readonly slots: number;
}

/** Shares of its time that a rank waits. */
export interface Waits {
  readonly rollout: number;
  readonly rolloutQueue: number;
  readonly update: number;
  readonly updateNeighbours: number;
}

type Random = () => number;

/** Park and Miller's generator (1988). */
export function uniform(seed: number): Random {
  let state = (seed * 2654435761) % 2147483647 || 1;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
}

/** The place of the least value. */
const least = (values: readonly number[]): number => values.reduce((at, value, i) => (value < values[at]! ? i : at), 0);

/** Steps until each slot is free; sequences begin in order, each where one ends first. */
function decodeSteps(lengths: readonly number[], slots: number): number {
  const free = new Array<number>(Math.min(slots, lengths.length)).fill(0);
  for (const length of lengths) free[least(free)]! += length;
  return Math.max(...free);
}

/** The average share of the longest time that is not a rank's own. */
export function waited(times: readonly number[]): number {
  const mean = times.reduce((sum, time) => sum + time, 0) / times.length;
  return 1 - mean / Math.max(...times);
}

/** One step. @param groups lengths of each prompt's completions */
export function waitsOf(groups: readonly (readonly number[])[], { ranks, slots }: BalanceShape): Waits {
  const blocks = <T>(all: readonly T[]) =>
    Array.from({ length: ranks }, (_, r) => {
      const { from, to } = shareOf(all.length, r, ranks);
      return all.slice(from, to);
    });
  const total = (lengths: readonly number[]) => lengths.reduce((sum, length) => sum + length, 0);
  // The queue: a rank takes the next prompt as soon as it has slots for it.
  const queued = Array.from({ length: ranks }, () => new Array<number>(slots).fill(0));
  const readyAt = queued.map(() => 0);
  for (const group of groups) {
    const rank = least(readyAt);
    for (const length of group) queued[rank]![least(queued[rank]!)]! += length;
    const sorted = [...queued[rank]!].sort((a, b) => a - b);
    readyAt[rank] = sorted[Math.min(group.length, slots) - 1]!;
  }
  // Prompts are left out: they are of about one length.
  const promptIds = new Int32Array(0);
  const packed = groups.map((lengths) => ({
    promptIds,
    completions: lengths.map((length) => ({ completionIds: new Int32Array(length) })),
  }));
  const all = groups.flat();
  const shards = cutShards(packed, usualShards(ranks)).map(({ completions }) => total(completions.map((i) => all[i]!)));
  return {
    rollout: waited(blocks(groups).map((own) => decodeSteps(own.flat(), slots))),
    rolloutQueue: waited(queued.map((ends) => Math.max(...ends))),
    update: waited(blocks(shards).map(total)),
    updateNeighbours: waited(blocks(all).map(total)),
  };
}

/** The mean over `steps` steps of completions whose lengths are drawn from `lengths`. */
export function simulate(
  lengths: readonly number[],
  shape: BalanceShape,
  within: "independent" | "equal",
  random: Random,
  steps = 20,
): Waits {
  const draw = () => lengths[Math.floor(random() * lengths.length)]!;
  const all = Array.from({ length: steps }, () => {
    const groups = Array.from({ length: shape.ranks * shape.prompts }, () => {
      const one = draw();
      return Array.from({ length: shape.samples }, () => (within === "equal" ? one : draw()));
    });
    return waitsOf(groups, shape);
  });
  const mean = (of: (waits: Waits) => number) => all.reduce((sum, waits) => sum + of(waits), 0) / steps;
  return {
    rollout: mean((waits) => waits.rollout),
    rolloutQueue: mean((waits) => waits.rolloutQueue),
    update: mean((waits) => waits.update),
    updateNeighbours: mean((waits) => waits.updateNeighbours),
  };
}

/** Lengths of a file of numbers, or of a run's recorded completions. */
function lengthsOf(path: string): number[] {
  if (!statSync(path).isDirectory()) return readFileSync(path, "utf8").split("\n").filter(Boolean).map(Number);
  const folder = join(path, "completions");
  return readdirSync(folder)
    .filter((name) => name.endsWith(".jsonl"))
    .flatMap((name) => readFileSync(join(folder, name), "utf8").split("\n").filter(Boolean))
    .map((text) => (JSON.parse(text) as { completion_ids: number[] }).completion_ids.length);
}

if (import.meta.main) {
  const number = { type: "string" } as const;
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { slots: number, samples: number, prompts: number, seed: number },
  });
  const lengths = lengthsOf(positionals[0] ?? "");
  const of = (name: "slots" | "samples" | "prompts" | "seed", usual: number) => Number(values[name] ?? usual);
  const sorted = [...lengths].sort((a, b) => a - b);
  const mean = lengths.reduce((sum, length) => sum + length, 0) / lengths.length;
  console.log(
    `${lengths.length} completions, ${mean.toFixed(0)} tokens on average, median ${sorted[sorted.length >> 1]}, longest ${sorted.at(-1)}`,
  );
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`.padStart(9);
  console.log("ranks  within a group  rollout  by queue     update neighbours");
  for (const ranks of [8, 64, 512])
    for (const within of ["independent", "equal"] as const) {
      const shape = { ranks, prompts: of("prompts", 8), samples: of("samples", 16), slots: of("slots", 64) };
      const waits = simulate(lengths, shape, within, uniform(of("seed", 1)));
      const cells = [waits.rollout, waits.rolloutQueue, waits.update, waits.updateNeighbours].map(percent);
      console.log(`${String(ranks).padStart(5)}  ${within.padEnd(14)} ${cells.join(" ")}`);
    }
}
