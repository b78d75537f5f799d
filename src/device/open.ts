/** Opens the device that `--device` names; `auto` takes a GPU where one can be used. */

import { MissingLibraryError, NvidiaCallError } from "../../ffi/bindings/nvidia-libraries.ts";
import { InputError, RunError } from "../errors.ts";
import { openCpuDevice } from "./cpu/device.ts";
import { openCudaDevice } from "./cuda/device.ts";
import type { Device } from "./device.ts";

export interface DeviceOptions {
  /** auto, cpu, cuda or cuda:N */
  readonly device: string;
  /** Of the CPU's kernels. */
  readonly threads?: number | null;
  /** Takes lines for the user: what is compiled first, why `auto` is the CPU. */
  readonly note?: (text: string) => void;
}

/**
 * @throws InputError for a device that is not there, naming what is missing; RunError where opening it fails
 */
export async function openDevice({ device, threads = null, note }: DeviceOptions): Promise<Device> {
  if (device.startsWith("cuda")) return openNamedGpu(device, note);
  if (device === "auto") {
    try {
      return await openGpu("cuda", note);
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

function openGpu(device: string, note: DeviceOptions["note"]): Promise<Device> {
  return openCudaDevice({ device, onBuild: () => note?.("compiling the CUDA kernels for this GPU (once)") });
}

/** A GPU was asked for by name: that this machine has none, or lacks a library, is a mistake of the one who asked. */
async function openNamedGpu(device: string, note: DeviceOptions["note"]): Promise<Device> {
  try {
    return await openGpu(device, note);
  } catch (error) {
    const absent =
      error instanceof MissingLibraryError || (error instanceof NvidiaCallError && error.call === "cuInit");
    throw absent ? new InputError(`device ${device}: ${error.message}`) : error;
  }
}
