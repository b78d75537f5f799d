/** One JSON array of objects. It is read whole: for large sets JSON Lines is the format to have. */
import { InputError } from "../../errors.ts";
import { inferColumns } from "./infer.ts";
import { objectOf } from "./json-lines.ts";
import { openText } from "./packed.ts";
import type { RowBatch, RowSource } from "./source.ts";

export async function jsonSource(path: string): Promise<RowSource> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of openText(path)) chunks.push(chunk.slice());
  const elements = parsed(path, Buffer.concat(chunks));
  const rows = elements.map((element, i) => objectOf(path, `element ${i}`, element));
  async function* batches(): AsyncGenerator<RowBatch> {
    yield { rows, place: (i) => `element ${i}` };
  }
  return { format: "JSON", columns: () => inferColumns(path, batches()), batches };
}

function parsed(path: string, bytes: Buffer): unknown[] {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new InputError(`${path}: not valid JSON; an array of objects, or one object a line, is needed`);
  }
  return value as unknown[]; // it starts with a bracket
}
