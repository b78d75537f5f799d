/**
 * An optimizer step in gradient shards: its samples are cut into a fixed number of parts, each part's gradient is
 * accumulated by itself, and the parts are summed as a fixed binary tree (../ranks/tree.ts). So the sum has the same bits
 * for any number of ranks, among which the parts are divided. Every rank sums a part of the parameters, from what all
 * ranks send it, and gives it to all.
 */
import { breathe } from "../device/breathe.ts";
import type { Device } from "../device/device.ts";
import { cutMicroBatches, type MicroBatch, type PackedGroup } from "../model/micro-batches.ts";
import { type OptimizerState, zeroGradients } from "../optim/adamw.ts";
import { type Division, shareOf } from "../ranks/ranks.ts";
import { createTransfer, type Transfer } from "../ranks/transfer.ts";
import { copiesNeeded, type Subtree, subtreesOf, sumTree } from "../ranks/tree.ts";
import type { Phase, PlanBuilder } from "../tensor/plan.ts";
import { rows, type Tensor, tensor } from "../tensor/tensor.ts";

/** Elements whose squares are summed by one call: the norm is their sum, whoever computes which. */
const UNIT = 2 ** 20;
/** Bytes of other ranks' gradients that are held at once. */
const RECEIVED_BYTES = 32 * 2 ** 20;
/** The fewest elements that are exchanged at once. */
const LEAST_PIECE = 4096;

/** Elements of one parameter. */
interface Range {
  /** Index among the trained parameters. */
  readonly parameter: number;
  readonly from: number;
  readonly count: number;
}

/** All elements in units, in order. */
function unitsOf(elements: readonly number[]): Range[] {
  return elements.flatMap((all, parameter) =>
    Array.from({ length: Math.ceil(all / UNIT) }, (_, i) => ({
      ...{ parameter, from: i * UNIT, count: Math.min(UNIT, all - i * UNIT) },
    })),
  );
}

/** The units that each rank sums: neighbours, about equally many elements each. */
function unitsByRank(units: readonly Range[], size: number): Range[][] {
  const total = units.reduce((sum, { count }) => sum + count, 0);
  const owned: Range[][] = Array.from({ length: size }, () => []);
  let before = 0;
  for (const unit of units) {
    owned[Math.min(size - 1, Math.floor((size * (before + unit.count / 2)) / total))]!.push(unit);
    before += unit.count;
  }
  return owned;
}

const piecesOf = (units: readonly Range[], most: number): Range[] =>
  units.flatMap(({ parameter, from, count }) =>
    Array.from({ length: Math.ceil(count / most) }, (_, i) => ({
      ...{ parameter, from: from + i * most, count: Math.min(most, count - i * most) },
    })),
  );

/** Samples of a step, and where its completions begin among all. */
interface Shard {
  readonly groups: readonly PackedGroup[];
  readonly firstCompletion: number;
}

/**
 * The parts of a step: neighbours, as equal in groups as can be. Where there are fewer groups than shards, groups are
 * split into as many parts as that takes; each part computes its prompt.
 */
export function cutShards(groups: readonly PackedGroup[], shards: number): Shard[] {
  const parts = Math.max(1, Math.ceil(shards / Math.max(groups.length, 1)));
  const pieces = groups.flatMap(({ promptIds, completions }) => {
    const count = Math.min(parts, completions.length);
    return Array.from({ length: count }, (_, i): PackedGroup => {
      const { from, to } = shareOf(completions.length, i, count);
      return { promptIds, completions: completions.slice(from, to) };
    });
  });
  let firstCompletion = 0;
  return Array.from({ length: shards }, (_, s) => {
    const { from, to } = shareOf(pieces.length, s, shards);
    const shard = { groups: pieces.slice(from, to), firstCompletion };
    firstCompletion += shard.groups.reduce((sum, group) => sum + group.completions.length, 0);
    return shard;
  });
}

/** A copy of all gradients, by parameter. */
type Copy = readonly Tensor[];

interface Buffers {
  readonly copies: readonly Copy[];
  /** What other ranks send, a slot for each of their subtrees. */
  readonly slots: readonly Tensor[];
  readonly sums: Tensor; // float64 (units)
}

export interface GradientShards {
  readonly division: Division;
  /** Runs the rank's shards one after the other. */
  accumulate(shards: readonly Shard[], run: (shard: Shard) => Promise<void>): Promise<void>;
  /** Sums all ranks' shards, into the gradients of every rank. @returns their norm */
  sum(shards: readonly Shard[]): Promise<number>;
}

/**
 * Plans what the shards of a model need beside its gradients; null where a step is not divided.
 *
 * @param elements of each trained parameter
 */
export function planGradientShards(
  plan: PlanBuilder,
  device: Device,
  division: Division | null,
  elements: readonly number[],
  { prefix, phase }: { readonly prefix: string; readonly phase: Phase } = { prefix: "", phase: "update" },
): (tensors: ReadonlyMap<string, Tensor>, optimizer: OptimizerState) => GradientShards | null {
  if (division === null) return () => null;
  const { ranks, shards } = division;
  const copies = copiesNeeded(shareOf(shards, ranks.rank, ranks.size));
  const total = elements.reduce((sum, count) => sum + count, 0);
  const units = unitsOf(elements);
  const others = Array.from({ length: ranks.size }, (_, r) => r)
    .filter((r) => r !== ranks.rank)
    .flatMap((r) => subtreesOf(...edges(shareOf(shards, r, ranks.size))));
  const most = Math.floor(RECEIVED_BYTES / 4 / Math.max(others.length, 1) / 32) * 32;
  const piece = Math.min(UNIT, Math.max(LEAST_PIECE, most), Math.max(...units.map(({ count }) => count)));
  const name = (own: string) => `${prefix}${own}`;
  for (let i = 0; i < copies; i++)
    plan.add(name("gradient shards"), name(`gradient shard ${i}`), "float32", [total], [phase]);
  if (others.length > 0)
    plan.add(name("gradients of ranks"), name("gradients of ranks"), "float32", [others.length, piece], [phase]);
  plan.add(name("optimizer scalars"), name("sums of squares of units"), "float64", [units.length]);
  return (tensors, optimizer) => {
    const ordered = optimizer.parameters.map(({ gradient }) => gradient.shape[0] ?? 0);
    const whole = (own: string) => tensors.get(name(own))!;
    const buffers: Buffers = {
      copies: Array.from({ length: copies }, (_, i) => split(whole(`gradient shard ${i}`), ordered)),
      slots: others.map((_, i) => {
        const all = whole("gradients of ranks");
        return tensor(`gradients of ranks ${i}`, all.address + 4 * piece * i, "float32", [piece]);
      }),
      sums: whole("sums of squares of units"),
    };
    return createGradientShards(device, division, optimizer, { units: unitsOf(ordered), piece, buffers });
  };
}

const edges = ({ from, to }: Subtree): [number, number] => [from, to];

/** One buffer as several, side by side. */
function split(whole: Tensor, elements: readonly number[]): Tensor[] {
  let at = 0;
  return elements.map((count) => {
    const part = tensor(whole.name, whole.address + 4 * at, "float32", [count]);
    at += count;
    return part;
  });
}

const part = (copy: Copy, { parameter, from, count }: Range): Tensor => rows(copy[parameter]!, from, count);

interface Held extends Subtree {
  /** null: none of its shards has completions. */
  readonly copy: Copy | null;
}

function createGradientShards(
  device: Device,
  division: Division,
  optimizer: OptimizerState,
  sizes: { readonly units: readonly Range[]; readonly piece: number; readonly buffers: Buffers },
): GradientShards {
  const { ranks, shards } = division;
  const { buffers, units } = sizes;
  const gradients: Copy = optimizer.parameters.map(({ gradient }) => gradient);
  const owned = unitsByRank(units, ranks.size);
  const pieces = owned.map((own) => piecesOf(own, sizes.piece));
  const rounds = Math.max(...pieces.map((own) => own.length));
  const transfer: Transfer = createTransfer(device, ranks);
  const share = shareOf(shards, ranks.rank, ranks.size);
  let held: Held[] = [];

  /** Adds a copy of all gradients to another. */
  const addTo = async (target: Copy, source: Copy): Promise<void> => {
    for (const [i, t] of target.entries()) {
      device.ops.add(t, source[i]!);
      await breathe();
    }
  };

  /** The rank's newest shard joins its neighbours as far as the tree has them together. */
  const join = async (newest: Held): Promise<Held> => {
    let joined = newest;
    for (let left = held.at(-1); left; left = held.at(-1)) {
      const size = joined.to - joined.from;
      if (left.to - left.from !== size || left.from % (2 * size) !== 0) break;
      held.pop();
      if (left.copy && joined.copy) await addTo(joined.copy, left.copy);
      joined = { from: left.from, to: joined.to, copy: joined.copy ?? left.copy };
    }
    return joined;
  };

  const free = (): Copy => buffers.copies.find((copy) => held.every((other) => other.copy !== copy))!;

  /** What every rank holds, in the order of their slots; the rank's own where it lies. */
  const subtrees = (has: (subtree: Subtree) => boolean) => {
    let slot = 0;
    return Array.from({ length: ranks.size }, (_, r) =>
      subtreesOf(...edges(shareOf(shards, r, ranks.size))).map((subtree) => ({
        ...subtree,
        slot: r === ranks.rank ? null : buffers.slots[slot++]!,
        has: has(subtree),
      })),
    );
  };

  /** Sums one piece of each rank. */
  const sumRound = async (round: number, all: ReturnType<typeof subtrees>): Promise<void> => {
    const mine = pieces[ranks.rank]![round];
    const ofPeer = (r: number) => {
      const theirs = pieces[r]![round];
      return theirs ? held.flatMap(({ copy }) => (copy ? [part(copy, theirs)] : [])) : [];
    };
    const into = all.map((theirs) =>
      mine ? theirs.flatMap(({ slot, has }) => (slot && has ? [rows(slot, 0, mine.count)] : [])) : [],
    );
    if (ranks.size > 1)
      await transfer(
        pieces.map((_, r) => (r === ranks.rank ? [] : ofPeer(r))),
        into,
      );
    if (!mine) return;
    const sums = all.flatMap((theirs) =>
      theirs.map(({ from, to, slot, has }) => {
        const copy = slot ? null : (held.find((own) => own.from === from)?.copy ?? null);
        return { from, to, sum: has ? (slot ? rows(slot, 0, mine.count) : copy && part(copy, mine)) : null };
      }),
    );
    const total = sumTree(shards, sums, (left, right) => {
      device.ops.add(left, right);
      return left;
    });
    const gradient = part(gradients, mine);
    if (total === null) device.ops.fill(gradient, 0);
    else if (total.address !== gradient.address) device.ops.cast(gradient, total);
  };

  const partsOf = (range: Range | undefined) => (range ? [part(gradients, range)] : []);

  /** The norm of all gradients: each rank sums the squares of its units. */
  const norm = async (): Promise<number> => {
    const own = owned[ranks.rank]!;
    for (const [i, unit] of own.entries()) {
      device.ops.sumSquares(rows(buffers.sums, i, 1), part(gradients, unit));
      await breathe();
    }
    const squares =
      own.length === 0 ? new Float64Array() : ((await device.read(rows(buffers.sums, 0, own.length))) as Float64Array);
    const all = await ranks.gather("the norm of the gradients", squares);
    return Math.sqrt(all.flatMap((part) => [...part]).reduce((sum, square) => sum + square, 0));
  };

  return {
    division,
    async accumulate(all, run) {
      held = [];
      for (let s = share.from; s < share.to; s++) {
        const shard = all[s]!;
        const isEmpty = shard.groups.length === 0;
        if (!isEmpty) {
          zeroGradients(device, optimizer);
          await run(shard);
        }
        let joined = await join({ from: s, to: s + 1, copy: isEmpty ? null : gradients });
        // The last one stays where it is.
        if (s < share.to - 1 && joined.copy === gradients) {
          const copy = free();
          for (const [i, t] of copy.entries()) device.ops.cast(t, gradients[i]!);
          joined = { ...joined, copy };
        }
        held.push(joined);
      }
    },
    async sum(all) {
      const has = ({ from, to }: Subtree) => all.slice(from, to).some(({ groups }) => groups.length > 0);
      const known = subtrees(has);
      for (let round = 0; round < rounds; round++) {
        await sumRound(round, known);
        await breathe();
      }
      const total = await norm();
      for (let round = 0; round < rounds && ranks.size > 1; round++) {
        const mine = pieces[ranks.rank]![round];
        await transfer(
          pieces.map((_, r) => partsOf(r === ranks.rank ? undefined : mine)),
          pieces.map((theirs, r) => partsOf(r === ranks.rank ? undefined : theirs[round])),
        );
      }
      return total;
    },
  };
}

/**
 * The passes of an optimizer step over packed micro-batches, which leave its gradients summed: all of them here or, in
 * shards, the rank's, with the results of all.
 *
 * @param pass computes one micro-batch; its result is plain data
 * @returns the results in order, and the norm of the gradients if it is known
 */
export async function passesOf<R>(
  device: Device,
  optimizer: OptimizerState,
  shards: GradientShards | null,
  groups: readonly PackedGroup[],
  microBatchTokens: number,
  pass: (batch: MicroBatch) => Promise<R>,
): Promise<{ readonly results: R[]; readonly norm: number | null }> {
  if (shards === null) {
    zeroGradients(device, optimizer);
    const results: R[] = [];
    for (const batch of cutMicroBatches(groups, microBatchTokens)) results.push(await pass(batch));
    return { results, norm: null };
  }
  const cut = cutShards(groups, shards.division.shards);
  const own: R[] = [];
  await shards.accumulate(cut, async ({ groups: some, firstCompletion }) => {
    for (const batch of cutMicroBatches(some, microBatchTokens))
      own.push(await pass({ ...batch, completions: batch.completions.map((i) => firstCompletion + i) }));
  });
  const all = await shards.division.ranks.gather("an update", own);
  return { results: all.flat(1) as R[], norm: await shards.sum(cut) };
}
