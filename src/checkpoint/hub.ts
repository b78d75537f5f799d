/**
 * `--model` → a folder: a path unchanged, a hub id (`org/name`, `org/name@revision`) through the cache that all tools of
 * the hub share (src/hub). Of a repository, only the files that this program uses are downloaded.
 */
import { existsSync } from "node:fs";
import { InputError } from "../errors.ts";
import { HubError, nameOf, type Repository } from "../hub/failures.ts";
import { hubName } from "../hub/names.ts";
import type { TransferWatch } from "../hub/progress.ts";
import { hubSnapshot } from "../hub/snapshot.ts";
import { adapterConfigName, hubBase, isAdapterFolder, readAdapterConfig } from "./adapter.ts";
import { indexFileName, singleFileName } from "./checkpoint.ts";
import { isModelFile } from "./huggingface.ts";

export interface ModelRequest extends TransferWatch {
  /** `model_revision`: a branch, tag or commit; null: the one behind the id's @, else the default branch. */
  readonly revision?: string | null;
}

/**
 * @param idOrFolder a model folder, or `org/name` on the hub
 * @returns a folder
 * @throws InputError if there is neither, or it cannot be downloaded
 */
export async function resolveModel(idOrFolder: string, request: ModelRequest): Promise<string> {
  const { revision = null } = request;
  if (existsSync(idOrFolder)) {
    if (revision === null) return withBase(idOrFolder, request);
    throw new InputError(`model_revision ${revision}: ${idOrFolder} is a folder, which has no revisions; leave it out`);
  }
  const name = hubName(idOrFolder);
  if (name === null)
    throw new InputError(`${idOrFolder}: no such folder, and it is not a hub id (org/name) either; check the path`);
  if (revision !== null && name.revision !== null && revision !== name.revision)
    throw new InputError(`model ${idOrFolder} and model_revision ${revision}: leave one of the revisions out`);
  const repo: Repository = { type: "model", id: name.id, revision: name.revision ?? revision };
  try {
    return await withBase(
      (await hubSnapshot(repo, (paths) => neededFiles(repo, paths), request, isOptional)).folder,
      request,
    );
  } catch (error) {
    // A user who mistyped a path should read about the path, not only about the hub.
    if (!(error instanceof HubError) || !(error.kind === "missing" || error.kind === "unreachable")) throw error;
    const { message, kind } = error;
    const prefix = `${nameOf(repo)}: `;
    const about = message.startsWith(prefix) ? message.slice(prefix.length) : message;
    throw new HubError(kind, `${idOrFolder}: no such folder, and ${about}`, { cause: error });
  }
}

/** The folder; an adapter's base is downloaded too. */
async function withBase(folder: string, request: ModelRequest): Promise<string> {
  const base = isAdapterFolder(folder) ? hubBase(readAdapterConfig(folder)) : null;
  if (base !== null) await resolveModel(base.id, { ...request, revision: base.revision });
  return folder;
}

/** Python's tools leave out what a model works without. */
const isOptional = (path: string): boolean => !/^(config\.json|tokenizer\.json|model.*|adapter_.*)$/.test(path);

/** Config, weights and tokenizer. Of weights that are there whole and in parts, the whole ones, which are read. */
function neededFiles(repo: Repository, paths: readonly string[]): readonly string[] {
  const all = paths.filter(isModelFile);
  if (all.includes(adapterConfigName) && !all.includes("config.json")) return all;
  const hasWeights = all.includes(singleFileName) || all.includes(indexFileName);
  if (!all.includes("config.json") || !hasWeights) {
    const pickled = paths.find((path) => /\.(bin|pth?|gguf)$/.test(path));
    const why = all.includes("config.json")
      ? `holds no safetensors weights${pickled === undefined ? "" : ` (it has ${pickled})`}; name a repository that has them`
      : "holds no config.json; name a repository with a transformers model";
    throw new InputError(`${nameOf(repo)}: ${why}`);
  }
  const isPart = (path: string) => /^model-\d+-of-\d+\.safetensors$/.test(path) || path === indexFileName;
  return all.includes(singleFileName) ? all.filter((path) => !isPart(path)) : all;
}
