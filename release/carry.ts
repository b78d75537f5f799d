/**
 * Collects the files that the executable carries in one folder, laid out as they will be inside it: kernel sources, the bundled
 * model and its problems, the page of a run, the CPU kernels built for the target. Every file is named here, so that stray ones are not included.
 */
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { compileKernels, prebuiltKernels, prebuiltName } from "../ffi/cpu/build.ts";
import { assetPath } from "../src/assets.ts";
import { bundlePage } from "../src/dashboard/bundle.ts";
import { RunError } from "../src/errors.ts";
import { compilerFor, isNative, type Target } from "./targets.ts";

/** Folders of the project, and which of their files to take. */
const sources: Readonly<Record<string, RegExp>> = {
  "ffi/cpu": /\.(cpp|h)$/,
  "ffi/cuda": /\.cuh?$/,
  "data/model": /\.(json|safetensors)$/,
  "data/problems": /\.arrow$/,
};

/** The newest glibc version that the kernels may require: Debian 12, Ubuntu 22.04 and RHEL 9 have it. */
export const MOST_GLIBC = 34;

/**
 * Fills `folder` from scratch.
 *
 * @returns a hash of names and contents
 * @throws RunError if the kernels cannot be built, lack an instruction path, or need a newer system
 */
export async function layOut(folder: string, target: Target): Promise<string> {
  rmSync(folder, { recursive: true, force: true });
  for (const [from, pattern] of Object.entries(sources))
    for (const name of readdirSync(assetPath(from)).filter((name) => pattern.test(name)))
      put(assetPath(join(from, name)), join(folder, from, name));
  await addPage(join(folder, "page"));
  await addKernels(join(folder, "prebuilt"), target);
  return hashOf(folder);
}

/** The files of the run's page, bundled for a browser. @throws RunError if they cannot be */
async function addPage(folder: string): Promise<void> {
  mkdirSync(folder, { recursive: true });
  for (const [name, { bytes }] of await bundlePage()) writeFileSync(join(folder, name), bytes);
}

/** The CPU kernels of `target`, under the name that the program looks for. @throws as layOut does */
export async function addKernels(folder: string, target: Target): Promise<void> {
  const library = await kernelsFor(target);
  const bytes = readFileSync(library);
  if (!isElfFor(target, bytes))
    throw new RunError(
      `${library}: no library for ${target.name}; delete it, and name a compiler for that system in CXX`,
    );
  const text = bytes.toString("latin1");
  const absent = target.paths.filter((path) => !text.includes(`${path}\0`));
  if (absent.length > 0)
    throw new RunError(`the compiler does not support ${absent.join(", ")} instructions; build with GCC 11 or later`);
  const glibc = newestGlibc(text);
  if (glibc > MOST_GLIBC)
    throw new RunError(
      `CPU kernels built here need glibc 2.${glibc}, but many systems have no later version than 2.${MOST_GLIBC}; build on Debian 12 or Ubuntu 22.04`,
    );
  put(library, join(folder, prebuiltName(target.architecture)));
}

/** The prebuilt ones if they came with the sources (pack.ts); else built by the compiler. */
async function kernelsFor(target: Target): Promise<string> {
  const ready = isNative(target) ? prebuiltKernels() : null;
  if (ready !== null) return ready;
  const { library } = await compileKernels({
    architecture: target.architecture,
    compiler: compilerFor(target),
    onBuild: () => process.stderr.write(`compiling the CPU kernels for ${target.name}\n`),
  });
  return library;
}

/** Read from the file's header, which is little-endian for all targets: the magic number, and e_machine at 18 (elf.h). */
export function isElfFor({ elfMachine }: Target, bytes: Buffer): boolean {
  return bytes.length >= 64 && bytes.readUInt32BE(0) === 0x7f454c46 && bytes.readUInt16LE(18) === elfMachine;
}

/** The minor version of the newest glibc symbol that a library needs, from its text. */
export function newestGlibc(text: string): number {
  return Math.max(0, ...[...text.matchAll(/\0GLIBC_2\.(\d+)/g)].map((match) => Number(match[1])));
}

function put(from: string, to: string): void {
  mkdirSync(dirname(to), { recursive: true });
  copyFileSync(from, to);
}

function hashOf(folder: string): string {
  const hash = new Bun.CryptoHasher("sha256");
  const names = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort();
  for (const name of names) hash.update(`${name}\0`).update(readFileSync(join(folder, name)));
  return hash.digest("hex").slice(0, 16);
}
