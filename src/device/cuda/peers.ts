/**
 * The other GPUs of a run's ranks, reached by NCCL: bytes of tensors are copied between them, on the compute stream. Nothing
 * blocks the event loop, so that a rank that dies is noticed; what still waits for it is then aborted.
 */
import type { Trace } from "../../../ffi/bindings/calls.ts";
import { NCCL_UINT8, type Nccl, openNccl } from "../../../ffi/bindings/nccl.ts";
import type { SearchOptions } from "../../../ffi/bindings/nvidia-libraries.ts";
import { RunError } from "../../errors.ts";
import { byteLength, type Tensor } from "../../tensor/tensor.ts";
import type { PeerDevices, PeerGroup } from "../device.ts";
import type { Gpu } from "./gpu.ts";
import { openWaiter } from "./waiting.ts";

/** How long the end of a group may take before it is cut short, in milliseconds. */
const END_WITHIN = 5000;

export interface CudaPeers extends PeerDevices {
  close(): void;
}

export function openPeers(gpu: Gpu, search: SearchOptions, trace: Trace | null): CudaPeers {
  let nccl: Nccl | null = null;
  let group: (PeerGroup & { close(): void }) | null = null;
  const library = (): Nccl => {
    nccl ??= openNccl(search, trace);
    return nccl;
  };
  return {
    get group() {
      return group;
    },
    survey() {
      try {
        return { library: `NCCL ${library().version}`, device: gpu.uuid };
      } catch (error) {
        if (error instanceof RunError) return { missing: error.message };
        throw error;
      }
    },
    createId: () => library().createId(),
    async join(id, rank, size, requireAll) {
      group = await joinGroup(gpu, library(), id, rank, size, requireAll);
    },
    close() {
      group?.close();
      group = null;
    },
  };
}

async function joinGroup(
  gpu: Gpu,
  nccl: Nccl,
  id: Uint8Array,
  rank: number,
  size: number,
  requireAll: () => void,
): Promise<PeerGroup & { close(): void }> {
  const { calls, check } = nccl;
  const wait = openWaiter();
  const done = gpu.createEvent();
  const communicator = nccl.begin(id, rank, size);
  let isOver = false;
  const abort = () => {
    if (isOver) return;
    isOver = true;
    calls.ncclCommAbort(communicator);
  };
  /** Waits, while all ranks are well. */
  const until = async (kind: string, reached: () => boolean): Promise<void> => {
    try {
      await wait(kind, () => {
        requireAll();
        return reached();
      });
    } catch (error) {
      abort();
      throw error;
    }
  };
  const queue = (tensors: readonly (readonly Tensor[])[], symbol: "ncclSend" | "ncclRecv") => {
    for (const [peer, all] of tensors.entries()) {
      if (peer === rank) continue;
      for (const each of all) {
        const args = [each.address, byteLength(each), NCCL_UINT8, peer, communicator, gpu.stream] as const;
        check(symbol, calls[symbol](...args), communicator);
      }
    }
  };
  await until("joining", () => nccl.isReady(communicator));
  return {
    async exchange(send, receive) {
      gpu.outsideCapture("an exchange between ranks");
      check("ncclGroupStart", calls.ncclGroupStart());
      queue(send, "ncclSend");
      queue(receive, "ncclRecv");
      check("ncclGroupEnd", calls.ncclGroupEnd(), communicator);
      // Only then is it on the stream.
      await until("queueing", () => nccl.isReady(communicator));
      gpu.mark(done);
      await until("exchange", () => nccl.isReady(communicator) && gpu.reached(done));
    },
    close() {
      if (isOver) return;
      if (gpu.lost) return abort();
      try {
        check("ncclCommFinalize", calls.ncclCommFinalize(communicator), communicator);
        const deadline = performance.now() + END_WITHIN;
        while (!nccl.isReady(communicator)) {
          if (performance.now() > deadline) return abort();
          Bun.sleepSync(1);
        }
        isOver = true;
        check("ncclCommDestroy", calls.ncclCommDestroy(communicator), communicator);
      } catch {
        abort(); // All exchanges are done: what their end reports is of no consequence.
      }
    },
  };
}
