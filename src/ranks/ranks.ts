/**
 * Several processes that train as one. All of them run the same program on the same values: what the host decides is
 * computed by every rank from values gathered from all, and never reduced; only rollouts, rewards, scoring and the passes
 * of an update are divided. So the results do not depend on the number of ranks.
 *
 * This file is what the rest of the program sees of it, and a run of one process; mesh.ts has the others.
 */
import type { Closable } from "../closing.ts";

export interface Ranks {
  readonly rank: number;
  readonly size: number;
  /** There are others, and they can be reached. */
  readonly exchanges: boolean;
  /** What carries the bytes of exchanges; null: the ranks' own connections. */
  readonly carrier: string | null;
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
  exchange(send: readonly (readonly Uint8Array[])[], receive: readonly (readonly Uint8Array[])[]): Promise<void>;
  /** From here on ranks of one machine read each other's memory in exchanges, if the system permits it. All ranks call it. */
  meetNeighbours(): Promise<void>;
  /** Counts the time of `work` as spent waiting for other ranks. */
  waitFor<T>(work: () => Promise<T>): Promise<T>;
  /** @throws RanksFailure once a rank has failed */
  requireAll(): void;
  /** Asks all ranks to stop. */
  askToStop(): void;
  /** Whether a rank was asked to stop, as all ranks know since the last `gather`: the same on all between two of them. */
  stopAgreed(): boolean;
  /** Whether a rank was asked to stop or has failed: divided work is to end early and to say so in its `gather`. */
  shouldHurry(): boolean;
  /** Seconds spent waiting for other ranks since the last call; null: the process is no rank. */
  takeWait(): number | null;
}

/**
 * A process by itself.
 *
 * @param isRank it is the only rank of a run, not one without ranks
 */
export function alone(stopRequested: () => boolean = () => false, isRank = false): Ranks {
  let asked = false;
  const shouldStop = () => asked || stopRequested();
  return {
    rank: 0,
    size: 1,
    exchanges: false,
    carrier: null,
    gather: async (_, value) => [value],
    first: async (_, value) => value(),
    exchange: async () => {},
    meetNeighbours: async () => {},
    waitFor: (work) => work(),
    requireAll() {},
    askToStop() {
      asked = true;
    },
    stopAgreed: shouldStop,
    shouldHurry: shouldStop,
    takeWait: () => (isRank ? 0 : null),
  };
}

/** A rank that is planned for, and exchanges nothing. */
export function onPaper(rank: number, size: number): Ranks {
  const refuse = async (): Promise<never> => {
    throw new Error(`rank ${rank} of ${size} is only planned for`);
  };
  return { ...alone(), rank, size, gather: refuse, first: refuse, exchange: refuse };
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

/** How the work of an optimizer step is divided. */
export interface Division {
  readonly ranks: Ranks;
  /** Gradient shards of a step: results are the same for any number of ranks up to this. */
  readonly shards: number;
  /** ZeRO-1: each rank keeps masters and moments of its part of the parameters, and updates it. */
  readonly zero: boolean;
}

/** Gradient shards of a step where ranks are asked for: results are the same for any number of ranks up to this. */
export function usualShards(ranks: number): number {
  let shards = 8;
  while (shards < ranks) shards *= 2;
  return shards;
}

/** The ranks of a run, and what they divide. */
export interface Team {
  readonly ranks: Ranks;
  /** The rank's place among those of its machine. */
  readonly localRank: number;
  /** null: an optimizer step is computed as a whole. */
  readonly division: Division | null;
  /** Ranks that each compute `per_device_train_batch_size`; 1 where the size of a step is given as a whole. */
  readonly devices: number;
}

/** One process, which divides nothing. */
export const solo = (stopRequested?: () => boolean): Team => ({
  ranks: alone(stopRequested),
  localRank: 0,
  division: null,
  devices: 1,
});

/** The rank's share of a list. */
export function own<T>(all: readonly T[], { rank, size }: Pick<Ranks, "rank" | "size">): readonly T[] {
  const { from, to } = shareOf(all.length, rank, size);
  return size === 1 ? all : all.slice(from, to);
}

/**
 * Work on a list, divided among the ranks; all get all of its results.
 *
 * @param work on neighbours in the list; its results are in their order
 */
export async function divided<T, R>(
  what: string,
  ranks: Ranks | undefined,
  all: readonly T[],
  work: (own: readonly T[]) => Promise<R[]>,
): Promise<R[]> {
  if (!ranks || ranks.size === 1) return work(all);
  const share = own(all, ranks);
  return (await ranks.gather(what, share.length > 0 ? await work(share) : [])).flat(1) as R[];
}
