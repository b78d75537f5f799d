/** Reads a JSON file whole, for the small files of a model folder. What the values mean is checked by the caller. */
import { readFileSync } from "node:fs";
import { errorText, InputError } from "../errors.ts";
import { requireFile } from "../files.ts";

/** @throws InputError where the text is not JSON, naming `path` (a torn download or an interrupted copy, mostly) */
export function parseJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const what = text.trim() === "" ? "the file is empty" : errorText(error).replace(/^JSON Parse error: /, "");
    throw new InputError(`${path}: not valid JSON (${what}); download or copy the file again`);
  }
}

/** @throws InputError where the file is missing, cannot be read, or is not JSON */
export function readJsonFile(path: string): unknown {
  return parseJson(readTextFile(path), path);
}

/** @throws InputError where the file is missing, cannot be read, or is not JSON with an object at the top */
export function readJsonObject(path: string): Record<string, unknown> {
  const value = readJsonFile(path);
  if (!isObject(value)) throw new InputError(`${path}: holds no JSON object ({…}); download or copy the file again`);
  return value;
}

/** @throws InputError where the file is missing or cannot be read */
export function readTextFile(path: string): string {
  requireFile(path);
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") throw new InputError(`${path}: there is no such file; check the path`);
    throw new InputError(`${path}: cannot be read (${code ?? errorText(error)}); check that it is a readable file`);
  }
}

/** Whether a JSON value is an object (neither null nor an array). */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
