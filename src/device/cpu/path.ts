/**
 * Chooses the kernels' instruction path and thread count unless the user sets them: the fastest proven path, on all
 * cores that this process may use.
 */
import { existsSync, readFileSync } from "node:fs";
import type { CpuLibrary } from "../../../ffi/bindings/cpu.ts";
import { InputError, RunError } from "../../errors.ts";

/**
 * Instruction paths that have passed the op suite on real hardware (docs/log.md says when and on what). Only these are
 * selected automatically; others need BUN_GRPO_CPU_PATH.
 */
export const provenPaths: readonly string[] = ["portable", "avx2", "avx512", "avx512bf16", "amx"];

/**
 * Paths whose products take bfloat16 operands for bfloat16 weights, so that activations may be stored in bfloat16. The
 * others widen weights and multiply in float32.
 */
export const bfloat16Paths: readonly string[] = ["avx512bf16", "amx"];

/** Cores by affinity mask and by the control group's quota, whichever is less. */
export function usableThreads(library: CpuLibrary): number {
  const cores = library.availableThreads();
  const quotaFile = "/sys/fs/cgroup/cpu.max";
  if (!existsSync(quotaFile)) return cores;
  const [quota, period] = readFileSync(quotaFile, "utf8").trim().split(" ").map(Number);
  if (!quota || !period) return cores;
  return Math.max(1, Math.min(cores, Math.floor(quota / period)));
}

/** Switches to a path; false if the system does not permit it (for AMX: the tile registers). */
function takesPath(library: Pick<CpuLibrary, "selectPath">, name: string): boolean {
  try {
    library.selectPath(name);
    return true;
  } catch (error) {
    if (error instanceof RunError) return false;
    throw error;
  }
}

/**
 * Switches to the instruction path `asked`, by default the fastest proven one that the processor has and the system
 * permits. It is the fastest for either type: with float32 weights, the bfloat16 paths use the products of `avx512`.
 *
 * @throws InputError for one that is not compiled in, that the processor lacks, or that the system does not permit
 */
export function choosePath(library: Pick<CpuLibrary, "paths" | "selectPath">, asked: string | undefined): string {
  const names = library.paths.map((p) => p.name);
  if (asked) {
    const found = library.paths.find((p) => p.name === asked);
    if (!found)
      throw new InputError(`BUN_GRPO_CPU_PATH=${asked}: unknown instruction path; one of ${names.join(", ")}`);
    if (!found.supported)
      throw new InputError(`BUN_GRPO_CPU_PATH=${asked}: this processor has no such instructions; leave it unset`);
    if (!takesPath(library, asked))
      throw new InputError(
        `BUN_GRPO_CPU_PATH=${asked}: the system does not let this process use such registers; leave it unset`,
      );
    return asked;
  }
  const usable = library.paths.filter((p) => p.supported && provenPaths.includes(p.name));
  const chosen = usable.findLast(({ name }) => takesPath(library, name));
  if (!chosen) throw new RunError("the kernels have no instruction path that this machine runs");
  return chosen.name;
}
