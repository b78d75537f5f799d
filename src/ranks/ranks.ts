/**
 * Several processes that train as one. All of them run the same program on the same values: what the host decides is
 * computed by every rank from values gathered from all, and never reduced; only rollouts, rewards, scoring and the passes
 * of an update are divided. So the results do not depend on the number of ranks.
 *
 * This file is what the rest of the program sees of it, and a run of one process; mesh.ts has the others.
 */
import type { Closable } from "../closing.ts";

/** Bytes of host memory. */
export interface Segment {
  readonly address: number;
  readonly byteLength: number;
}

export interface Ranks {
  readonly rank: number;
  readonly size: number;
  /**
   * Every rank's value, by rank. All ranks call it, in the same order, with the same `what`, which names the values in
   * errors. Values are plain data: numbers, texts, typed arrays, arrays, objects, maps.
   *
   * @throws RanksFailure once a rank has failed
   */
  gather<T>(what: string, value: T): Promise<T[]>;
  /** Rank 0's value, which only rank 0 computes. @throws RanksFailure as `gather` does */
  first<T>(what: string, value: () => T | Promise<T>): Promise<T>;
  /**
   * Sends bytes to every rank and receives as many as each sends, in order; entries of the rank itself are not used.
   * The memory of both is in use until the end.
   *
   * @throws RanksFailure as `gather` does
   */
  exchange(send: readonly (readonly Segment[])[], receive: readonly (readonly Segment[])[]): Promise<void>;
  /** Whether a rank was asked to stop, as all ranks know since the last `gather`: the same on all between two of them. */
  stopAgreed(): boolean;
  /** Whether a rank was asked to stop or has failed: divided work is to end early and to say so in its `gather`. */
  shouldHurry(): boolean;
  /** Seconds spent waiting for other ranks since the last call. */
  takeWait(): number;
}

/** A process by itself. */
export function alone(stopRequested: () => boolean = () => false): Ranks {
  return {
    rank: 0,
    size: 1,
    gather: async (_, value) => [value],
    first: async (_, value) => value(),
    exchange: async () => {},
    stopAgreed: stopRequested,
    shouldHurry: stopRequested,
    takeWait: () => 0,
  };
}

/** Ranks that have met. */
export interface MetRanks extends Ranks, Closable {
  /** Tells the others of this rank's own failure, unless they know of one. @returns what to throw in its place */
  fail(error: unknown): Promise<unknown>;
  /** Waits until all ranks have come to their end, and parts. */
  part(): Promise<void>;
}

/** The share of `count` things that belongs to part `index` of `parts`: neighbours, as equal as can be. */
export function shareOf(count: number, index: number, parts: number): { readonly from: number; readonly to: number } {
  return { from: Math.floor((count * index) / parts), to: Math.floor((count * (index + 1)) / parts) };
}

/** The rank's share of a list. */
export function own<T>(all: readonly T[], { rank, size }: Pick<Ranks, "rank" | "size">): readonly T[] {
  const { from, to } = shareOf(all.length, rank, size);
  return size === 1 ? all : all.slice(from, to);
}
