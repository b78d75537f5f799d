/**
 * An adapter merged into its base model: a plain model's tensors, W + scale · B · A, made as they are written, so that no
 * model need fit into memory. Sums are float32 products added in float64, rounded once to the base's type.
 */
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { InputError } from "../errors.ts";
import { originalName } from "../families/adapter-names.ts";
import { checkAdapters, withAdapters } from "../families/adapters.ts";
import type { ModelConfig } from "../families/config.ts";
import type { Adapter, ParameterSpec } from "../families/layer.ts";
import { adaptersByWeight, parameterSpecs } from "../families/parameters.ts";
import { float32Numbers } from "../tensor/dtype.ts";
import { type AdapterFile, checkAdapterFile } from "./adapter.ts";
import type { ModelFolder } from "./huggingface.ts";
import type { MappedTensor } from "./safetensors.ts";
import type { TensorSource } from "./safetensors-write.ts";

export interface Merged {
  readonly config: ModelConfig;
  readonly tensors: readonly TensorSource[];
  /** Weights that have been changed. */
  readonly changed: number;
}

const floats = { F32: "float32", BF16: "bfloat16", F16: "float16" } as const;
type Floats = keyof typeof floats;

/** Rows made at once. */
const ROWS = 256;

/** @throws InputError for a folder that is no adapter, or whose adapter is of another base */
export function mergedTensors({ folder, config: base, checkpoint, adapter }: ModelFolder): Merged {
  if (adapter === null)
    throw new InputError(`${folder}: is a whole model, with nothing to merge; give the folder of an adapter`);
  const { settings, path } = adapter.config;
  checkAdapters(base, settings, { targets: `${path}: target_modules`, saved: `${path}: modules_to_save` });
  const adapted = withAdapters(base, settings);
  checkAdapterFile(
    adapter,
    parameterSpecs(adapted).filter(({ trainable }) => trainable),
  );
  const copies = new Map(adapter.names.map((name) => [originalName(name), adapter.find(name)!]));
  const low = adaptersByWeight(adapted);
  // A tied head stays what the embedding was.
  const unties = base.head === "lm" && base.tieWordEmbeddings && copies.has(base.embedding.name);
  const specs: readonly ParameterSpec[] = [...parameterSpecs(base), ...(unties ? [base.lmHead] : [])];
  const tensors = specs.map(({ name }): TensorSource => {
    const own = copies.get(name);
    if (own) return stored(name, own);
    const found = checkpoint.get(name === base.lmHead.name && unties ? base.embedding.name : name);
    const beside = low.get(name);
    return beside ? merged(name, found, beside, adapter) : stored(name, found);
  });
  const raw = unties ? { ...base.raw, tie_word_embeddings: false } : base.raw;
  return { config: { ...base, raw, tieWordEmbeddings: base.tieWordEmbeddings && !unties }, tensors, changed: low.size };
}

function typeOf({ name, dtype }: MappedTensor): Floats {
  if (dtype === "F32" || dtype === "BF16" || dtype === "F16") return dtype;
  throw new InputError(`tensor ${name} is stored as ${dtype}; supported are F32, F16 and BF16: convert the checkpoint`);
}

function stored(name: string, tensor: MappedTensor): TensorSource {
  const { address, byteLength, shape } = tensor;
  return { name, dtype: typeOf(tensor), shape, chunks: () => [{ address, byteLength }] };
}

function merged(
  name: string,
  weight: MappedTensor,
  { a, b, scale }: Adapter<ParameterSpec>,
  file: AdapterFile,
): TensorSource {
  const dtype = typeOf(weight);
  return {
    name,
    dtype,
    shape: weight.shape,
    *chunks() {
      const [n = 0, k = 0] = weight.shape;
      const rank = a.shape[0]!;
      const [first, second] = [numbersOf(file.find(a.name)!, 0, rank * k), numbersOf(file.find(b.name)!, 0, n * rank)];
      const sums = new Float64Array(k);
      for (let row = 0; row < n; row += ROWS) {
        const count = Math.min(ROWS, n - row);
        const values = numbersOf(weight, row * k, count * k);
        for (let i = 0; i < count; i++) {
          sums.fill(0);
          for (let r = 0; r < rank; r++) {
            const factor = scale * second[(row + i) * rank + r]!;
            const at = r * k;
            for (let j = 0; j < k; j++) sums[j]! += factor * first[at + j]!;
          }
          for (let j = 0; j < k; j++) values[i * k + j]! += sums[j]!;
        }
        yield rounded(values, dtype);
      }
    },
  };
}

/** `count` numbers of a tensor from its element `from` on. */
function numbersOf(tensor: MappedTensor, from: number, count: number): Float32Array {
  const dtype = typeOf(tensor);
  const bytes = dtype === "F32" ? 4 : 2;
  return float32Numbers(bytesAt(tensor.address + from * bytes, count * bytes).slice(0), floats[dtype]);
}

/** To nearest, ties to even. */
function rounded(values: Float32Array, dtype: Floats): Uint8Array {
  if (dtype === "F32") return new Uint8Array(values.buffer as ArrayBuffer);
  if (dtype === "F16") return new Uint8Array(Float16Array.from(values).buffer);
  const bits = new Uint32Array(values.buffer as ArrayBuffer);
  const narrow = Uint16Array.from(bits, (word) => (word + 0x7fff + ((word >>> 16) & 1)) >>> 16);
  return new Uint8Array(narrow.buffer);
}
