/**
 * The ops as check:gpu runs them: at small sizes, which reach every kernel quickly, and at those of real models. Each is
 * compared with float64 at some elements of its result (bench/ops).
 */
import { modelNamed } from "../bench/models.ts";
import type { OpBench } from "../bench/ops/case.ts";
import { emulatedLoad, gpuLoad, modelShapes, type Shapes } from "../bench/ops/shapes.ts";
import { opBenches } from "../bench/ops.ts";

/** Odd widths, groups of two query heads per key-value head, a vocabulary that does not fill a block. */
function small(Dh: number): Shapes {
  return { D: 3 * Dh, F: 328, H: 4, Hkv: 2, Dh, V: 1003, ...emulatedLoad };
}

const sets: Readonly<Record<string, () => Shapes>> = {
  "small, heads of 64": () => small(64),
  "small, heads of 128": () => small(128),
  "Qwen3-0.6B": () => ({ ...modelShapes(modelNamed("Qwen3-0.6B").config), ...gpuLoad }),
  "Qwen2.5-0.5B": () => ({ ...modelShapes(modelNamed("Qwen2.5-0.5B").config), ...gpuLoad }),
};

export type OpSet = keyof typeof sets;

/** Ops whose sizes depend on the heads: the reason for a second model. */
const attention: readonly string[] = ["attentionForward", "attentionBackward", "attentionDecode", "kvStore"];

export interface OpChoice {
  readonly set: OpSet;
  /** Only the set's attention; no products, which are all cuBLAS's; one format. */
  readonly attention?: boolean;
  readonly products?: boolean;
  readonly dtype?: "float32" | "bfloat16";
}

export function chosenOps({ set, attention: only = false, products = true, dtype }: OpChoice): OpBench[] {
  const shapes = sets[set];
  if (!shapes) throw new Error(`${set}: no such set of ops; choose from ${Object.keys(sets).join(", ")}`);
  return Object.values(opBenches(shapes()))
    .flat()
    .filter(({ op }) => (!only || attention.includes(op)) && (products || !op.startsWith("matmul")))
    .filter((bench) => dtype === undefined || bench.dtype === dtype);
}
