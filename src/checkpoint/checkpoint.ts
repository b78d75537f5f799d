/**
 * The weights of a model folder as one set of named tensors, whether they are in `model.safetensors` or in shards listed
 * by `model.safetensors.index.json`. Other formats are refused, with instructions to convert them.
 */
import { existsSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";
import { isObject, readJsonObject } from "../config/json-file.ts";
import { InputError } from "../errors.ts";
import { type MappedTensor, openSafetensors, type SafetensorsFile } from "./safetensors.ts";

export const singleFileName = "model.safetensors";
export const indexFileName = "model.safetensors.index.json";

export interface Checkpoint {
  readonly folder: string;
  readonly names: readonly string[];
  /** Tensors that the shards hold but the index does not list. They cannot be read. */
  readonly unlisted: readonly string[];
  has(name: string): boolean;
  /** @throws InputError if there is no such tensor */
  get(name: string): MappedTensor;
  /** Drops all pages from memory; they are read again when touched. */
  release(): void;
  /** Unmaps the files: tensor addresses must not be used afterwards. */
  close(): void;
}

/** @throws InputError for a folder without safetensors, a missing or damaged shard, an index that does not match its shards */
export function openCheckpoint(folder: string): Checkpoint {
  const single = join(folder, singleFileName);
  const index = join(folder, indexFileName);
  if (existsSync(single)) {
    const file = openSafetensors(single);
    return checkpointOf(folder, file.tensors, [file]);
  }
  if (existsSync(index)) return openSharded(folder, index);
  throw noWeights(folder);
}

function openSharded(folder: string, index: string): Checkpoint {
  const map = readJsonObject(index).weight_map;
  if (!isObject(map)) throw new InputError(`${index}: weight_map: missing or not an object; download the file again`);
  const shards = new Map<string, SafetensorsFile>();
  const tensors = new Map<string, MappedTensor>();
  try {
    for (const [name, shard] of Object.entries(map)) {
      if (typeof shard !== "string" || shard !== basename(shard) || !shard.endsWith(".safetensors"))
        throw new InputError(
          `${index}: weight_map: ${JSON.stringify(name)} lies in ${JSON.stringify(shard)}, which is not the name of a ` +
            "safetensors file beside the index; download the index again",
        );
      let file = shards.get(shard);
      if (file === undefined) {
        const path = join(folder, shard);
        if (!existsSync(path))
          throw new InputError(`${path}: this shard is missing, and ${indexFileName} lists it; download it`);
        file = openSafetensors(path);
        shards.set(shard, file);
      }
      const tensor = file.tensors.get(name);
      if (tensor === undefined)
        throw new InputError(
          `${file.path}: tensor ${JSON.stringify(name)} is not in this shard, where ${indexFileName} lists it; ` +
            "index and shards belong to different models, download both again",
        );
      tensors.set(name, tensor);
    }
  } catch (error) {
    for (const file of shards.values()) file.close();
    throw error;
  }
  return checkpointOf(folder, tensors, [...shards.values()]);
}

function checkpointOf(
  folder: string,
  tensors: ReadonlyMap<string, MappedTensor>,
  files: readonly SafetensorsFile[],
): Checkpoint {
  return {
    folder,
    names: [...tensors.keys()],
    unlisted: files.flatMap((file) => [...file.tensors.keys()].filter((name) => !tensors.has(name))),
    has: (name) => tensors.has(name),
    get(name) {
      const tensor = tensors.get(name);
      if (tensor !== undefined) return tensor;
      const some = [...tensors.keys()].slice(0, 3).join(", ");
      throw new InputError(
        `${folder}: tensor ${JSON.stringify(name)} is missing (it holds ${some || "none"}${tensors.size > 3 ? ", …" : ""}); ` +
          "config.json and weights must belong to one model",
      );
    },
    release() {
      for (const file of files) file.release();
    },
    close() {
      for (const file of files) file.close();
    },
  };
}

/** Names the other format that the folder holds, since the cure differs. */
function noWeights(folder: string): InputError {
  let files: string[] = [];
  try {
    files = readdirSync(folder);
  } catch {
    return new InputError(`${folder}: no such folder; check the path`);
  }
  const ending = (suffix: string) => files.find((file) => file.endsWith(suffix));
  if (files.includes("adapter_model.safetensors"))
    return new InputError(`${folder}: holds only a LoRA adapter, without its adapter_config.json; download that too`);
  const pickled = ending(".bin") ?? ending(".pt") ?? ending(".pth");
  if (pickled !== undefined)
    return new InputError(
      `${folder}: weights are in ${pickled}, a pickle, which is not supported; convert them: load the model in transformers ` +
        "and call save_pretrained, which writes model.safetensors",
    );
  const gguf = ending(".gguf");
  if (gguf !== undefined)
    return new InputError(
      `${folder}: weights are in ${gguf}, which is not supported; use the original safetensors weights`,
    );
  return new InputError(`${folder}: has neither ${singleFileName} nor ${indexFileName}; download the weights`);
}
