/**
 * A kernel library of the portable path with 16 lanes: the tiling, tails and lane orders of the AVX-512 path in plain
 * C++, for processors that have no AVX-512. Kept in the cache beside the real library, by the hash of its sources.
 * Leaves out what AVX-512 does differently: its own instructions, and fused multiply-adds.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { buildKernels, cacheFolder } from "../../ffi/cpu/build.ts";
import { assetPath } from "../../src/assets.ts";

const flags = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-pthread"];
const defines = ["-DSIMD_BYTES=64", "-DPORTABLE_ONLY", "-DKERNEL_PATH=path_portable", "-Wno-psabi"];

function compiler(): string {
  const found = [process.env.CXX, "c++", "g++", "clang++"].find((name) => name && Bun.which(name));
  if (!found) throw new Error("no C++ compiler");
  return found;
}

/** Path of the library, compiled on first use (about 10 s of one core). */
export async function emulatedLibrary(): Promise<string> {
  await buildKernels(); // reports a missing compiler in its own words
  const folder = assetPath("ffi/cpu");
  const hash = new Bun.CryptoHasher("sha256").update(JSON.stringify([compiler(), flags, defines, process.arch]));
  for (const name of readdirSync(folder).sort())
    if (/\.(cpp|h)$/.test(name)) hash.update(`${name}\0`).update(readFileSync(join(folder, name)));
  const cache = join(cacheFolder(), "op-suite");
  const library = join(cache, `portable16-${hash.digest("hex").slice(0, 16)}.so`);
  if (existsSync(library)) return library;

  mkdirSync(cache, { recursive: true });
  const build = mkdtempSync(join(cache, "build-"));
  try {
    const sources = ["path.cpp", "dispatch.cpp", "threads.cpp"].map((name) => join(folder, name));
    const linked = join(build, "kernels.so");
    const command = [compiler(), ...flags, ...defines, "-shared", ...sources, "-o", linked];
    const result = Bun.spawnSync(command, { stdout: "ignore", stderr: "pipe" });
    if (!result.success) throw new Error(`${command.join(" ")}: ${result.stderr.toString()}`);
    renameSync(linked, library);
  } finally {
    rmSync(build, { recursive: true, force: true });
  }
  return library;
}
