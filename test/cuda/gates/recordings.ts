/**
 * PTX from the real compiler, stored in test/golden/ptx by hash of source, headers and options, so that the emulated tests run
 * without NVIDIA's compiler. `index.tsv` lists the source of each recording, so that a test without the compiler can detect
 * that a source has changed.
 *
 * The hash, and the copy that the emulated libnvrtc reads: test/emulator/recordings.ts.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { type KernelSource, kernelHeaders, kernelSource } from "../../../src/device/cuda/compile.ts";
import { plantedCompilation } from "../../emulator/planted/session.ts";
import { recordingHash } from "../../emulator/recordings.ts";

export const recordingsFolder = join(import.meta.dir, "../../golden/ptx");
const indexFile = join(recordingsFolder, "index.tsv");
const heading = "hash\tsource\toptions";

export interface Recording {
  readonly hash: string;
  /** A kernel of ffi/cuda by its name, or a path from the root of the repository. */
  readonly source: string;
  readonly options: readonly string[];
}

/** A recorded source and its headers in their current state; undefined if the source is gone. */
export function sourceOf(
  name: string,
): { readonly source: string; readonly headers: readonly KernelSource[] } | undefined {
  try {
    if (!name.includes("/")) return { source: kernelSource(name).source, headers: kernelHeaders() };
    const { headers } = plantedCompilation(name);
    return { source: readFileSync(join(import.meta.dir, "../../..", name), "utf8"), headers };
  } catch {
    return undefined;
  }
}

/** The current hash of compiling a source with these options. */
export function hashOf(name: string, options: readonly string[]): string | undefined {
  const now = sourceOf(name);
  if (now === undefined) return undefined;
  const headers = now.headers.map((header) => [header.name, header.source] as const);
  return recordingHash({ source: now.source, headers, options });
}

export function readIndex(): Recording[] {
  if (!existsSync(indexFile)) return [];
  const lines = readFileSync(indexFile, "utf8").trim().split("\n").slice(1);
  return lines.map((line) => {
    const [hash, source, options] = line.split("\t");
    return { hash: hash!, source: source!, options: options!.split(" ") };
  });
}

export function recordingFile(hash: string): string {
  return join(recordingsFolder, `${hash}.ptx.gz`);
}

/** Replaces all recordings. The compressed bytes depend only on the text: no time, no name. */
export function writeRecordings(recordings: ReadonlyMap<string, Recording & { readonly ptx: string }>): void {
  mkdirSync(recordingsFolder, { recursive: true });
  const kept = new Set([...recordings.keys()].map((hash) => `${hash}.ptx.gz`));
  for (const name of readdirSync(recordingsFolder)) if (!kept.has(name)) rmSync(join(recordingsFolder, name));
  const rows: string[] = [];
  for (const { hash, source, options, ptx } of recordings.values()) {
    if (!existsSync(recordingFile(hash))) writeFileSync(recordingFile(hash), compressed(ptx));
    rows.push(`${hash}\t${source}\t${options.join(" ")}`);
  }
  const order = (row: string) => row.split("\t").slice(1).join("\t");
  rows.sort((a, b) => (order(a) < order(b) ? -1 : 1));
  writeFileSync(indexFile, `${[heading, ...rows].join("\n")}\n`);
}

function compressed(text: string): Uint8Array {
  const bytes = gzipSync(text, { level: 9 });
  bytes.fill(0, 4, 8); // the time
  bytes[9] = 255; // the system
  return bytes;
}

/** Problems with the existing recordings, in words. */
export function recordingFaults(recordings: readonly Recording[] = readIndex()): string[] {
  const faults: string[] = [];
  const cure = "run `bun run gates --update`";
  const listed = new Set(recordings.map(({ hash }) => `${hash}.ptx.gz`));
  const hashes = new Map<string, string>();
  for (const { hash, source, options } of recordings) {
    const what = `${source} ${options.join(" ")}`;
    const now = hashOf(source, options);
    if (hashes.has(hash)) faults.push(`${hash} is listed twice, as ${hashes.get(hash)} and ${what}`);
    hashes.set(hash, what);
    if (now === undefined) faults.push(`${what}: recorded, but there is no such source; ${cure}`);
    else if (now !== hash) faults.push(`${what}: the source or a header has changed since it was recorded; ${cure}`);
    if (!existsSync(recordingFile(hash))) faults.push(`${what}: ${hash}.ptx.gz is missing; ${cure}`);
  }
  const files = existsSync(recordingsFolder) ? readdirSync(recordingsFolder) : [];
  for (const name of files) {
    if (name !== "index.tsv" && !listed.has(name))
      faults.push(`test/golden/ptx/${name}: belongs to nothing in index.tsv; ${cure}`);
  }
  return faults;
}
