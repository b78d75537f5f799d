/**
 * A command's place among the ranks of a run: meets the others, divides the work, and ends together with them. Rank 0
 * speaks and writes for all.
 */

import { availableParallelism, hostname } from "node:os";
import packageJson from "../../package.json" with { type: "json" };
import type { OutputFolder } from "../checkpoint/output-folder.ts";
import { type ConfigRecord, freeOnResume, toJson } from "../config/record.ts";
import { InputError } from "../errors.ts";
import type { RunConsole } from "../metrics/console.ts";
import { sumsOfSquares } from "../optim/adamw.ts";
import { canBeDivided } from "../optim/form.ts";
import { commit } from "../program.ts";
import { meetByMpi } from "../ranks/carrier.ts";
import { type Placement, placementOf } from "../ranks/environment.ts";
import type { RanksFailure } from "../ranks/failure.ts";
import { join } from "../ranks/join.ts";
import { createMesh } from "../ranks/mesh.ts";
import { alone, type Division, type MetRanks, onPaper, type Ranks, type Team, usualShards } from "../ranks/ranks.ts";
import { availableBytes, type MemoryEstimate, onHostBytes, type PlanDevice } from "../session/memory.ts";
import type { TrainedModel } from "../session/policy.ts";
import { mebibytes } from "../tensor/mebibytes.ts";
import type { Control } from "./control.ts";

/** The settings that say how a command is divided. */
export interface RankConfig {
  readonly ranks: number | null;
  readonly gradientShards?: number | null;
  readonly shardOptimizer?: boolean;
  readonly offloadOptimizer?: boolean;
  readonly threads: number | null;
}

/** How long ranks wait for each other to come, on one machine and on several, unless the variable says otherwise. */
const MEET_MS = 30_000;
const MEET_ELSEWHERE_MS = 120_000;
const waitVariable = "BUN_GRPO_RANKS_WAIT";

function shardsOf({ gradientShards = null, ranks: asked }: RankConfig, size: number): number | null {
  if (gradientShards !== null && gradientShards < size)
    throw new InputError(`gradient_shards ${gradientShards}: ${size} ranks need at least as many`);
  if (gradientShards !== null) return size === 1 && gradientShards === 1 ? null : gradientShards;
  if (size === 1 && asked === null) return null;
  return usualShards(size);
}

/** @throws InputError where setting and launcher contradict each other */
function placementFor({ ranks }: RankConfig): Placement | null {
  const placement = placementOf();
  if (ranks === null || placement?.size === ranks) return placement;
  if (placement)
    throw new InputError(`ranks ${ranks}: ${placement.launcher} has started ${placement.size}; leave the setting out`);
  if (ranks === 1) return null;
  throw new InputError(
    `ranks ${ranks}: only the commands of grpo start ranks by themselves; start this program with torchrun, mpirun or srun`,
  );
}

async function meet(placement: Placement, stopRequested: () => boolean): Promise<MetRanks> {
  const { rank, size, launcher, parent } = placement;
  const meeting = placement.rendezvous === null ? meetByMpi(placement) : null;
  const { rendezvous, secret } = meeting ?? placement;
  if (rendezvous === null)
    throw new InputError(
      `${launcher} has started ${size} ranks, which do not know where to meet: set MASTER_ADDR to rank 0's machine and MASTER_PORT to a free port there`,
    );
  const isHere = /^(127\.|localhost$|::1$)/.test(rendezvous.host);
  const seconds = Number(process.env[waitVariable]);
  const made = commit();
  const joined = await join({
    placement: { ...placement, rendezvous, secret },
    version: `bun-grpo ${packageJson.version}${made === null ? "" : ` (${made})`} on Bun ${Bun.version}`,
    waitMs: seconds > 0 ? seconds * 1000 : isHere ? MEET_MS : MEET_ELSEWHERE_MS,
    shouldStop: stopRequested,
  });
  const watch = { rank, stopRequested, isOrphan: () => parent !== null && process.ppid !== parent, end: endProcess };
  return createMesh(joined, watch, meeting?.carrier ?? null);
}

/** A rank that cannot end its work in time, as it waits or computes, ends with its process. */
function endProcess(failure: RanksFailure): void {
  if (!failure.isTold) process.stderr.write(`grpo: ${failure.message}\n`);
  process.exit(failure.exitCode);
}

/** What a rank knows of its place. */
export interface Placed extends Team {
  /** Ranks on this machine, as far as the launcher says. */
  readonly localSize: number;
}

function divisionOf(config: RankConfig, ranks: Ranks): Division | null {
  const shards = shardsOf(config, ranks.size);
  return shards === null
    ? null
    : { ranks, shards, zero: ranks.size > 1 && config.shardOptimizer === true && canBeDivided(config) };
}

/** Each of the ranks that the setting asks for, on this machine and on paper. */
export function plannedTeams(config: RankConfig, isPerDevice: boolean): Placed[] {
  const size = config.ranks ?? 1;
  return Array.from({ length: size }, (_, rank) => {
    const ranks = size === 1 ? alone() : onPaper(rank, size);
    const division = divisionOf(config, ranks);
    return { ranks, division, devices: isPerDevice ? size : 1, localRank: rank, localSize: size };
  });
}

/**
 * Runs `work` as one of the ranks that the environment names, or alone.
 *
 * @param isPerDevice the batch size was given, and so is each rank's
 * @throws what `work` throws; RanksFailure where another rank has failed
 */
export async function withRanks<C extends Control, R>(
  config: RankConfig,
  control: C,
  isPerDevice: boolean,
  work: (team: Placed, control: C) => Promise<R>,
): Promise<R> {
  const placement = placementFor(config);
  if (placement === null) {
    const isRank = shardsOf(config, 1) !== null;
    const ranks = alone(control.stopRequested, isRank);
    return work({ ranks, division: divisionOf(config, ranks), devices: 1, localRank: 0, localSize: 1 }, control);
  }
  const met = await meet(placement, control.stopRequested);
  try {
    const console = met.rank === 0 ? control.console : silent;
    const team = {
      ...{ ranks: met, division: divisionOf(config, met), devices: isPerDevice ? met.size : 1 },
      localRank: placement.localRank ?? 0,
      localSize: placement.localSize ?? 1,
    };
    const result = await work(team, { ...control, console, stopRequested: met.stopAgreed });
    await met.part();
    return result;
  } catch (error) {
    throw await met.fail(error);
  } finally {
    met.close();
  }
}

/** The console of a rank that does not speak. */
const silent: RunConsole = {
  progress() {},
  step() {},
  completions() {},
  evaluation() {},
  note() {},
  close() {},
};

/** The settings of a rank: its share of the processor, and nothing written but by rank 0. */
export function onRank<C extends RankConfig>(config: C, { ranks, localSize }: Placed): C {
  if (ranks.size === 1) return config;
  const threads = config.threads ?? Math.max(1, Math.floor(availableParallelism() / localSize));
  return { ...config, threads, ...(ranks.rank > 0 && { reportTo: [], pushToHub: false, dashboard: false }) };
}

/** Processes of the reward pool for this rank, where the machine's are shared; undefined: the pool decides. */
export const poolSize = ({ ranks, localSize }: Placed): number | undefined =>
  ranks.size === 1 ? undefined : Math.max(1, Math.ceil(Math.min(4, availableParallelism()) / localSize));

/** The output folder of a rank that writes nothing. */
export const noOutput: OutputFolder = { permit() {}, begin() {}, release() {} };

type Facts = Readonly<Record<string, unknown>>;

/**
 * Ends the run where the ranks do not compute the same.
 *
 * @param facts finds what must be the same, by what it is called in the message; not called for a rank alone
 * @throws InputError
 */
export async function requireSame(ranks: Ranks, facts: () => Facts | Promise<Facts>): Promise<void> {
  if (ranks.size === 1) return;
  const own = Object.fromEntries(Object.entries(await facts()).map(([name, value]) => [name, JSON.stringify(value)]));
  const all = await ranks.gather("what the ranks compute", own);
  for (const [r, theirs] of all.entries())
    for (const [name, value] of Object.entries(all[0]!))
      if (theirs[name] !== value)
        throw new InputError(`rank ${r} has another ${name} than rank 0 (${theirs[name]}, not ${value})`);
}

/**
 * Ends the run, before any rank allocates, where ranks of one machine need more of its memory than is free.
 *
 * @throws InputError
 */
export async function requireRoom(ranks: Ranks, estimate: MemoryEstimate, device: PlanDevice): Promise<void> {
  const isOnHost = device.freeBytes() === null;
  if (ranks.size === 1) return;
  const own = {
    host: hostname(),
    needs: isOnHost ? estimate.peakBytes : onHostBytes(estimate),
    free: availableBytes(),
  };
  const all = await ranks.gather("the memory that ranks need", own);
  for (const { host } of all) {
    const here = all.filter((other) => other.host === host);
    const needs = here.reduce((sum, other) => sum + other.needs, 0);
    const free = Math.min(...here.map((other) => other.free));
    if (needs > free)
      throw new InputError(
        `the plans of ${here.length} ranks on ${host} need ${mebibytes(needs)} MiB and ${mebibytes(free)} MiB are free; start fewer ranks there, or lower micro_batch_tokens, max_concurrent_sequences or max_completion_length (grpo plan --ranks ${here.length} shows what each needs)`,
      );
  }
}

/** The settings that must be the same on all ranks. */
export function comparable(settings: object): ConfigRecord {
  const own = new Set(["device", "report_to", ...freeOnResume]);
  return Object.fromEntries(Object.entries(toJson(settings)).filter(([name]) => !own.has(name)));
}

/** The sums of squares of all weights that are trained, by parameter: other weights have others. */
export async function weightsOf({ policy: { model, optimizer } }: { readonly policy: TrainedModel }): Promise<Facts> {
  return { model: [...(await sumsOfSquares(model.device, optimizer))] };
}
