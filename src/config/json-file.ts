/** Reads a JSON file whole, for the small files of a model folder. What the values mean is checked by the caller. */
import { readFileSync } from "node:fs";
import { errorText, InputError } from "../errors.ts";
import { requireFile } from "../files/paths.ts";

/** Levels of lists and objects within each other; no file of a model or of settings comes near. */
const MAX_DEPTH = 256;

/**
 * Whether a value goes deeper than anything here means, or round in a circle as YAML's aliases can. Who takes it on would
 * overflow the stack, if only to show it in a message.
 */
export function isTooDeep(value: unknown, depth = MAX_DEPTH): boolean {
  if (typeof value !== "object" || value === null) return false;
  if (depth === 0) return true;
  for (const inner of Array.isArray(value) ? value : Object.values(value))
    if (typeof inner === "object" && isTooDeep(inner, depth - 1)) return true;
  return false;
}

/**
 * @throws InputError where the text is not JSON or nested without end, naming `path` (a torn download or an interrupted
 * copy, mostly)
 */
export function parseJson(text: string, path: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const what = text.trim() === "" ? "the file is empty" : errorText(error).replace(/^JSON Parse error: /, "");
    throw new InputError(`${path}: not valid JSON (${what}); download or copy the file again`);
  }
  if (isTooDeep(value))
    throw new InputError(`${path}: nested deeper than ${MAX_DEPTH} levels; download or copy the file again`);
  return value;
}

/** @throws InputError where the file is missing, cannot be read, or is not JSON */
export function readJsonFile(path: string): unknown {
  return parseJson(readTextFile(path), path);
}

/** @throws InputError where the file is missing, cannot be read, or is not JSON with an object at the top */
export function readJsonObject(path: string): Record<string, unknown> {
  const value = readJsonFile(path);
  if (!isObject(value)) throw new InputError(`${path}: is not a JSON object ({…}); download or copy the file again`);
  return value;
}

/** @throws InputError where the file is missing or cannot be read */
export function readTextFile(path: string): string {
  requireFile(path);
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") throw new InputError(`${path}: no such file; check the path`);
    throw new InputError(`${path}: cannot be read (${code ?? errorText(error)}); check that it is a readable file`);
  }
}

/** Whether a JSON value is an object (neither null nor an array). */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
