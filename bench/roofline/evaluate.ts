/**
 * From counts to times: the bound of an op on a GPU, and what its kernels' own instructions allow. This is a model, not a
 * measurement: all units overlap fully, and caches hold whatever fits.
 */
import type { Ops } from "../../src/device/device.ts";
import type { Work } from "./counting-device.ts";
import type { Gpu } from "./machines.ts";
import { launchGap } from "./machines.ts";
import type { Phase } from "./phases.ts";

/**
 * What an op's kernels executed under the emulated driver, per thread unless noted otherwise, for each unit of its cost
 * (ops/cost.ts): a byte, or a floating-point operation for attention.
 */
export interface KernelCounts {
  readonly unit: "byte" | "flop";
  /** Source of the instruction, integer, floating and special counts: executed PTX, or the loops of the machine code. */
  readonly from: "ptx" | "machine code";
  readonly instructions: number;
  readonly integer: number;
  readonly floating: number;
  readonly special: number;
  /** Floating-point operations of `mma` instructions. */
  readonly mmaFlops: number;
  /** Those of `wgmma`. */
  readonly wgmmaFlops: number;
  /** Bytes of the 32-byte sectors that warps requested. */
  readonly sectorBytes: number;
  /** Passes of warps over shared memory. */
  readonly sharedPasses: number;
}

/** Kernels that take an op over on some GPUs, with all that the op launches there: counted by themselves, under their own name. */
export const otherKernels = {
  attention_forward_warpgroup: "attentionForward",
  attention_backward_keys_warpgroup: "attentionBackward",
} as const satisfies Record<string, keyof Ops>;

export type Counted = keyof Ops | keyof typeof otherKernels;
export type CountsTable = Readonly<Partial<Record<Counted, KernelCounts>>>;

export interface OpTime {
  readonly op: keyof Ops;
  readonly calls: number;
  readonly bytes: number;
  readonly flops: number;
  /** Seconds for the minimum bytes and operations, and which of the two decides. */
  readonly bound: number;
  readonly by: "memory" | "compute";
  /** Minimum seconds for the kernels' own instructions; for products alone, the bound itself. */
  readonly allowed: number;
  /** The unit that determines those seconds. */
  readonly limit: string;
}

function peak(unit: Work["unit"], gpu: Gpu): number {
  // mma.sync is a choice, not the machine's limit: the bound is the tensor cores' maximum.
  return unit === "float32" ? gpu.float32 : gpu.tensor;
}

function boundOf(work: Work, gpu: Gpu): { seconds: number; by: "memory" | "compute" } {
  const [memory, compute] = [work.bytes / gpu.bandwidth, work.flops / peak(work.unit, gpu)];
  return memory >= compute ? { seconds: memory, by: "memory" } : { seconds: compute, by: "compute" };
}

/** Integer lanes per multiprocessor: half the issue rate on all three machines. */
const INTEGER_LANES = 64;
/** Bytes per cycle between a multiprocessor and the second-level cache. */
const L2_BYTES = 64;

/** Seconds on each unit of the machine for `amount` of the op's cost. */
function unitTimes(counts: KernelCounts, amount: number, gpu: Gpu): readonly (readonly [string, number])[] {
  const cycles = gpu.limits.multiprocessors * gpu.clock;
  const floatLanes = gpu.float32 / 2 / cycles;
  return [
    ["issue", (counts.instructions * amount) / 32 / (gpu.issue * cycles)],
    ["integer", (counts.integer * amount) / (INTEGER_LANES * cycles)],
    ["float32", (counts.floating * amount) / (floatLanes * cycles)],
    ["special functions", (counts.special * amount) / (gpu.special * cycles)],
    ["mma.sync", (counts.mmaFlops * amount) / gpu.mma],
    ["wgmma", (counts.wgmmaFlops * amount) / gpu.tensor],
    ["second-level cache", (counts.sectorBytes * amount) / (L2_BYTES * cycles)],
    ["shared memory", (counts.sharedPasses * amount) / cycles],
  ];
}

/** The counts of the kernels that the op launches on this GPU. */
function countsOf({ op, launches }: Work, counts: CountsTable): KernelCounts | undefined {
  const other = launches.find((name): name is keyof typeof otherKernels => Object.hasOwn(otherKernels, name));
  return counts[other ?? op];
}

/** What the op's kernels are counted for: bytes, or operations of attention. */
function amountOf(work: Work, { unit }: KernelCounts): number {
  return unit === "byte" ? (work.own ?? work.bytes) : work.flops;
}

/** Bytes of the sectors that the op's own kernels request; products request theirs inside cuBLAS. */
export function requestedBytes(work: Work, counts: CountsTable): number {
  const own = countsOf(work, counts);
  return own ? own.sectorBytes * amountOf(work, own) : 0;
}

function timeOf(work: Work, counts: CountsTable, gpu: Gpu): { bound: number; by: "memory" | "compute" } & Limit {
  const { seconds: bound, by } = boundOf(work, gpu);
  const own = countsOf(work, counts);
  if (!own) return { bound, by, allowed: bound, limit: by };
  const times = unitTimes(own, amountOf(work, own), gpu);
  const [limit, most] = times.reduce((worst, one) => (one[1] > worst[1] ? one : worst));
  if (work.own !== undefined) {
    // A product with kernels before or after it: they run in sequence, each at its own bound.
    const rest = boundOf({ ...work, bytes: work.bytes - work.own }, gpu).seconds;
    const kernels = Math.max(most, work.own / gpu.bandwidth);
    return { bound, by, allowed: rest + kernels, limit: `the product, then ${limit}` };
  }
  return most > bound ? { bound, by, allowed: most, limit } : { bound, by, allowed: bound, limit: by };
}

interface Limit {
  readonly allowed: number;
  readonly limit: string;
}

/** The ops of a phase, longest first. */
export function opTimes(phase: Phase, counts: CountsTable, gpu: Gpu): OpTime[] {
  const found = new Map<keyof Ops, OpTime & { longest: number }>();
  for (const work of phase.work) {
    const time = timeOf(work, counts, gpu);
    const before = found.get(work.op);
    // The named bound and limit are those of the longest single call.
    const named = !before || time.allowed > before.longest ? time : before;
    found.set(work.op, {
      op: work.op,
      calls: (before?.calls ?? 0) + 1,
      bytes: (before?.bytes ?? 0) + work.bytes,
      flops: (before?.flops ?? 0) + work.flops,
      bound: (before?.bound ?? 0) + time.bound,
      allowed: (before?.allowed ?? 0) + time.allowed,
      by: named.by,
      limit: named.limit,
      longest: Math.max(time.allowed, before?.longest ?? 0),
    });
  }
  return [...found.values()].sort((a, b) => b.allowed - a.allowed);
}

export interface PhaseTime {
  readonly name: string;
  readonly times: number;
  readonly launches: number;
  readonly bytes: number;
  readonly flops: number;
  /** Seconds for one occurrence. */
  readonly bound: number;
  readonly allowed: number;
  /** Maximum seconds the device idles between launches: nothing overlaps. */
  readonly gaps: number;
}

export function phaseTime(phase: Phase, counts: CountsTable, gpu: Gpu): PhaseTime {
  const ops = opTimes(phase, counts, gpu);
  const sum = (value: (time: OpTime) => number) => ops.reduce((total, time) => total + value(time), 0);
  const launches = phase.work.reduce((total, work) => total + work.launches.length, 0);
  return {
    name: phase.name,
    times: phase.times,
    launches,
    bytes: sum((t) => t.bytes),
    flops: sum((t) => t.flops),
    bound: sum((t) => t.bound),
    allowed: sum((t) => t.allowed),
    gaps: launches * (phase.graph ? launchGap.graph : launchGap.stream),
  };
}
