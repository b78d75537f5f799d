/**
 * Opens what a dataset is converted from: a file of any known format, recognized by its contents, not its name. Each
 * format has its own file next to this one.
 */
import { existsSync, statSync } from "node:fs";
import { InputError } from "../../errors.ts";
import { requireFile } from "../../files/paths.ts";
import { looksLikeArrow } from "../arrow/messages.ts";
import { arrowSource } from "./arrow.ts";
import { jsonSource } from "./json.ts";
import { jsonLinesSource } from "./json-lines.ts";
import { openText } from "./packed.ts";
import { parquetSource } from "./parquet.ts";
import type { ArraySource, RowSource } from "./rows.ts";

/**
 * @param split which one, if `path` is a folder with several
 * @throws InputError if there is nothing at `path`, or its format is unknown
 */
export async function openSource(path: string, split?: string): Promise<RowSource | ArraySource> {
  requireFile(path);
  if (!existsSync(path)) throw new InputError(`${path}: no such file or folder; check the path`);
  if (statSync(path).isDirectory()) return arrowSource(path, split);
  const start = await firstBytes(path);
  if (start.length === 0) throw new InputError(`${path}: the file is empty; copy it again`);
  if (start.toString("latin1").startsWith("PAR1")) return parquetSource(path);
  if (looksLikeArrow(start)) return arrowSource(path, split);
  if (start.toString("utf8").startsWith("version https://git-lfs"))
    throw new InputError(`${path}: a Git LFS pointer, not the data itself; fetch it with: git lfs pull`);
  const text = await firstText(path);
  if (text.startsWith("{")) return jsonLinesSource(path);
  if (text.startsWith("[")) return jsonSource(path);
  throw new InputError(
    `${path}: neither JSON Lines, a JSON array, Parquet nor Arrow; convert it to one of these first`,
  );
}

async function firstBytes(path: string): Promise<Buffer> {
  return Buffer.from(await Bun.file(path).slice(0, 64).arrayBuffer());
}

/** The first nonblank text, unpacked. */
async function firstText(path: string): Promise<string> {
  for await (const bytes of openText(path)) {
    const text = Buffer.from(bytes)
      .toString("utf8")
      .replace(/^\uFEFF/, "")
      .trimStart();
    if (text !== "") return text.slice(0, 16);
  }
  return "";
}
