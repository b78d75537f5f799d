/**
 * What this machine offers for the CUDA device, for `grpo doctor`: driver, GPUs, and libraries with versions and paths,
 * or why they are missing. Opens no GPU and allocates nothing.
 */
import { openCublas } from "../../../ffi/bindings/cublas.ts";
import { type Driver, openDriver, versionText } from "../../../ffi/bindings/cuda.ts";
import { openNccl } from "../../../ffi/bindings/nccl.ts";
import { majorVersions, type SearchOptions } from "../../../ffi/bindings/nvidia-libraries.ts";
import { openNvrtc } from "../../../ffi/bindings/nvrtc.ts";
import { RunError } from "../../errors.ts";
import { capabilityText, LEAST_CAPABILITY, listGpus } from "./gpu.ts";

/** A library, or a line saying what was not found, where it was searched for, and the cure: "what; where; cure". */
export type LibraryFacts = { readonly version: string; readonly path: string } | { readonly missing: string };

export interface CudaSurvey {
  /** The version is the newest CUDA that the driver supports. */
  readonly driver: LibraryFacts;
  readonly gpus: readonly {
    readonly name: string;
    readonly computeCapability: string;
    readonly totalBytes: number;
    /** Its compute capability is sufficient. */
    readonly usable: boolean;
  }[];
  readonly cublas: LibraryFacts;
  readonly nvrtc: LibraryFacts;
  /** Between the GPUs of several ranks. */
  readonly nccl: LibraryFacts;
}

function attempt<T extends object>(work: () => T): T | { missing: string } {
  try {
    return work();
  } catch (error) {
    if (error instanceof RunError) return { missing: error.message };
    throw error;
  }
}

function gpusOf(driver: Driver): CudaSurvey["gpus"] {
  return listGpus(driver).map(({ name, limits, totalBytes }) => ({
    name,
    computeCapability: capabilityText(limits.computeCapability),
    totalBytes,
    usable: limits.computeCapability >= LEAST_CAPABILITY,
  }));
}

export function surveyCuda(options: SearchOptions = {}): CudaSurvey {
  const driver = attempt(() => openDriver(options));
  const absent = "missing" in driver;
  const versions = absent ? majorVersions : majorVersions.filter((m) => m <= Math.floor(driver.version / 1000));
  const library = ({ version, path }: { version: string; path: string }): LibraryFacts => ({ version, path });
  const gpus = absent ? [] : attempt(() => gpusOf(driver));
  return {
    driver: absent ? driver : { version: versionText(driver.version), path: driver.path },
    gpus: "missing" in gpus ? [] : gpus,
    cublas: attempt(() => library(openCublas(options, versions))),
    nvrtc: attempt(() => library(openNvrtc(options, versions))),
    nccl: attempt(() => library(openNccl(options))),
  };
}
