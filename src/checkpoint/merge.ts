/**
 * An adapter merged into its base model: a plain model's tensors, W + scale · B · A, made as they are written, so that no
 * model need fit into memory. Sums are float32 products added in float64, rounded once to the base's type. Weights in NF4 are
 * written as numbers of that type too, with or without an adapter beside them.
 */
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { InputError } from "../errors.ts";
import { originalName } from "../families/adapter-names.ts";
import { checkAdapters, withAdapters } from "../families/adapters.ts";
import type { ModelConfig } from "../families/config.ts";
import { withFourBits } from "../families/four-bit.ts";
import type { Adapter, ParameterSpec } from "../families/layer.ts";
import { adaptersByWeight, parameterSpecs } from "../families/parameters.ts";
import { float32Numbers } from "../tensor/dtype.ts";
import { dequantizeNf4, quantizedNf4, type StoredNf4 } from "../tensor/nf4.ts";
import { elementCount } from "../tensor/tensor.ts";
import { type AdapterFile, checkAdapterFile } from "./adapter.ts";
import type { ModelFolder } from "./huggingface.ts";
import { isNf4, readNf4 } from "./nf4.ts";
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
const typeNames = { float32: "F32", bfloat16: "BF16", float16: "F16" } as const;

/** Rows made at once. */
const ROWS = 256;

/**
 * @param fourBit the base's projections are made NF4 first, as a run with `load_in_4bit` has them
 * @throws InputError for a folder that is no adapter, or whose adapter is of another base
 */
export function mergedTensors({ folder, config: base, checkpoint, adapter }: ModelFolder, fourBit = false): Merged {
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
  const quantized = withFourBits(base, (name) => fourBit || isNf4(checkpoint, name));
  const inNf4 = new Set(parameterSpecs(quantized).flatMap((spec) => (spec.quantized ? [spec.name] : [])));
  const numbersOf = (name: string): Numbers => {
    if (isNf4(checkpoint, name)) return ofNf4(readNf4(checkpoint, name), typeNames[base.dtype]);
    const found = checkpoint.get(name);
    return inNf4.has(name) ? throughNf4(found) : ofFile(found);
  };
  const tensors = specs.map(({ name }): TensorSource => {
    const own = copies.get(name);
    if (own) return stored(name, own);
    const beside = low.get(name);
    if (beside || inNf4.has(name)) return merged(name, numbersOf(name), beside ?? null, adapter);
    return stored(name, checkpoint.get(name === base.lmHead.name && unties ? base.embedding.name : name));
  });
  const { quantization_config: _, ...plain } = base.raw;
  const raw = unties ? { ...plain, tie_word_embeddings: false } : plain;
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

/** A weight's numbers, of which some are read at a time. */
interface Numbers {
  readonly shape: readonly number[];
  /** As they are written. */
  readonly dtype: Floats;
  /** Makes all of it ready, and then gives `count` numbers from element `from` on. */
  open(): (from: number, count: number) => Float32Array;
}

const ofFile = (tensor: MappedTensor): Numbers => {
  const dtype = typeOf(tensor);
  const bytes = dtype === "F32" ? 4 : 2;
  return {
    ...{ shape: tensor.shape, dtype },
    open: () => (from, count) =>
      float32Numbers(bytesAt(tensor.address + from * bytes, count * bytes).slice(0), floats[dtype]),
  };
};

const ofNf4 = ({ shape, address, scales }: StoredNf4, dtype: Floats): Numbers => ({
  ...{ shape, dtype },
  open() {
    const codes = new Uint8Array(bytesAt(address, Math.ceil(elementCount(shape) / 2)));
    return (from, count) => dequantizeNf4(codes, scales, from, count);
  },
});

/** What is left of a weight's numbers once they are NF4. */
function throughNf4(tensor: MappedTensor): Numbers {
  const whole = ofFile(tensor);
  return {
    ...whole,
    open() {
      const { codes, scales } = quantizedNf4(whole.open()(0, elementCount(tensor.shape)));
      return (from, count) => dequantizeNf4(codes, scales, from, count);
    },
  };
}

/** @param adapter beside the weight; null: there is none */
function merged(
  name: string,
  { shape, dtype, open }: Numbers,
  adapter: Adapter<ParameterSpec> | null,
  file: AdapterFile,
): TensorSource {
  return {
    ...{ name, dtype, shape },
    *chunks() {
      const numbers = open();
      const [n = 0, k = 0] = shape;
      const rank = adapter?.a.shape[0] ?? 0;
      const [first, second] = (adapter ? [adapter.a, adapter.b] : []).map((each) => {
        const found = file.find(each.name)!;
        return ofFile(found).open()(0, elementCount(found.shape));
      });
      const sums = new Float64Array(k);
      for (let row = 0; row < n; row += ROWS) {
        const count = Math.min(ROWS, n - row);
        const values = numbers(row * k, count * k);
        for (let i = 0; i < count && adapter; i++) {
          sums.fill(0);
          for (let r = 0; r < rank; r++) {
            const factor = adapter.scale * second![(row + i) * rank + r]!;
            const at = r * k;
            for (let j = 0; j < k; j++) sums[j]! += factor * first![at + j]!;
          }
          for (let j = 0; j < k; j++) values[i * k + j]! += sums[j]!;
        }
        yield rounded(values, dtype);
      }
    },
  };
}

/** To nearest, ties to even. */
function rounded(values: Float32Array, dtype: Floats): Uint8Array {
  if (dtype === "F32") return new Uint8Array(values.buffer as ArrayBuffer);
  if (dtype === "F16") return new Uint8Array(Float16Array.from(values).buffer);
  const bits = new Uint32Array(values.buffer as ArrayBuffer);
  const narrow = Uint16Array.from(bits, (word) => (word + 0x7fff + ((word >>> 16) & 1)) >>> 16);
  return new Uint8Array(narrow.buffer);
}
