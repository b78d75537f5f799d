/**
 * Rows that a program holds or makes, as a dataset: written once to an Arrow file in the cache, in the order in which they
 * come and under a name made of their contents. So the same rows are the same dataset in a run that is resumed.
 */
import { createWriteStream, existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { madeInCache, uniqueSuffix } from "../cache.ts";
import { errorText, InputError } from "../errors.ts";
import { convertToArrow } from "./convert.ts";

/** One problem: its prompt, its gold answer, whatever reward functions look at. Plain values, as JSON has them. */
export type Row = Readonly<Record<string, unknown>>;

/** Rows in order: a list, or anything that gives one after the other. It must come to an end. */
export type Rows = Iterable<Row> | AsyncIterable<Row>;

/**
 * @param name of the setting, for messages
 * @returns the path of the file
 * @throws InputError for something else than rows, or none; what the iterable throws
 */
export async function rowsFile(rows: Rows, name: string): Promise<string> {
  const folder = madeInCache("rows");
  const beside = join(folder, `${uniqueSuffix()}.jsonl`);
  const file = createWriteStream(beside);
  const failed = new Promise<never>((_, reject) => file.once("error", reject));
  failed.catch(() => {});
  const hash = new Bun.CryptoHasher("sha256");
  let count = 0;
  try {
    for await (const row of rows) {
      const line = `${lineOf(row, `${name}[${count}]`)}\n`;
      hash.update(line);
      count++;
      if (!file.write(line)) await Promise.race([new Promise((resolve) => file.once("drain", resolve)), failed]);
    }
    await Promise.race([new Promise<void>((resolve) => file.end(resolve)), failed]);
    if (count === 0) throw new InputError(`${name}: there are no rows in it`);
    const target = join(folder, `${hash.digest("hex").slice(0, 32)}.arrow`);
    if (!existsSync(target)) await convertToArrow(beside, target, { keepAll: true });
    return target;
  } finally {
    file.destroy();
    rmSync(beside, { force: true });
  }
}

/** ES2025's, which the compiler's library does not know yet. */
const { rawJSON: rawJson } = JSON as unknown as { rawJSON(text: string): unknown };

/** @throws InputError for what is not an object that JSON can hold */
function lineOf(row: unknown, where: string): string {
  if (typeof row !== "object" || row === null || Array.isArray(row))
    throw new InputError(`${where}: must be an object such as { prompt: "…", answer: "…" }`);
  try {
    return JSON.stringify(row, (key, value: unknown) => {
      if (typeof value === "function" || typeof value === "symbol")
        throw new TypeError(`${key} is a ${typeof value}, which is no data`);
      // Whole numbers past 2^53 keep their digits: the reader has them as bigint.
      if (typeof value === "bigint") return rawJson(value.toString());
      return ArrayBuffer.isView(value) && !(value instanceof DataView) ? [...(value as Float64Array)] : value;
    });
  } catch (error) {
    throw new InputError(`${where}: ${errorText(error)}`);
  }
}
