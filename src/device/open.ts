/** Opens the device that `--device` names; `auto` is a GPU if one is usable, else the CPU. */

import { MissingLibraryError, NvidiaCallError } from "../../ffi/bindings/nvidia-libraries.ts";
import { InputError, RunError } from "../errors.ts";
import { openCpuDevice } from "./cpu/device.ts";
import { openCudaDevice } from "./cuda/device.ts";
import type { Device } from "./device.ts";

export interface DeviceOptions {
  /** auto, cpu, cuda or cuda:N */
  readonly device: string;
  /** Threads of the CPU's kernels. */
  readonly threads?: number | null;
  /** The process's place among the ranks of this machine, which get a GPU each. */
  readonly localRank?: number;
  /** Receives lines for the user: what is compiled first, why `auto` chose the CPU. */
  readonly note?: (text: string) => void;
}

/** @throws InputError for a missing device, naming what is missing; RunError if opening it fails */
export async function openDevice({ device, threads = null, localRank = 0, note }: DeviceOptions): Promise<Device> {
  if (device.startsWith("cuda")) return openNamedGpu(device, localRank, note);
  if (device === "auto") {
    try {
      return await openGpu("cuda", localRank, note);
    } catch (error) {
      if (!(error instanceof RunError || error instanceof InputError)) throw error;
      note?.(`computing on the CPU: no CUDA device (${error.message.split("; ")[0]})`);
    }
  }
  return openCpuDevice({
    threads,
    onBuild: () => note?.("compiling the CPU kernels for this machine (once; about half a minute)"),
  });
}

function openGpu(device: string, localRank: number, note: DeviceOptions["note"]): Promise<Device> {
  return openCudaDevice({ device, localRank, onBuild: () => note?.("compiling the CUDA kernels for this GPU (once)") });
}

/** For a GPU requested by name, a missing GPU or library is a usage error. */
async function openNamedGpu(device: string, localRank: number, note: DeviceOptions["note"]): Promise<Device> {
  try {
    return await openGpu(device, localRank, note);
  } catch (error) {
    const absent =
      error instanceof MissingLibraryError || (error instanceof NvidiaCallError && error.call === "cuInit");
    throw absent ? new InputError(`device ${device}: ${error.message}`) : error;
  }
}
