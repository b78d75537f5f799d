/**
 * Launches on the emulated GPU, which times nothing but counts everything: kernels and library products that ran, those replayed
 * in a graph included. On any other device there is nothing to read.
 */
import { bindLibrary } from "../ffi/bindings/bind.ts";
import { textAt } from "../ffi/bindings/native.ts";
import type { CudaDevice } from "../src/device/cuda/device.ts";
import type { Device } from "../src/device/device.ts";
import type { ModelConfig } from "../src/families/config.ts";
import { type StepFormat, type StepShape, stepPhases } from "./roofline/phases.ts";

export interface PhaseCount {
  readonly phase: string;
  /** Of kernels and library products, as the emulated driver counted them. */
  readonly launches: number;
  /** That the phase's ops move, by their costs (ops/cost.ts): every operand once, and what one kernel leaves for the next. */
  readonly bytes: number;
}

export interface LaunchCounter {
  clear(): void;
  /** Since the last `clear`. */
  launches(): number;
}

const signatures = { emulator_launches: "", emulator_clear_counters: "" } as const;

/** Null unless the driver is the emulated one: the library that the device has loaded, by its name. */
export function launchCounter(device: Device): LaunchCounter | null {
  if (device.kind !== "cuda" || !(device as CudaDevice).gpu.name.startsWith("Emulated GPU")) return null;
  const library = bindLibrary("libcuda.so.1", signatures, ["emulator_launches"], null);
  return {
    clear: () => void library.emulator_clear_counters(),
    launches() {
      const counts = JSON.parse(textAt(Number(library.emulator_launches()))) as Record<string, number>;
      return Object.values(counts).reduce((sum, count) => sum + count, 0);
    },
  };
}

/** Bytes by phase, as the device's own settings make it: prefill, decode (one step), reference and update (one group), optimizer. */
export async function phaseBytes(
  device: Device,
  config: ModelConfig,
  shape: StepShape,
  format: StepFormat,
): Promise<(phase: string) => number> {
  const { phases } = await stepPhases(config, shape, (device as CudaDevice).gpu, format);
  return (name) => phases.find((phase) => phase.name === name)!.work.reduce((sum, { bytes }) => sum + bytes, 0);
}

export function phaseLine({ phase, launches, bytes }: PhaseCount): string {
  return `  ${phase.padEnd(52)} ${String(launches).padStart(10)} launches, ${(bytes / 1e6).toFixed(2)} MB`;
}
