/**
 * Recordings of PTX: their names, and the copy that the emulated NVRTC reads. The repository stores them compressed as
 * HASH.ptx.gz in test/golden/ptx.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { assetPath } from "../../src/assets.ts";
import { writeInCache } from "../../src/cache.ts";

/** The inputs of a program's compilation. */
export interface RecordedProgram {
  readonly source: string;
  /** Name and text, in the order given to nvrtcCreateProgram. */
  readonly headers: readonly (readonly [name: string, text: string])[];
  readonly options: readonly string[];
}

/** The name of a program's recording, as nvrtc/recordings.h defines it. */
export function recordingHash({ source, headers, options }: RecordedProgram): string {
  const hash = new Bun.CryptoHasher("sha256");
  const sorted = options.map((option) => Buffer.from(option)).sort(Buffer.compare);
  for (const text of [source, ...headers.flat(), "options", ...sorted]) {
    const bytes = Buffer.from(text);
    hash.update(`${bytes.length}:`).update(bytes);
  }
  return hash.digest("hex").slice(0, 32);
}

const kept = assetPath("test/golden/ptx");

/** Unpacks the repository's recordings into `folder` unless it already has them; files appear complete or not at all. */
export function unpackRecordings(folder: string): void {
  if (!existsSync(kept)) return;
  const names = readdirSync(kept)
    .filter((name) => name.endsWith(".ptx.gz"))
    .sort();
  const stamp = names
    .map((name) => {
      const { size, mtimeMs } = statSync(join(kept, name));
      return `${name} ${size} ${mtimeMs}\n`;
    })
    .join("");
  const stampFile = join(folder, "unpacked");
  if (existsSync(stampFile) && readFileSync(stampFile, "utf8") === stamp) return;
  for (const name of names) writeInCache(join(folder, name.slice(0, -3)), gunzipSync(readFileSync(join(kept, name))));
  writeInCache(stampFile, stamp);
}
