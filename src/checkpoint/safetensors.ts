/**
 * Reads one safetensors file by mapping it: nothing is copied, a tensor is an address. Files of any size.
 * Writing is in `safetensors-write.ts`, several shards as one in `checkpoint.ts`.
 */
import { type FileMapping, mapFile } from "../../ffi/bindings/libc.ts";
import { InputError } from "../errors.ts";
import { maxHeaderBytes, parseSafetensorsHeader, type SafetensorsDtype } from "./safetensors-header.ts";

export interface MappedTensor {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  /** Little-endian, row-major, read-only. Aligned as the file's writer left it: files from before 2023 may be unaligned. */
  readonly address: number;
  readonly byteLength: number;
}

export interface SafetensorsFile {
  readonly path: string;
  /** In the order of their data. */
  readonly tensors: ReadonlyMap<string, MappedTensor>;
  readonly metadata: Readonly<Record<string, string>>;
  /** Drops the file's pages from memory; they are read again when touched. */
  release(): void;
  /** Unmaps the file: addresses of its tensors must not be used afterwards. */
  close(): void;
}

const cure = "download or copy the file again";

/** @throws InputError if the file is missing or cut short, or its header is wrong; names file, tensor and field */
export function openSafetensors(path: string): SafetensorsFile {
  const mapping = mapFile(path);
  try {
    const headerBytes = readHeaderLength(mapping);
    const { tensors, metadata } = parseSafetensorsHeader(
      decodeHeader(mapping, headerBytes),
      mapping.byteLength - 8 - headerBytes,
      path,
    );
    const data = mapping.address + 8 + headerBytes;
    return {
      path,
      tensors: new Map(
        tensors.map(({ name, dtype, shape, begin, end }) => [
          name,
          { name, dtype, shape, address: data + begin, byteLength: end - begin },
        ]),
      ),
      metadata,
      release: () => mapping.release(),
      close: () => mapping.close(),
    };
  } catch (error) {
    mapping.close();
    throw error;
  }
}

function readHeaderLength(mapping: FileMapping): number {
  const { path, byteLength } = mapping;
  if (byteLength < 8) throw new InputError(`${path}: only ${byteLength} bytes long, not a safetensors file; ${cure}`);
  const start = mapping.view(0, Math.min(byteLength, 16));
  if (new TextDecoder().decode(start).startsWith("version https:"))
    throw new InputError(`${path}: a Git LFS pointer, not the weights; run "git lfs pull" in its folder`);
  const length = new DataView(start.buffer, start.byteOffset).getBigUint64(0, true);
  if (length > BigInt(byteLength - 8))
    throw new InputError(
      `${path}: header of ${length} bytes in a file of ${byteLength}: cut short, or damaged; ${cure}`,
    );
  if (length > BigInt(maxHeaderBytes))
    throw new InputError(`${path}: header of ${length} bytes is longer than ${maxHeaderBytes}: damaged; ${cure}`);
  return Number(length);
}

function decodeHeader(mapping: FileMapping, headerBytes: number): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(mapping.view(8, headerBytes));
  } catch {
    throw new InputError(`${mapping.path}: header: not UTF-8 text; ${cure}`);
  }
}
