/** Opens the device that `--device` names. */
import { InputError } from "../errors.ts";
import { openCpuDevice } from "./cpu.ts";
import type { Device } from "./device.ts";

export interface DeviceOptions {
  readonly device: "auto" | "cpu" | "cuda";
  readonly threads?: number | null;
  readonly onBuild?: () => void;
}

/**
 * @throws InputError for a device this build does not have; what openCpuDevice throws.
 */
export async function openDevice({ device, threads = null, onBuild }: DeviceOptions): Promise<Device> {
  if (device === "cuda")
    throw new InputError("device: this version computes on the CPU alone; use --device cpu or leave the flag out");
  return openCpuDevice({ threads, ...(onBuild ? { onBuild } : {}) });
}
