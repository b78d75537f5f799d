/**
 * The memory plan: every buffer by name, shape, type and lifetime, laid out before anything is allocated (promise 5).
 *
 * A lifetime is the set of phases in which a buffer is live. Phases never overlap in time, so buffers of different
 * phases share memory; buffers of the same phase, and those that are always live, never do. But a phase whose passes
 * through a model follow one another has stages, which do not overlap either: buffers of different stages share too.
 */
import { bytesPerElement, type DType } from "./dtype.ts";
import { elementCount, type Tensor, tensor } from "./tensor.ts";

/** In the order of a step. "scoring" is for reward models, "critic" for passes and updates of PPO's critic. */
export const phases = ["rollout", "scoring", "update", "critic"] as const;
export type Phase = (typeof phases)[number];

/** Parts of a training pass: the head with its logits, a layer's MLP, and its attention backward. */
export const stages = ["head", "mlp", "attention"] as const;
export type Stage = (typeof stages)[number];

export interface PlannedBuffer {
  readonly name: string;
  /** The line of the printed plan that it is added to. */
  readonly group: string;
  /** The model that it belongs to: "policy", "reference", "reward model", "critic". */
  readonly owner: string;
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly lifetime: "always" | readonly Phase[];
  /** The stages of its phases in which it is live. */
  readonly stages: readonly Stage[];
  readonly bytes: number;
}

export interface MemoryPlan {
  readonly buffers: readonly PlannedBuffer[];
  /** Bytes of the one allocation that holds every buffer. */
  readonly totalBytes: number;
  /** Bytes from the start of the allocation to the end of each phase's buffers. */
  readonly phaseBytes: ReadonlyMap<Phase, number>;
  /** Byte offset of each buffer by name. */
  readonly offsets: ReadonlyMap<string, number>;
}

/** Buffers of one phase that a run can do without: planned last, as many as there is room for. */
export interface OptionalBuffers {
  readonly phase: Phase;
  /** Bytes of each, in the order in which they are planned. */
  readonly bytes: readonly number[];
  /** Adds the first `count` to the plan. Called at most once. */
  plan(count: number): void;
}

export interface PlanBuilder {
  /** The same plan, adding buffers for the model `owner`; the policy by default. */
  of(owner: string): PlanBuilder;
  /** @throws Error for a name that is taken */
  add(
    group: string,
    name: string,
    dtype: DType,
    shape: readonly number[],
    lifetime?: PlannedBuffer["lifetime"],
    stages?: PlannedBuffer["stages"],
  ): PlannedBuffer;
  build(): MemoryPlan;
}

/** Buffers start at multiples of this: a pair of cache lines, enough for wide loads. */
const ALIGNMENT = 128;

/** Bytes that a buffer of `bytes` takes. */
export function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

export function planMemory(): PlanBuilder {
  const buffers = new Map<string, PlannedBuffer>();
  const builder = (owner: string): PlanBuilder => ({
    of: builder,
    add(group, name, dtype, shape, lifetime = "always", within = stages) {
      if (buffers.has(name)) throw new Error(`memory plan: two buffers named ${name}`);
      const bytes = elementCount(shape) * bytesPerElement(dtype);
      const buffer = { name, group, owner, shape, dtype, lifetime, stages: within, bytes };
      buffers.set(name, buffer);
      return buffer;
    },
    build() {
      return layOut([...buffers.values()]);
    },
  });
  return builder("policy");
}

/** The times at which a buffer is live, each a stage of a phase, by number. */
function timesOf({ lifetime, stages: within }: Pick<PlannedBuffer, "lifetime" | "stages">): number[] {
  const alive = lifetime === "always" ? phases : lifetime;
  return alive.flatMap((phase) => within.map((stage) => phases.indexOf(phase) * stages.length + stages.indexOf(stage)));
}

/** Places the longest-lived buffers first, each on top of those that are live at a time at which it is. */
function layOut(buffers: readonly PlannedBuffer[]): MemoryPlan {
  const tops: number[] = new Array(phases.length * stages.length).fill(0);
  const always = timesOf({ lifetime: "always", stages });
  const topOf = (times: readonly number[]) => times.reduce((top, time) => Math.max(top, tops[time]!), 0);
  const offsets = new Map<string, number>();
  const live = buffers.map((buffer) => {
    const { lifetime, stages: within } = buffer;
    return { buffer, times: lifetime === "always" && within === stages ? always : timesOf(buffer) };
  });
  live.sort((a, b) => b.times.length - a.times.length);
  for (const { buffer, times } of live) {
    const offset = topOf(times);
    offsets.set(buffer.name, offset);
    for (const time of times) tops[time] = offset + aligned(buffer.bytes);
  }
  const phaseBytes = new Map(phases.map((phase) => [phase, topOf(timesOf({ lifetime: [phase], stages }))]));
  return { buffers, offsets, phaseBytes, totalBytes: topOf(always) };
}

/** Bytes of the buffers that are live in a phase: in the stage that has most. */
export function liveBytes(buffers: readonly PlannedBuffer[], phase: Phase): number {
  const live = buffers.filter(({ lifetime }) => lifetime === "always" || lifetime.includes(phase));
  const bytesIn = (stage: Stage) =>
    live.reduce((sum, buffer) => sum + (buffer.stages.includes(stage) ? buffer.bytes : 0), 0);
  return Math.max(...stages.map(bytesIn));
}

/** The planned buffers as tensors, in an allocation of `plan.totalBytes` at `address`. */
export function placeTensors(plan: MemoryPlan, address: number): ReadonlyMap<string, Tensor> {
  return new Map(
    plan.buffers.map((b) => [b.name, tensor(b.name, address + (plan.offsets.get(b.name) ?? 0), b.dtype, b.shape)]),
  );
}
