/** A tensor of a safetensors file, as a source of parameters. */
import type { MappedTensor } from "../checkpoint/safetensors.ts";
import { InputError } from "../errors.ts";
import type { DType } from "../tensor/dtype.ts";

const dtypes: Readonly<Record<string, DType>> = { F32: "float32", F16: "float16", BF16: "bfloat16" };

/** @throws InputError for a type that parameters are not stored in */
export function storedTensor(path: string, { name, address, dtype, shape }: MappedTensor) {
  const type = dtypes[dtype];
  if (!type)
    throw new InputError(
      `${path}: tensor ${name} is stored as ${dtype}; supported are F32, F16 and BF16: convert the checkpoint`,
    );
  return { address, dtype: type, shape };
}
