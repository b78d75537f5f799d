/**
 * An optimizer step in gradient shards: its samples are cut into a fixed number of parts, each part's gradient is
 * accumulated by itself, and the parts are summed as a fixed binary tree (../ranks/tree.ts). So the sum has the same bits
 * for any number of ranks, among which the parts are divided. Every rank sums a part of the parameters, from what all
 * ranks send it. It gives the sum to all, and all update all weights; or, as ZeRO-1 (Rajbhandari et al. 2020, arXiv
 * 1910.02054), it alone has masters and moments of that part, updates it, and gives the weights to all.
 */
import { breathe } from "../device/breathe.ts";
import type { Device } from "../device/device.ts";
import { cutMicroBatches, type MicroBatch, type PackedGroup } from "../model/micro-batches.ts";
import {
  type OptimizerSettings,
  type OptimizerState,
  optimizerStep,
  type StateBuffer,
  stateBuffer,
  stateRange,
  wholeState,
  zeroGradients,
} from "../optim/adamw.ts";
import { type Division, shareOf } from "../ranks/ranks.ts";
import { createTransfer } from "../ranks/transfer.ts";
import { copiesNeeded, type Subtree, subtreesOf, sumTree } from "../ranks/tree.ts";
import { joined, type ParameterSize, placed, type Range, roundsOf, unitsByRank, unitsOf } from "../ranks/units.ts";
import type { Phase, PlanBuilder } from "../tensor/plan.ts";
import { rows, type Tensor, tensor } from "../tensor/tensor.ts";

/** Bytes of other ranks' gradients that are held at once: of a GPU more, as each exchange makes the host wait. */
const RECEIVED_BYTES = 8 * 2 ** 20;
const RECEIVED_BYTES_ON_GPU = 64 * 2 ** 20;
/** A rank exchanges at least this many elements at once, if it has them. */
const LEAST_PIECE = 4096;

/** Samples of a step, and which of all completions theirs are. */
interface Shard {
  readonly groups: readonly PackedGroup[];
  readonly completions: readonly number[];
}

interface Piece extends PackedGroup {
  /** The first of its completions among all. */
  readonly first: number;
}

const tokensOf = ({ promptIds, completions }: PackedGroup): number =>
  completions.reduce((sum, { completionIds }) => sum + completionIds.length, promptIds.length);

/** Numbers below `count` so that any first few of them are spread evenly: their bits in reverse order. */
function spread(count: number): number[] {
  const bits = Math.ceil(Math.log2(count));
  const reversed = Array.from({ length: 2 ** bits }, (_, i) => {
    let number = 0;
    for (let bit = 0; bit < bits; bit++) if (i & (1 << bit)) number += 2 ** (bits - 1 - bit);
    return number;
  });
  return reversed.filter((number) => number < count);
}

/**
 * The parts of a step, as equal in tokens as groups can be dealt out: the largest first, each to the part that has least so far
 * (Graham 1969). Where there are fewer groups than shards, groups are split into as many parts as that takes; each part computes
 * its prompt. It follows from the lengths alone, so the parts are the same for any number of ranks.
 */
export function cutShards(groups: readonly PackedGroup[], shards: number): Shard[] {
  const parts = Math.max(1, Math.ceil(shards / Math.max(groups.length, 1)));
  let first = 0;
  const pieces = groups.flatMap(({ promptIds, completions }) => {
    const count = Math.min(parts, completions.length);
    return Array.from({ length: count }, (_, i): Piece => {
      const { from, to } = shareOf(completions.length, i, count);
      const piece = { promptIds, completions: completions.slice(from, to), first };
      first += to - from;
      return piece;
    });
  });
  const order = spread(shards);
  const dealt = order.map((shard) => ({ shard, tokens: 0, pieces: [] as Piece[] }));
  for (const piece of [...pieces].sort((a, b) => tokensOf(b) - tokensOf(a))) {
    const least = dealt.reduce((found, other) => (other.tokens < found.tokens ? other : found));
    least.pieces.push(piece);
    least.tokens += tokensOf(piece);
  }
  return dealt
    .sort((a, b) => a.shard - b.shard)
    .map(({ pieces: own }) => {
      const inOrder = own.sort((a, b) => a.first - b.first);
      return {
        groups: inOrder,
        completions: inOrder.flatMap(({ first: from, completions }) => completions.map((_, i) => from + i)),
      };
    });
}

/** Buffers of the parameters' sizes, by name. */
type Copy = ReadonlyMap<string, Tensor>;

export interface GradientShards {
  readonly division: Division;
  /** Runs the rank's shards one after the other. */
  accumulate(shards: readonly Shard[], run: (shard: Shard) => Promise<void>): Promise<void>;
  /** Sums all ranks' shards, for each rank those elements that it updates. @returns the norm of all gradients */
  sum(shards: readonly Shard[]): Promise<number>;
  /** Gives every rank the elements of `buffers`, by parameter, that their owners have. */
  share(buffers: Copy): Promise<void>;
  /** Room for the whole of a buffer that ranks have in parts: the memory of the parameter's gradient. */
  whole(name: string, kind: StateBuffer): Tensor;
  /** Puts the whole together on rank 0, until the next call. All ranks call it. */
  collect(name: string, kind: StateBuffer): Promise<void>;
  /** Takes the rank's parts from the whole, which every rank has put there. */
  keep(name: string, kind: StateBuffer): void;
}

/** The elements that the rank alone updates; null: all ranks update all. */
export function ownedRanges(division: Division | null, sizes: readonly ParameterSize[]): Range[] | null {
  if (!division?.zero || division.ranks.size === 1) return null;
  const { rank, size } = division.ranks;
  return joined(unitsByRank(unitsOf(sizes), size)[rank]!);
}

interface Sizes {
  readonly units: readonly Range[];
  /** Elements of a rank that are exchanged at once, at most. */
  readonly piece: number;
  /** Of gradients beside the one being computed, and of other ranks' subtrees. */
  readonly copies: number;
  readonly slots: number;
}

const subtreesOfRank = ({ ranks, shards }: Division, r: number): Subtree[] => {
  const { from, to } = shareOf(shards, r, ranks.size);
  return subtreesOf(from, to);
};

function sizesOf(device: Device, division: Division, parameters: readonly ParameterSize[]): Sizes {
  const { ranks, shards } = division;
  const units = unitsOf(parameters);
  const all = Array.from({ length: ranks.size }, (_, r) => subtreesOfRank(division, r).length);
  const subtrees = all.reduce((sum, count) => sum + count, 0);
  const received = device.peers === null ? RECEIVED_BYTES : RECEIVED_BYTES_ON_GPU;
  const most = Math.floor(received / 4 / subtrees / 32) * 32;
  const elementsOf = (own: readonly Range[]) => joined(own).reduce((sum, { count }) => sum + placed(count), 0);
  const largest = Math.max(...unitsByRank(units, ranks.size).map(elementsOf));
  return {
    ...{ units, piece: Math.min(largest, Math.max(LEAST_PIECE, most)) },
    copies: copiesNeeded(shareOf(shards, ranks.rank, ranks.size)),
    slots: subtrees - all[ranks.rank]!,
  };
}

/**
 * Plans what the shards of a model need beside its gradients; null where a step is not divided.
 *
 * @param parameters that are trained
 */
export function planGradientShards(
  plan: PlanBuilder,
  device: Device,
  division: Division | null,
  parameters: readonly ParameterSize[],
  { prefix, phase }: { readonly prefix: string; readonly phase: Phase } = { prefix: "", phase: "update" },
): (tensors: ReadonlyMap<string, Tensor>, optimizer: OptimizerState) => GradientShards | null {
  if (division === null) return () => null;
  const sizes = sizesOf(device, division, parameters);
  const { copies, slots, piece, units } = sizes;
  const total = parameters.reduce((sum, { elements }) => sum + elements, 0);
  const name = (own: string) => `${prefix}${own}`;
  for (let i = 0; i < copies; i++)
    plan.add(name("gradient shards"), name(`gradient shard ${i}`), "float32", [total], [phase]);
  if (slots > 0) plan.add(name("gradients of ranks"), name("gradients of ranks"), "float32", [slots * piece], [phase]);
  plan.add(name("optimizer scalars"), name("sums of squares of units"), "float64", [units.length]);
  return (tensors, optimizer) => {
    const whole = (own: string) => tensors.get(name(own))!;
    return createGradientShards(device, division, optimizer, {
      ...sizes,
      copyBuffers: Array.from({ length: copies }, (_, i) => split(whole(`gradient shard ${i}`), parameters)),
      slotBuffers: Array.from({ length: slots }, (_, i) => rows(whole("gradients of ranks"), i * piece, piece)),
      sums: whole("sums of squares of units"),
    });
  };
}

/** One buffer as those of all parameters, side by side. */
function split(whole: Tensor, parameters: readonly ParameterSize[]): Copy {
  let at = 0;
  return new Map(
    parameters.map(({ name, elements }) => {
      const part = rows(whole, at, elements);
      at += elements;
      return [name, part];
    }),
  );
}

const part = (copy: Copy, { name, from, count }: Range): Tensor => rows(copy.get(name)!, from, count);

/** A subtree that the rank has summed; null: none of its shards has completions. */
interface Held extends Subtree {
  readonly copy: Copy | null;
}

interface Bound extends Sizes {
  readonly copyBuffers: readonly Copy[];
  readonly slotBuffers: readonly Tensor[];
  readonly sums: Tensor; // float64 (units)
}

function createGradientShards(
  device: Device,
  division: Division,
  optimizer: OptimizerState,
  bound: Bound,
): GradientShards {
  const { ranks, shards } = division;
  const gradients: Copy = new Map(optimizer.parameters.map(({ weight, gradient }) => [weight.name, gradient]));
  const owned = unitsByRank(bound.units, ranks.size);
  const pieces = owned.map((own) => roundsOf(own, bound.piece));
  const rounds = Math.max(...pieces.map((own) => own.length));
  const piecesIn = (r: number, round: number): readonly Range[] => pieces[r]![round] ?? [];
  const transfer = createTransfer(device, ranks);
  const held = createHeld(device, bound.copyBuffers, gradients);
  const isOther = (r: number) => r !== ranks.rank;

  /** What every rank holds; other ranks' in the slots. */
  const subtreesWith = (has: (subtree: Subtree) => boolean) => {
    let slot = 0;
    return owned.map((_, r) =>
      subtreesOfRank(division, r).map((subtree) => ({
        ...{ ...subtree, rank: r, has: has(subtree) },
        slot: isOther(r) ? bound.slotBuffers[slot++]! : null,
      })),
    );
  };

  /** Sums some elements of each rank. */
  const sumRound = async (round: number, all: ReturnType<typeof subtreesWith>): Promise<void> => {
    const mine = piecesIn(ranks.rank, round);
    const inSlot = (slot: Tensor): Tensor[] => {
      let at = 0;
      return mine.map(({ count }) => {
        const place = rows(slot, at, count);
        at += placed(count);
        return place;
      });
    };
    const known = all.flat().map((subtree) => ({ ...subtree, places: subtree.slot && inSlot(subtree.slot) }));
    const send = pieces.map((_, r) =>
      isOther(r) ? held.copies().flatMap((copy) => piecesIn(r, round).map((range) => part(copy, range))) : [],
    );
    const receive = owned.map((_, r) =>
      known.filter(({ has, rank }) => has && rank === r).flatMap(({ places }) => places ?? []),
    );
    if (ranks.size > 1) await transfer(send, receive);
    for (const [i, range] of mine.entries()) {
      const sums = known.map(({ from, to, places, has }) => {
        const own = places ? places[i]! : has ? part(held.of(from)!, range) : null;
        return { from, to, sum: has ? own : null };
      });
      const total = sumTree(shards, sums, (left, right) => {
        device.ops.add(left, right);
        return left;
      });
      const gradient = part(gradients, range);
      if (total === null) device.ops.fill(gradient, 0);
      else if (total.address !== gradient.address) device.ops.cast(gradient, total);
    }
  };

  /** The norm of all gradients: each rank sums the squares of its units. */
  const norm = async (): Promise<number> => {
    const own = owned[ranks.rank]!;
    for (const [i, unit] of own.entries()) {
      device.ops.sumSquares(rows(bound.sums, i, 1), part(gradients, unit));
      await breathe();
    }
    const squares = own.length > 0 ? ((await device.read(rows(bound.sums, 0, own.length))) as Float64Array) : [];
    const all = await ranks.gather("the norm of the gradients", [...squares]);
    return Math.sqrt(all.flat().reduce((sum, square) => sum + square, 0));
  };

  const share = async (buffers: Copy): Promise<void> => {
    const partsOf = (r: number, round: number) => piecesIn(r, round).map((range) => part(buffers, range));
    for (let round = 0; round < rounds && ranks.size > 1; round++)
      await transfer(
        pieces.map((_, r) => (isOther(r) ? partsOf(ranks.rank, round) : [])),
        pieces.map((_, r) => (isOther(r) ? partsOf(r, round) : [])),
      );
  };

  const wholeOf = (name: string, kind: StateBuffer): Tensor => {
    const { address, shape } = gradients.get(name)!;
    return wholeState(device, kind, { name, elements: shape[0]! }, address);
  };

  /** The parts of a parameter that the rank has, and where they are in the whole. */
  const partsIn = (name: string, kind: StateBuffer) =>
    optimizer.parts
      .filter((each) => each.name === name)
      .map((each) => ({
        own: stateBuffer(each, kind)!,
        place: stateRange(wholeOf(name, kind), kind, each.from, each.weight.elements),
      }));

  return {
    division,
    share,
    async accumulate(all, run) {
      held.clear();
      const { from, to } = shareOf(shards, ranks.rank, ranks.size);
      for (let s = from; s < to; s++) {
        const shard = all[s]!;
        const isEmpty = shard.groups.length === 0;
        if (!isEmpty) {
          zeroGradients(device, optimizer);
          await run(shard);
        }
        await held.add(s, isEmpty ? null : gradients, s === to - 1);
      }
    },
    async sum(all) {
      const known = subtreesWith(({ from, to }) => all.slice(from, to).some(({ groups }) => groups.length > 0));
      for (let round = 0; round < rounds; round++) {
        await sumRound(round, known);
        await breathe();
      }
      const total = await norm();
      if (!division.zero) await share(gradients);
      return total;
    },
    whole: wholeOf,
    async collect(name, kind) {
      const own = partsIn(name, kind);
      const places = (r: number) =>
        joined(owned[r]!.filter((unit) => unit.name === name)).map(({ from, count }) =>
          stateRange(wholeOf(name, kind), kind, from, count),
        );
      const isFirst = ranks.rank === 0;
      await transfer(
        owned.map((_, r) => (r === 0 && !isFirst ? own.map((each) => each.own) : [])),
        owned.map((_, r) => (r > 0 && isFirst ? places(r) : [])),
      );
      if (isFirst) for (const each of own) copyTo(device, each.place, each.own);
    },
    keep(name, kind) {
      for (const { own, place } of partsIn(name, kind)) copyTo(device, own, place);
    },
  };
}

function copyTo(device: Device, to: Tensor, from: Tensor): void {
  if (from.dtype === "float32") device.ops.cast(to, from);
  else device.upload(to, device.download(from));
}

/** The sums of a rank's shards, as far as the tree has them together. */
function createHeld(device: Device, buffers: readonly Copy[], gradients: Copy) {
  let held: Held[] = [];
  const isFree = (copy: Copy) => held.every((other) => other.copy !== copy);
  const each = async (work: (name: string) => void): Promise<void> => {
    for (const name of gradients.keys()) {
      work(name);
      await breathe();
    }
  };

  /** The newest shard joins its neighbours. */
  const joinedWith = async (newest: Held): Promise<Held> => {
    let { from, copy } = newest;
    for (let left = held.at(-1); left; left = held.at(-1)) {
      const size = newest.to - from;
      if (left.to - left.from !== size || left.from % (2 * size) !== 0) break;
      held.pop();
      const [target, source] = [copy, left.copy];
      if (target && source) await each((name) => device.ops.add(target.get(name)!, source.get(name)!));
      copy ??= left.copy;
      from = left.from;
    }
    return { from, to: newest.to, copy };
  };

  return {
    clear() {
      held = [];
    },
    /** @param isLast its sum may stay where it is: no other is computed there */
    async add(shard: number, copy: Copy | null, isLast: boolean): Promise<void> {
      const sum = await joinedWith({ from: shard, to: shard + 1, copy });
      if (sum.copy !== gradients || isLast) return void held.push(sum);
      const kept = buffers.find(isFree)!;
      await each((name) => device.ops.cast(kept.get(name)!, gradients.get(name)!));
      held.push({ ...sum, copy: kept });
    },
    copies: (): Copy[] => held.flatMap(({ copy }) => (copy ? [copy] : [])),
    /** The sum of the subtree that begins at a shard. */
    of: (from: number): Copy | null => held.find((own) => own.from === from)?.copy ?? null,
  };
}

export interface Passes<R> {
  readonly results: R[];
  /** The norm of the gradients; null: it is not known yet. */
  readonly norm: number | null;
}

/**
 * The passes of an optimizer step over packed micro-batches, which leave its gradients summed: all of them here or, in
 * shards, the rank's, with the results of all.
 *
 * @param pass computes one micro-batch; its result is plain data
 */
export async function passesOf<R>(
  device: Device,
  optimizer: OptimizerState,
  shards: GradientShards | null,
  groups: readonly PackedGroup[],
  microBatchTokens: number,
  pass: (batch: MicroBatch) => Promise<R>,
): Promise<Passes<R>> {
  if (shards === null) {
    zeroGradients(device, optimizer);
    const results: R[] = [];
    for (const batch of cutMicroBatches(groups, microBatchTokens)) results.push(await pass(batch));
    return { results, norm: null };
  }
  const cut = cutShards(groups, shards.division.shards);
  const own: R[] = [];
  await shards.accumulate(cut, async ({ groups: some, completions }) => {
    for (const batch of cutMicroBatches(some, microBatchTokens))
      own.push(await pass({ ...batch, completions: batch.completions.map((i) => completions[i]!) }));
  });
  const all = await shards.division.ranks.gather("an update", own);
  return { results: all.flat(1) as R[], norm: await shards.sum(cut) };
}

/**
 * The optimizer's step after the passes. Returns the norm of the gradients before clipping.
 *
 * @throws RunError as `optimizerStep` does
 */
export async function stepAfter(
  device: Device,
  { optimizer, shards }: { readonly optimizer: OptimizerState; readonly shards: GradientShards | null },
  passes: Pick<Passes<unknown>, "norm">,
  settings: OptimizerSettings,
  learningRate: number,
): Promise<number> {
  const norm = await optimizerStep(device, optimizer, settings, learningRate, passes.norm);
  if (shards?.division.zero) await shards.share(weightsOf(optimizer));
  return norm;
}

/** The trained weights, flat. */
const weightsOf = ({ parameters }: OptimizerState): Copy =>
  new Map(
    parameters.map(({ weight: { name, address, dtype, elements } }) => [
      name,
      tensor(name, address, dtype, [elements]),
    ]),
  );
