/**
 * A kernel library for processors that lack the wide instructions: the portable path with 16 lanes, which has the
 * tiling, tails and lane orders of AVX-512 in plain C++, and on it the two paths that multiply in bfloat16, their
 * instructions emulated (emulation/bf16.h). Kept in the cache beside the real library, by the hash of its sources.
 * Leaves out what AVX-512 does differently: its own instructions, and fused multiply-adds.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { buildKernels, cacheFolder } from "../../ffi/cpu/build.ts";
import { assetPath } from "../../src/assets.ts";

const flags = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-pthread"];
const defines = ["-DSIMD_BYTES=64", "-DPORTABLE_ONLY", "-Wno-psabi"];
const kernels = assetPath("ffi/cpu");
const instructions = join(import.meta.dir, "emulation", "bf16.h");
const products = ["-O2", "-include", instructions, "-DEMULATED_BF16", "-DBASE_PATH=path_portable"];

/** What is compiled to which object. One of the bfloat16 paths converts operands in many small parts. */
const units: Readonly<Record<string, readonly string[]>> = {
  portable: ["-DKERNEL_PATH=path_portable", join(kernels, "path.cpp")],
  avx512bf16: [...products, "-DKERNEL_PATH=path_avx512bf16", join(kernels, "path_bf16.cpp")],
  amx: [
    ...products,
    "-DAMX_TILES",
    "-DKERNEL_PATH=path_amx",
    "-DCONVERTED_BYTES=65536",
    join(kernels, "path_bf16.cpp"),
  ],
  dispatch: ["-DEMULATED_BF16", "-DHAVE_AVX512BF16", "-DHAVE_AMX", join(kernels, "dispatch.cpp")],
  threads: [join(kernels, "threads.cpp")],
};

function compiler(): string {
  const found = [process.env.CXX, "c++", "g++", "clang++"].find((name) => name && Bun.which(name));
  if (!found) throw new Error("no C++ compiler");
  return found;
}

async function run(command: readonly string[]): Promise<void> {
  const child = Bun.spawn([...command], { stdout: "ignore", stderr: "pipe" });
  const [stderr, code] = await Promise.all([new Response(child.stderr).text(), child.exited]);
  if (code !== 0) throw new Error(`${command.join(" ")}: ${stderr}`);
}

/** Path of the library, compiled on first use (about 10 s of one core). */
export async function emulatedLibrary(): Promise<string> {
  await buildKernels(); // reports a missing compiler in its own words
  const hash = new Bun.CryptoHasher("sha256").update(JSON.stringify([compiler(), flags, defines, units, process.arch]));
  for (const name of readdirSync(kernels).sort())
    if (/\.(cpp|h)$/.test(name)) hash.update(`${name}\0`).update(readFileSync(join(kernels, name)));
  hash.update(readFileSync(instructions));
  const cache = join(cacheFolder(), "op-suite");
  const library = join(cache, `emulated-${hash.digest("hex").slice(0, 16)}.so`);
  if (existsSync(library)) return library;

  mkdirSync(cache, { recursive: true });
  const build = mkdtempSync(join(cache, "build-"));
  try {
    const object = (name: string) => join(build, `${name}.o`);
    await Promise.all(
      Object.entries(units).map(([name, unit]) =>
        run([compiler(), ...flags, ...defines, ...unit, "-c", "-o", object(name)]),
      ),
    );
    const linked = join(build, "kernels.so");
    await run([compiler(), "-shared", "-pthread", ...Object.keys(units).map(object), "-o", linked]);
    renameSync(linked, library);
  } finally {
    rmSync(build, { recursive: true, force: true });
  }
  return library;
}
