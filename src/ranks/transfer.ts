/**
 * Exchanges of tensors between ranks. Those of a device that computes in the host's memory are sent from where they are;
 * others go from device to device, or by way of the host.
 */
import { bytesAt } from "../../ffi/bindings/libc.ts";
import type { Device, NumberArray } from "../device/device.ts";
import { byteLength, type Tensor } from "../tensor/tensor.ts";
import type { Ranks } from "./ranks.ts";

/**
 * Sends packed tensors to every rank and receives as many as each sends; entries of the rank itself are not used.
 *
 * @throws RanksFailure
 */
export type Transfer = (send: readonly (readonly Tensor[])[], receive: readonly (readonly Tensor[])[]) => Promise<void>;

export function createTransfer(device: Device, ranks: Ranks): Transfer {
  const usesHostMemory = device.heldBytes() === null;
  if (usesHostMemory) {
    const views = (all: readonly (readonly Tensor[])[]) =>
      all.map((tensors) => tensors.map((t) => new Uint8Array(bytesAt(t.address, byteLength(t)))));
    return (send, receive) => ranks.exchange(views(send), views(receive));
  }
  const bytesOf = ({ buffer, byteOffset, byteLength: bytes }: NumberArray) => new Uint8Array(buffer, byteOffset, bytes);
  return async (send, receive) => {
    const group = device.peers?.group;
    if (group) return exchanged(ranks, () => group.exchange(send, receive));
    const sent = new Map<Tensor, Uint8Array>();
    for (const tensors of send) for (const t of tensors) if (!sent.has(t)) sent.set(t, bytesOf(await device.read(t)));
    const arrived = receive.map((tensors) => tensors.map((t) => new Uint8Array(byteLength(t))));
    await ranks.exchange(
      send.map((tensors) => tensors.map((t) => sent.get(t)!)),
      arrived,
    );
    for (const [r, tensors] of receive.entries())
      if (r !== ranks.rank) for (const [i, t] of tensors.entries()) device.upload(t, typed(t, arrived[r]![i]!));
  };
}

/** How long an error of devices waits for the failure of a rank that explains it, in milliseconds. */
const EXPLAINED_WITHIN = 2000;

async function exchanged(ranks: Ranks, work: () => Promise<void>): Promise<void> {
  ranks.requireAll();
  try {
    await ranks.waitFor(work);
  } catch (error) {
    const since = performance.now();
    while (performance.now() - since < EXPLAINED_WITHIN) {
      ranks.requireAll();
      await Bun.sleep(20);
    }
    throw error;
  }
}

/** Bytes as numbers of the tensor's type. */
function typed({ dtype }: Tensor, { buffer }: Uint8Array): NumberArray {
  if (dtype === "float32") return new Float32Array(buffer as ArrayBuffer);
  if (dtype === "float64") return new Float64Array(buffer as ArrayBuffer);
  if (dtype === "uint8") return new Uint8Array(buffer as ArrayBuffer);
  return new Uint16Array(buffer as ArrayBuffer);
}
