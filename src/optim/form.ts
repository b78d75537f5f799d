/**
 * In which form an optimizer keeps its state: masters and moments of each trained parameter, as the settings `optim`,
 * `master_dtype` and `offload_optimizer` say. What they take follows from it.
 */
import type { ComputeDType } from "../tensor/dtype.ts";
import { elementCount } from "../tensor/tensor.ts";

export type OptimizerName = "adamw_torch" | "adamw_8bit";

/** A run's settings from which a form is made. */
export interface FormSettings {
  readonly optim: OptimizerName;
  readonly masterDtype: ComputeDType;
  /** The state is in host memory. */
  readonly offloadOptimizer: boolean;
  readonly seed: number;
}

export interface OptimizerForm extends FormSettings {
  /** Names of the embeddings, whose moments stay float32: a row's gradient is 0 until its token occurs. */
  readonly embeddings: ReadonlySet<string>;
  /** Bytes of device memory for a piece of a state in host memory; left out, as offload.ts has it. */
  readonly slotBytes?: number;
}

/** transformers' defaults. */
export const usualForm: OptimizerForm = {
  optim: "adamw_torch",
  masterDtype: "float32",
  offloadOptimizer: false,
  seed: 0,
  embeddings: new Set(),
};

/** Whether ranks have masters and moments in parts, where they are asked to: those in host memory are whole on each. */
export const canBeDivided = ({ offloadOptimizer = false }: Partial<FormSettings>): boolean => !offloadOptimizer;

/** Elements that share a scale, as in bitsandbytes. */
export const MOMENT_BLOCK = 256;
/** Smaller parameters keep float32 moments, as in bitsandbytes (min_8bit_size). */
const LEAST_ELEMENTS = 4096;

interface Parameter {
  readonly name: string;
  readonly shape: readonly number[];
}

/** Whether a parameter's moments are in 8 bits. */
export function isEightBit({ optim, embeddings }: OptimizerForm, { name, shape }: Parameter): boolean {
  return optim === "adamw_8bit" && !embeddings.has(name) && elementCount(shape) >= LEAST_ELEMENTS;
}

/** Scales of a moment of so many elements. */
export const blocksOf = (elements: number): number => Math.ceil(elements / MOMENT_BLOCK);

/** Whether bfloat16 parameters are their own masters. */
export const hasNoMasters = ({ masterDtype }: FormSettings, dtype: ComputeDType): boolean =>
  dtype === "bfloat16" && masterDtype === "bfloat16";

/** Bytes of a parameter's state in a checkpoint. */
export function savedBytes(form: OptimizerForm, parameter: Parameter, dtype: ComputeDType): number {
  const elements = elementCount(parameter.shape);
  const moments = isEightBit(form, parameter) ? 2 * (elements + 4 * blocksOf(elements)) : 8 * elements;
  return moments + (dtype === "float32" || hasNoMasters(form, dtype) ? 0 : 4 * elements);
}
