/**
 * Optimizer states in host memory (`offload_optimizer`; Ren et al. 2021, arXiv 2101.06840, but the step is computed on the
 * device). A step takes masters and moments through a ring of slots in device memory, piece by piece: while one is updated,
 * the next is copied in and the one before copied back. AdamW is elementwise and random numbers are counted by element, so
 * pieces change no bit.
 */
import type { Device, Staged } from "../device/device.ts";
import { InputError } from "../errors.ts";
import { bytesPerElement } from "../tensor/dtype.ts";
import { aligned, type PlanBuilder } from "../tensor/plan.ts";
import { byteLength, rows, type Tensor, tensor } from "../tensor/tensor.ts";
import { MOMENT_BLOCK } from "./form.ts";
import { elementsOf, mapMoments, type OptimizedPart, rangeOf } from "./parts.ts";

/** Pieces under way: one copied in, one updated, one copied back. */
const SLOTS = 3;
/** 1.4 million elements with masters and float32 moments: a millisecond of PCIe 4, and of little use beyond. */
export const SLOT_BYTES = 16 * 2 ** 20;

/** A part's state, or a piece's of it. */
type State = Pick<OptimizedPart, "master" | "moments">;
/** Which buffers of a state work needs, and in which directions they are copied. */
export type Uses = Readonly<Partial<Record<keyof State, Staged["copies"]>>>;

/** Some of a part's elements, with their state in device memory. */
export interface Piece extends OptimizedPart {
  /** Its first element, counted from the part's own. */
  readonly first: number;
}

/** Slots of device memory that states in host memory go through. */
export interface Ring {
  readonly slots: readonly Tensor[]; // uint8 each
  /** Takes a slot for each piece in turn. */
  next: number;
}

/** @throws InputError for a device that computes in the host's memory */
export function requireStaging(device: Device): void {
  if (device.staging === null)
    throw new InputError(
      "offload_optimizer: the device is a CPU, which has masters and moments in the host's memory as it is; leave offload_optimizer out, or set device cuda",
    );
}

/** Bytes of a piece's states are less than so many per element, but for the alignment of each buffer. */
const MOST_BYTES = 12;

/**
 * Plans the slots, live in the phase of the optimizer's step.
 *
 * @param elements of the largest part
 */
export function planRing(
  plan: PlanBuilder,
  prefix: string,
  lifetime: Parameters<PlanBuilder["add"]>[4],
  elements: number,
  slotBytes = SLOT_BYTES,
): (tensors: ReadonlyMap<string, Tensor>) => Ring {
  const bytes = Math.min(slotBytes, elements * MOST_BYTES + 5 * aligned(1));
  const names = Array.from({ length: SLOTS }, (_, i) => `${prefix}room for states ${i}`);
  for (const name of names) plan.add(`${prefix}room for optimizer states`, name, "uint8", [bytes], lifetime);
  return (tensors) => ({ slots: names.map((name) => tensors.get(name)!), next: 0 });
}

/** Elements of a piece whose buffers fill a slot; whole blocks of moments in 8 bits, and of random numbers. */
function pieceElements(part: OptimizedPart, slotBytes: number): number {
  const moments = part.moments.bits === 32 ? 8 : 2 + 8 / MOMENT_BLOCK;
  const perElement = moments + (part.master === null ? 0 : bytesPerElement(part.master.dtype));
  return Math.max(1, Math.floor((slotBytes - 5 * aligned(1)) / perElement / MOMENT_BLOCK)) * MOMENT_BLOCK;
}

/**
 * Calls `work` with a part, or with one after another of its pieces if its state is in host memory. It queues ops on the
 * buffers that `uses` names; others of the piece are not on the device.
 */
export function forEachPiece(
  device: Device,
  ring: Ring | null,
  part: OptimizedPart,
  uses: Uses,
  work: (piece: Piece) => void,
): void {
  if (ring === null) {
    work({ ...part, first: 0 });
    return;
  }
  const staging = device.staging!;
  const { weight, gradient } = part;
  const isOwnMaster = weight.dtype === "float32";
  const step = pieceElements(part, byteLength(ring.slots[0]!));
  for (let first = 0; first < weight.elements; first += step) {
    const count = Math.min(step, weight.elements - first);
    const index = ring.next;
    ring.next = (index + 1) % ring.slots.length;
    const slot = ring.slots[index]!;
    const staged: Staged[] = [];
    let at = 0;
    /** The piece's part of a buffer: where it is or, if the work needs it, its room in the slot. */
    const taken = (buffer: Tensor, per: number, copies: Staged["copies"] | undefined): Tensor => {
      const host = rangeOf(buffer, per, first, count);
      if (copies === undefined) return host;
      const room = tensor(host.name, slot.address + at, host.dtype, host.shape);
      staged.push({ host, device: room, copies });
      at += aligned(byteLength(room));
      return room;
    };
    const piece: Piece = {
      ...part,
      weight: elementsOf(weight, first, count),
      gradient: rows(gradient, first, count),
      master: part.master && taken(part.master, 1, isOwnMaster ? undefined : uses.master),
      moments: mapMoments(part.moments, (buffer, per) => taken(buffer, per, uses.moments)),
      first,
    };
    if (at > byteLength(slot))
      throw new RangeError(`${part.name}: ${at} bytes of states in a slot of ${byteLength(slot)}`);
    staging.through(index, staged, () => work(piece));
  }
}

/** What is queued from now on finds all states where they belong. */
export function afterPieces(device: Device, ring: Ring | null): void {
  if (ring) device.staging!.join();
}
