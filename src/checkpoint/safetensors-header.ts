/**
 * The header of a safetensors file: JSON text → checked list of tensors. A header is untrusted input: every tensor must
 * be inside the file and have the length that its dtype and shape give, and together they must fill the data without
 * gaps or overlaps. No file is opened here.
 */
import { isObject, parseJson } from "../config/json-file.ts";
import { InputError } from "../errors.ts";

/** Bytes per element, by the format's own type names. */
export const safetensorsElementBytes = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
} as const;
export type SafetensorsDtype = keyof typeof safetensorsElementBytes;

/** The limit of the reference implementation; a longer header is a damaged length. */
export const maxHeaderBytes = 100_000_000;

export interface HeaderTensor {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  /** Offset from the start of the data, which follows the header. */
  readonly begin: number;
  readonly end: number;
}

export interface SafetensorsHeader {
  /** In the order of their data. */
  readonly tensors: readonly HeaderTensor[];
  readonly metadata: Readonly<Record<string, string>>;
}

const cure = "download or copy the file again";

/**
 * @param text the header's JSON
 * @param dataBytes length of what follows the header
 * @param path the file, for messages
 * @throws InputError naming the file, the tensor, the field and the cure
 */
export function parseSafetensorsHeader(text: string, dataBytes: number, path: string): SafetensorsHeader {
  const json = parseJson(text, `${path}: header`);
  if (!isObject(json)) throw new InputError(`${path}: header: not a JSON object; ${cure}`);
  // Silently keeping only the last of two would hide a tensor.
  const twice = duplicateKey(text);
  if (twice !== null) throw new InputError(`${path}: header: the key ${JSON.stringify(twice)} occurs twice; ${cure}`);

  const tensors: HeaderTensor[] = [];
  for (const [name, entry] of Object.entries(json))
    if (name !== "__metadata__") tensors.push(headerTensor(name, entry, dataBytes, path));
  tensors.sort((a, b) => a.begin - b.begin || a.end - b.end);

  let end = 0;
  let previous = "";
  for (const tensor of tensors) {
    const at = `${path}: tensor ${JSON.stringify(tensor.name)}: data_offsets`;
    if (tensor.begin < end) throw new InputError(`${at}: overlaps tensor ${JSON.stringify(previous)}; ${cure}`);
    if (tensor.begin > end)
      throw new InputError(`${at}: ${tensor.begin - end} bytes before it belong to no tensor; ${cure}`);
    end = tensor.end;
    previous = tensor.name;
  }
  if (end !== dataBytes)
    throw new InputError(`${path}: ${dataBytes - end} bytes after the last tensor belong to none; ${cure}`);
  return { tensors, metadata: headerMetadata(json.__metadata__, path) };
}

function headerTensor(name: string, entry: unknown, dataBytes: number, path: string): HeaderTensor {
  const refuse = (problem: string): never => {
    throw new InputError(`${path}: tensor ${JSON.stringify(name)}: ${problem}; ${cure}`);
  };
  if (!isObject(entry)) return refuse("its entry is not an object");
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== "string" || !Object.hasOwn(safetensorsElementBytes, dtype))
    throw new InputError(
      `${path}: tensor ${JSON.stringify(name)}: dtype ${JSON.stringify(dtype)} is not supported ` +
        `(${Object.keys(safetensorsElementBytes).join(", ")} are); convert the weights`,
    );
  const isLength = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
  if (!Array.isArray(shape) || !shape.every(isLength))
    return refuse(`shape ${JSON.stringify(shape)} is not a list of lengths`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isLength))
    return refuse(`data_offsets ${JSON.stringify(offsets)} is not a pair of byte offsets`);
  const [begin, end] = offsets as [number, number];
  if (begin > end) return refuse(`data_offsets ${begin} to ${end} run backwards`);
  if (end > dataBytes)
    return refuse(`data_offsets end at byte ${end} of the data, which has ${dataBytes} (the file is cut short)`);
  const kind = dtype as SafetensorsDtype;
  const bytes = shape.reduce((product, length) => product * length, safetensorsElementBytes[kind]);
  if (bytes !== end - begin)
    return refuse(`data_offsets hold ${end - begin} bytes, but ${dtype} of shape [${shape}] takes ${bytes}`);
  return { name, dtype: kind, shape, begin, end };
}

function headerMetadata(value: unknown, path: string): Record<string, string> {
  if (value === undefined) return {};
  if (!isObject(value) || Object.values(value).some((text) => typeof text !== "string"))
    throw new InputError(`${path}: __metadata__: not an object of strings; ${cure}`);
  return value as Record<string, string>;
}

/** The first key that occurs twice in one object of `json`, which must be valid JSON; null if there is none. */
function duplicateKey(json: string): string | null {
  const seen: (Set<string> | null)[] = []; // null: an array
  const token = /"(?:[^"\\]|\\.)*"|[{}[\],]/g;
  let keyNext = false;
  for (let match = token.exec(json); match !== null; match = token.exec(json)) {
    const text = match[0];
    if (text === "{") seen.push(new Set());
    else if (text === "[") seen.push(null);
    else if (text === "}" || text === "]") seen.pop();
    else if (text.startsWith('"') && keyNext) {
      const keys = seen.at(-1);
      const key = JSON.parse(text) as string;
      if (keys?.has(key)) return key;
      keys?.add(key);
    }
    keyNext = text === "{" || (text === "," && seen.at(-1) !== null);
  }
  return null;
}
