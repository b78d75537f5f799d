/**
 * Weights in NF4 as bitsandbytes stores them: beside the codes, under the weight's name, their numbers (`.quant_map`), the codes
 * of the scales (`.absmax`), the numbers of those (`.nested_quant_map`), their scales (`.nested_absmax`), and what else there
 * is as JSON (`.quant_state.bitsandbytes__nf4`). All of it is untrusted input.
 */
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { isObject } from "../config/json-file.ts";
import { InputError } from "../errors.ts";
import { MAP_SIZE } from "../tensor/dynamic-map.ts";
import { NF4_BLOCK, NF4_NUMBERS, nestedBlocks, nf4Blocks, type StoredNf4 } from "../tensor/nf4.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { SafetensorsDtype } from "./safetensors-header.ts";

const stateName = "quant_state.bitsandbytes__nf4";
/** What lies beside a weight. */
const partNames: readonly string[] = ["absmax", "quant_map", "nested_absmax", "nested_quant_map", stateName];
/** A longer text is none of bitsandbytes'. */
const STATE_BYTES = 4096;

const cure =
  "the file is damaged, or of another format: download it again, or give the unquantized model with load_in_4bit";

/** Whether a checkpoint has a weight in NF4. */
export const isNf4 = ({ has }: Pick<Checkpoint, "has">, name: string): boolean => has(`${name}.${stateName}`);

/** Names of the tensors beside a weight in NF4. */
export const nf4Parts = (name: string): string[] => partNames.map((part) => `${name}.${part}`);

/**
 * @throws InputError naming the tensor: a missing part, one of another type or length, numbers that are out of range, or a
 *   quantization of another kind
 */
export function readNf4({ folder, has, get }: Checkpoint, name: string): StoredNf4 {
  const refuse = (part: string, problem: string): never => {
    throw new InputError(`${folder}: tensor ${name}${part}: ${problem}; ${cure}`);
  };
  const find = (part: string, dtype: SafetensorsDtype, count: number | null) => {
    const own = part === "" ? "" : `.${part}`;
    if (!has(name + own)) return refuse(own, "is missing");
    const found = get(name + own);
    if (found.dtype !== dtype) return refuse(own, `is stored as ${found.dtype}, expected ${dtype}`);
    const elements = found.shape.reduce((a, b) => a * b, 1);
    if (count !== null && elements !== count) return refuse(own, `has ${elements} elements, expected ${count}`);
    return found;
  };
  const bytesOf = (part: string, dtype: SafetensorsDtype, count: number | null) => {
    const { address, byteLength } = find(part, dtype, count);
    return bytesAt(address, byteLength).slice(0);
  };
  const numbersOf = (part: string, count: number, isIn: (x: number) => boolean, range: string) => {
    const numbers = new Float32Array(bytesOf(part, "F32", count));
    const odd = numbers.find((x) => !isIn(x));
    return odd === undefined ? numbers : refuse(`.${part}`, `has the number ${odd}, expected ${range}`);
  };

  if (find(stateName, "U8", null).byteLength > STATE_BYTES) refuse(`.${stateName}`, "is too long");
  let state: unknown = null;
  try {
    state = JSON.parse(new TextDecoder().decode(bytesOf(stateName, "U8", null)));
  } catch {
    refuse(`.${stateName}`, "is not JSON");
  }
  if (!isObject(state)) return refuse(`.${stateName}`, "is not a JSON object");
  const { shape, nested_offset: offset } = state;
  const expected = { quant_type: "nf4", blocksize: NF4_BLOCK, nested_blocksize: 256 } as const;
  for (const [key, value] of Object.entries(expected))
    if (state[key] !== value)
      refuse(
        `.${stateName}`,
        `${key} is ${JSON.stringify(state[key])?.slice(0, 40)}, expected ${JSON.stringify(value)}`,
      );
  const isLength = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) > 0 && (n as number) < 2 ** 31;
  if (!Array.isArray(shape) || shape.length !== 2 || !shape.every(isLength))
    return refuse(`.${stateName}`, "shape is not that of a matrix");
  if (typeof offset !== "number" || !Number.isFinite(Math.fround(offset)))
    return refuse(`.${stateName}`, "nested_offset is not a number");
  const elements = shape[0]! * shape[1]!;
  const isUnit = (x: number) => Math.abs(x) <= 1;
  const isScale = (x: number) => x >= 0 && x < Number.POSITIVE_INFINITY;
  return {
    shape,
    address: find("", "U8", Math.ceil(elements / 2)).address,
    scales: {
      numbers: numbersOf("quant_map", NF4_NUMBERS, isUnit, "−1 to 1"),
      codes: new Uint8Array(bytesOf("absmax", "U8", nf4Blocks(elements))),
      scaleNumbers: numbersOf("nested_quant_map", MAP_SIZE, isUnit, "−1 to 1"),
      nested: numbersOf("nested_absmax", nestedBlocks(elements), isScale, "0 or more"),
      offset: Math.fround(offset),
    },
  };
}

/**
 * Checks what config.json says of quantized weights.
 *
 * @throws InputError naming the field: another format than NF4 with double quantization
 */
export function checkQuantization(json: unknown, path: string): void {
  if (!isObject(json))
    throw new InputError(`${path}: quantization_config: is not an object; take that of the original model`);
  const expected: readonly (readonly [key: string, value: unknown, usual: unknown])[] = [
    ["quant_method", "bitsandbytes", undefined],
    ["load_in_4bit", true, false],
    ["bnb_4bit_quant_type", "nf4", "fp4"],
    ["bnb_4bit_use_double_quant", true, false],
  ];
  for (const [key, value, usual] of expected)
    if ((json[key] ?? usual) !== value)
      throw new InputError(
        `${path}: quantization_config.${key}: ${JSON.stringify(json[key] ?? usual ?? null).slice(0, 60)} is not supported, only bitsandbytes' NF4 with double quantization is; use the unquantized model, with load_in_4bit`,
      );
}
