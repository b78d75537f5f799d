/** One JSON array of objects, read as a whole: use JSON Lines for large datasets. */
import { InputError } from "../../errors.ts";
import { NotJson, parseJson, type RepeatedKey } from "../json-text.ts";
import { inferColumns } from "./infer.ts";
import { noteRepeated, objectOf } from "./json-lines.ts";
import { openText } from "./packed.ts";
import type { RowBatch, RowSource } from "./rows.ts";

export async function jsonSource(path: string): Promise<RowSource> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of openText(path)) chunks.push(chunk.slice());
  const repeated = new Map<string, string>();
  const elements = parsed(path, Buffer.concat(chunks), repeated);
  const rows = elements.map((element, i) => objectOf(path, `element ${i}`, element));
  async function* batches(): AsyncGenerator<RowBatch> {
    yield { rows, place: (i) => `element ${i}` };
  }
  return { format: "JSON", columns: () => inferColumns(path, batches(), repeated), batches };
}

function parsed(path: string, bytes: Buffer, repeated: Map<string, string>): unknown[] {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    const onRepeated = (way: RepeatedKey) => noteRepeated(repeated, `element ${way[0]}`, 1)(way);
    return parseJson(text, { onRepeated }) as unknown[]; // it starts with a bracket
  } catch (error) {
    const why = error instanceof NotJson ? error.message : "it is not UTF-8";
    throw new InputError(`${path}: not valid JSON (${why}); expected an array of objects, or one object per line`);
  }
}
