/**
 * The memory plan as shown to users, and its check against the machine's memory. What cannot be planned exactly (the
 * program itself, kernel scratch) is estimated and shown as an estimate.
 */

import { existsSync, readFileSync } from "node:fs";
import { freemem } from "node:os";
import type { Device } from "../device/device.ts";
import { InputError, RunError } from "../errors.ts";
import { KEPT_ACTIVATIONS } from "../model/activations.ts";
import { mebibytes } from "../tensor/mebibytes.ts";
import { liveBytes, type MemoryPlan, type Phase, type PlannedBuffer, phases, stages } from "../tensor/plan.ts";

export interface MemoryEstimate {
  readonly plan: MemoryPlan;
  /** Upper bound of the kernels' scratch. */
  readonly scratchBytes: number;
  /** Anonymous memory of the program itself: JavaScript heap, tokenizer, code. 0 if the plan is on a GPU. */
  readonly programBytes: number;
  /** What of it is for completions: the rest is the same on all ranks. */
  readonly completionBytes: number;
  /** Kept free on a GPU for what driver and libraries load during a run. 0 on the host. */
  readonly reserveBytes: number;
  /** Peak memory of the process, or of the GPU if the plan is on one. */
  readonly peakBytes: number;
  /** What is in the host's memory beside a GPU, pinned; left out: nothing. */
  readonly onHost?: MemoryPlan;
}

/** Where the system does not say what a process holds: about what this one does when it plans, with a small tokenizer. */
const UNREPORTED = 48 * 2 ** 20;

/**
 * By how much the program grows after its plan, in a run of a few completions a step. Parts of it, as they were measured on the
 * bundled run (a heap of 10 MiB when it is planned): 5 MiB of machine code and about 10 of bytecode and tables about it; 15 to 20
 * of garbage, since JavaScriptCore collects the whole heap only once it is twice as large as what was live last (or 32 MiB); pages
 * that the allocator keeps. A run of two steps uses a tenth of it. Measured with and without the compiler's last stage, alone
 * and as one of several ranks, whichever way these exchange bytes: what they receive is freed at once.
 */
const HEAP_GROWTH = 48 * 2 ** 20;

/**
 * What a completion and each of its tokens add to that: numbers, text and reward of a generation as JavaScript values, and once
 * more as garbage. Measured on the bundled model with 256 to 1,024 completions of 14, 17, 42 and
 * 239 tokens, within 15 MiB.
 */
const COMPLETION_BYTES = 26 * 2 ** 10;
const TOKEN_BYTES = 2 ** 9;
/** What of it is for its line of `completions/`. */
const RECORD_BYTES = 22 * 2 ** 10;

/** The completions that are held at once. */
export interface HeldCompletions {
  readonly completions: number;
  /** Tokens of the longest. How long they will be is not known: half as long on average is assumed. */
  readonly longest: number;
  /** This process writes them to `completions/`. */
  readonly recorded: boolean;
}

const heldBytes = ({ completions, longest, recorded }: HeldCompletions): number =>
  Math.ceil(completions * (COMPLETION_BYTES + (recorded ? RECORD_BYTES : 0) + (longest / 2) * TOKEN_BYTES));

/**
 * GPU memory used during a run beyond the plan. None of it can be queried in advance: kernels that cuBLAS loads when a
 * shape first needs them (dozens, a few MiB each), our own modules, one recorded graph per decode bucket (hundreds of
 * nodes each), and, as soon as one kernel (or cuBLAS's) spills, a stack for every thread that the GPU can hold: 270,000
 * threads on an H100, so 26 MiB at 100 bytes and 256 MiB at 1 KiB. Without the reserve a run could fail midway, inside
 * a library call.
 */
const DEVICE_RESERVE = 384 * 2 ** 20;

/** The process's anonymous memory in bytes; 0 if the system does not report it. */
export function anonymousBytes(): number {
  const status = "/proc/self/status";
  if (!existsSync(status)) return 0;
  return Number(/RssAnon:\s+(\d+) kB/.exec(readFileSync(status, "utf8"))?.[1] ?? 0) * 1024;
}

/**
 * @param onDevice the plan is in the device's own memory, separate from the program's
 * @param onHost what is in the host's beside it
 * @param held completions that the program holds; left out: none
 */
export function estimateMemory(
  plan: MemoryPlan,
  scratchBytes: number,
  onDevice = false,
  onHost: MemoryPlan | null = null,
  held: HeldCompletions | null = null,
): MemoryEstimate {
  const completionBytes = onDevice || held === null ? 0 : heldBytes(held);
  const programBytes = onDevice ? 0 : (anonymousBytes() || UNREPORTED) + HEAP_GROWTH + completionBytes;
  const reserveBytes = onDevice ? DEVICE_RESERVE : 0;
  const peakBytes = plan.totalBytes + scratchBytes + programBytes + reserveBytes;
  const estimate = { plan, scratchBytes, programBytes, completionBytes, reserveBytes, peakBytes };
  return onHost && onHost.totalBytes > 0 ? { ...estimate, onHost } : estimate;
}

/** Bytes that are pinned in the host's memory beside a GPU. */
export const onHostBytes = ({ onHost }: Pick<MemoryEstimate, "onHost">): number => onHost?.totalBytes ?? 0;

export type PlanDevice = Pick<Device, "freeBytes" | "description">;

/** Bytes available for a plan: free memory of the device, or of the host if they share memory. */
export function planBytes(device: PlanDevice): number {
  return device.freeBytes() ?? availableBytes();
}

/** Bytes this process may still allocate: free memory or the rest of its control group's limit, whichever is less. */
export function availableBytes(): number {
  const meminfo = existsSync("/proc/meminfo") ? readFileSync("/proc/meminfo", "utf8") : "";
  const kilobytes = Number(/MemAvailable:\s+(\d+) kB/.exec(meminfo)?.[1] ?? 0);
  const free = kilobytes > 0 ? kilobytes * 1024 : freemem();
  const [limit, used] = ["max", "current"].map((name) => {
    const path = `/sys/fs/cgroup/memory.${name}`;
    return existsSync(path) ? Number(readFileSync(path, "utf8")) : Number.NaN;
  });
  return Number.isFinite(limit) && Number.isFinite(used) ? Math.min(free, limit! - used!) : free;
}

/**
 * @throws InputError if the plan does not fit the machine, RunError if it does not fit the GPU's memory (another
 * program may hold part of it); both name the largest parts and the settings that reduce them.
 */
export function requireMemory(estimate: MemoryEstimate, device: PlanDevice): void {
  const { peakBytes, reserveBytes, plan } = estimate;
  const available = planBytes(device);
  const [pinned, onHost] = [onHostBytes(estimate), availableBytes()];
  if (pinned > onHost)
    throw new InputError(
      `offload_optimizer: masters and moments take ${mebibytes(pinned)} MiB of the host's memory, and ${mebibytes(onHost)} MiB are free; set optim adamw_8bit or use_peft, or leave offload_optimizer out`,
    );
  if (peakBytes <= available) return;
  const onDevice = device.freeBytes() !== null;
  const largest = [...groups(plan)].sort((a, b) => b.bytes - a.bytes).slice(0, 3);
  const Failure = onDevice ? RunError : InputError;
  const advice = peakBytes - keptAtPeak(plan) <= available ? "set gradient_checkpointing to true, " : "";
  const kept = reserveBytes > 0 ? `, ${mebibytes(reserveBytes)} of them reserved for the driver and libraries,` : "";
  throw new Failure(
    `the plan needs ${mebibytes(peakBytes)} MiB${kept} and ${mebibytes(available)} MiB are free${onDevice ? ` on ${device.description}` : ""} (largest: ${largest
      .map((group) => `${group.name} ${mebibytes(group.bytes)}`)
      .join(
        ", ",
      )}); ${advice}lower micro_batch_tokens, max_concurrent_sequences or max_completion_length, or use a smaller model`,
  );
}

/** By how much the plan would shrink without kept activations; phases share memory, so perhaps by nothing. */
function keptAtPeak(plan: MemoryPlan): number {
  const kept = plan.buffers.filter(({ group }) => group.endsWith(KEPT_ACTIVATIONS));
  const without = phases.map((phase) => (plan.phaseBytes.get(phase) ?? 0) - liveBytes(kept, phase));
  return plan.totalBytes - Math.max(0, ...without);
}

/** The memory of one model of a run. */
export interface ModelMemory {
  /** "policy", "reference", "reward model", "critic" */
  readonly model: string;
  /** Always held: weights, masters, moments, rotary tables. */
  readonly heldBytes: number;
  /** Additional buffers of its largest phase; models that are active at different times share this memory. */
  readonly phaseBytes: number;
}

/** The plan by model, in the order in which they were planned. */
export function memoryByModel(plan: MemoryPlan): ModelMemory[] {
  const owners = [...new Set(plan.buffers.map(({ owner }) => owner))];
  return owners.map((model) => {
    const own = plan.buffers.filter(({ owner }) => owner === model);
    const held = own.filter(({ lifetime }) => lifetime === "always");
    const heldBytes = held.reduce((sum, { bytes }) => sum + bytes, 0);
    return { model, heldBytes, phaseBytes: Math.max(...phases.map((phase) => liveBytes(own, phase))) - heldBytes };
  });
}

interface Group {
  readonly name: string;
  readonly lifetime: string;
  bytes: number;
  buffers: number;
}

function groups(plan: MemoryPlan): Group[] {
  const found = new Map<string, Group>();
  for (const buffer of plan.buffers) {
    const { group, bytes } = buffer;
    const when = timeOf(buffer);
    const key = `${group}\0${when}`;
    const entry = found.get(key) ?? { name: group, lifetime: when, bytes: 0, buffers: 0 };
    entry.bytes += bytes;
    entry.buffers++;
    found.set(key, entry);
  }
  return [...found.values()];
}

/** When a buffer is live, in words. Those of both of a layer's stages are live in layers. */
function timeOf({ lifetime, stages: within }: PlannedBuffer): string {
  if (lifetime === "always") return "always";
  const all = within.length === stages.length;
  const stage = within.length === 1 ? within[0] : "layers";
  return [...lifetime, ...(all ? [] : [stage])].join(", ");
}

/** The phases that have buffers of their own. */
const usedPhases = (plan: MemoryPlan): Phase[] =>
  phases.filter((phase) => plan.buffers.some((b) => b.lifetime !== "always" && b.lifetime.includes(phase)));

/**
 * The plan as `run.json` keeps it: groups of buffers by model and by the times at which they are live, in bytes. A time is a
 * phase, or a stage of one whose buffers differ from stage to stage.
 */
export function memoryRecord({ plan, scratchBytes, programBytes, reserveBytes, peakBytes, onHost }: MemoryEstimate) {
  const timesOf = (phase: Phase) => {
    const own = plan.buffers.filter(({ lifetime }) => lifetime !== "always" && lifetime.includes(phase));
    const isOne = own.every(({ stages: within }) => within.length === stages.length);
    return isOne ? [{ name: phase, stage: null }] : stages.map((stage) => ({ name: `${phase}: ${stage}`, stage }));
  };
  const times = usedPhases(plan).flatMap((phase) => timesOf(phase).map((time) => ({ ...time, phase })));
  const lifetimeOf = ({ lifetime, stages: within }: PlannedBuffer) =>
    lifetime === "always"
      ? lifetime
      : times
          .filter(({ phase, stage }) => lifetime.includes(phase) && (stage === null || within.includes(stage)))
          .map(({ name }) => name);
  const parts = new Map<
    string,
    { owner: string; group: string; held: string; lifetime: "always" | string[]; bytes: number }
  >();
  for (const buffer of plan.buffers) {
    const { owner, group, bytes } = buffer;
    const held = timeOf(buffer);
    const key = [owner, group, held].join("\0");
    const part = parts.get(key) ?? { owner, group, held, lifetime: lifetimeOf(buffer), bytes: 0 };
    part.bytes += bytes;
    parts.set(key, part);
  }
  return {
    parts: [...parts.values()],
    times: times.map(({ name }) => name),
    plannedBytes: plan.totalBytes,
    ...{ scratchBytes, programBytes, reserveBytes, peakBytes },
    ...(onHost && { onHostBytes: onHost.totalBytes }),
  };
}

/** The plan as lines: groups of buffers with their lifetimes, each phase's total, and the peak. */
export function describeMemory(estimate: MemoryEstimate): string[] {
  const { plan, scratchBytes, programBytes, reserveBytes, peakBytes, onHost } = estimate;
  const lines = [...groups(plan)].map(row);
  const heads = [`${"memory".padEnd(34)} ${"held".padEnd(17)} ${"buffers".padStart(8)} ${"MiB".padStart(9)}`];
  const phaseBytes = (phase: Phase) => liveBytes(plan.buffers, phase);
  const used = usedPhases(plan);
  return [
    ...heads,
    ...lines,
    unplanned("kernel scratch (at most)", scratchBytes),
    ...(programBytes > 0 ? [unplanned("program (estimate)", programBytes)] : []),
    ...(reserveBytes > 0 ? [unplanned("driver and libraries (estimate)", reserveBytes)] : []),
    ...used.map(
      (phase) => `${`planned buffers during ${phase}`.padEnd(61)} ${mebibytes(phaseBytes(phase)).padStart(9)}`,
    ),
    `${"peak".padEnd(61)} ${mebibytes(peakBytes).padStart(9)}`,
    ...(onHost ? onHostLines(onHost) : []),
  ];
}

/** The states that would be in the peak without `offload_optimizer`. */
const onHostLines = (onHost: MemoryPlan): string[] => [
  ...groups(onHost).map((group) => row({ ...group, lifetime: "on the host" })),
  `${"pinned in the host's memory instead of the GPU's".padEnd(61)} ${mebibytes(onHost.totalBytes).padStart(9)}`,
];

const unplanned = (name: string, bytes: number) => row({ name, lifetime: "always", buffers: 0, bytes });

function row({ name, lifetime, buffers, bytes }: Group): string {
  const count = buffers > 0 ? String(buffers) : "";
  return `${name.padEnd(34)} ${lifetime.padEnd(17)} ${count.padStart(8)} ${mebibytes(bytes).padStart(9)}`;
}
