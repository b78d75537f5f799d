/**
 * Work on tensors in pinned host memory, through device memory: copies in and out have a stream each, beside the compute
 * stream, so that a piece is copied while the one before it is computed and the one before that is copied back. Events order
 * the three streams; the host waits for none of them.
 */
import { byteLength } from "../../tensor/tensor.ts";
import type { Staged, Staging } from "../device.ts";
import type { Gpu } from "./gpu.ts";
import type { GpuMemory } from "./memory.ts";

/** What has been queued last on a slot's memory. */
interface Slot {
  /** Copied in. */
  readonly filled: number;
  /** Computed. */
  readonly worked: number;
  /** Copied out. */
  readonly emptied: number;
  used: boolean;
}

export function openStaging(gpu: Gpu, memory: Pick<GpuMemory, "isPinned">): Staging {
  let streams: { readonly into: number; readonly back: number; readonly begun: number } | null = null;
  const slots = new Map<number, Slot>();
  /** The slot used last, since the streams were joined. */
  let last: Slot | null = null;

  const record = (event: number, stream: number) => gpu.call("cuEventRecord", event, stream);
  const wait = (stream: number, event: number) => gpu.call("cuStreamWaitEvent", stream, event, 0);

  const slotAt = (index: number): Slot => {
    const known = slots.get(index);
    if (known) return known;
    const slot = { filled: gpu.createEvent(), worked: gpu.createEvent(), emptied: gpu.createEvent(), used: false };
    slots.set(index, slot);
    return slot;
  };

  const copy = ({ host, device }: Staged, direction: "in" | "out", stream: number) => {
    const bytes = byteLength(host);
    if (byteLength(device) !== bytes) throw new RangeError(`${host.name}: ${bytes} bytes, its room has another size`);
    // Copies of other memory would be staged by the driver, and wait.
    if (!memory.isPinned(host.address, bytes)) throw new Error(`${host.name} is not in pinned memory`);
    if (direction === "in") gpu.call("cuMemcpyHtoDAsync_v2", device.address, host.address, bytes, stream);
    else gpu.call("cuMemcpyDtoHAsync_v2", host.address, device.address, bytes, stream);
  };

  return {
    through(index, tensors, work) {
      gpu.outsideCapture("copies of optimizer states");
      streams ??= { into: gpu.createStream(), back: gpu.createStream(), begun: gpu.createEvent() };
      const { into, back, begun } = streams;
      if (last === null) {
        // Earlier work may use the slots' memory, and what is copied in.
        gpu.mark(begun);
        wait(into, begun);
      }
      const slot = slotAt(index);
      if (slot.used) wait(into, slot.emptied);
      for (const each of tensors) if (each.copies !== "out") copy(each, "in", into);
      record(slot.filled, into);
      wait(gpu.stream, slot.filled);
      work();
      gpu.mark(slot.worked);
      wait(back, slot.worked);
      for (const each of tensors) if (each.copies !== "in") copy(each, "out", back);
      record(slot.emptied, back);
      slot.used = true;
      last = slot;
    },
    join() {
      if (last === null) return;
      wait(gpu.stream, last.emptied); // all slots are emptied in order
      for (const slot of slots.values()) slot.used = false;
      last = null;
    },
  };
}
