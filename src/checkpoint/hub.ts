/**
 * `--model` → a folder: a path unchanged, a hub id (`org/name`) through hub-snapshot.ts, which is loaded only then: the
 * hub's library takes long to load.
 */
import { existsSync } from "node:fs";
import { InputError } from "../errors.ts";

/**
 * @param idOrFolder a model folder, or `org/name` on the hub
 * @returns a folder
 * @throws InputError if there is neither, RunError if the download breaks off
 */
export async function resolveModel(idOrFolder: string): Promise<string> {
  if (existsSync(idOrFolder)) return idOrFolder;
  if (!/^[\w-][\w.-]*\/[\w-][\w.-]*$/.test(idOrFolder))
    throw new InputError(`${idOrFolder}: no such folder, and it is not a hub id (org/name) either; check the path`);
  const { hubSnapshot } = await import("./hub-snapshot.ts");
  return hubSnapshot(idOrFolder);
}
