/**
 * A kernel library for processors without the wide instructions: the portable path with 16 lanes, which has the tiling, tails
 * and lane orders of AVX-512 in plain C++, plus the two paths that multiply in bfloat16, with their instructions emulated
 * (emulation/bf16.h). Cached beside the real library by the hash of its sources. Leaves out where AVX-512 itself differs: its
 * own instructions, and fused multiply-adds.
 */
import { existsSync, readdirSync, readFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { compile, findCompiler, inBuildFolder, runAll } from "../../ffi/compiler.ts";
import { assetPath } from "../../src/assets.ts";
import { cacheFolder } from "../../src/cache.ts";

const what = "the emulated instruction paths";
const flags = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-pthread"];
const defines = ["-DSIMD_BYTES=64", "-DPORTABLE_ONLY", "-Wno-psabi"];
const kernels = assetPath("ffi/cpu");
const instructions = join(import.meta.dir, "emulation", "bf16.h");
const products = ["-O2", "-include", instructions, "-DEMULATED_BF16", "-DBASE_PATH=path_portable"];

/** Sources and their objects. One of the bfloat16 paths converts operands in many small parts; no sum is certain enough to draw from. */
const units: Readonly<Record<string, readonly string[]>> = {
  portable: ["-DKERNEL_PATH=path_portable", "-DUNCERTAIN(size)=1e9", join(kernels, "path.cpp")],
  avx512bf16: [...products, "-DKERNEL_PATH=path_avx512bf16", join(kernels, "path_bf16.cpp")],
  amx: [
    ...products,
    "-DAMX_TILES",
    "-DKERNEL_PATH=path_amx",
    "-DCONVERTED_BYTES=65536",
    "-DBEYOND_CACHES=4096",
    join(kernels, "path_bf16.cpp"),
  ],
  dispatch: ["-DEMULATED_BF16", "-DHAVE_AVX512BF16", "-DHAVE_AMX", join(kernels, "dispatch.cpp")],
  recording: [join(kernels, "recording.cpp")],
  threads: [join(kernels, "threads.cpp")],
};

/** Path of the library, compiled on first use (about 10 s on one core). */
export async function emulatedLibrary(): Promise<string> {
  const compiler = findCompiler(what);
  const hash = new Bun.CryptoHasher("sha256").update(JSON.stringify([compiler, flags, defines, units, process.arch]));
  for (const name of readdirSync(kernels).sort())
    if (/\.(cpp|h)$/.test(name)) hash.update(`${name}\0`).update(readFileSync(join(kernels, name)));
  hash.update(readFileSync(instructions));
  const library = join(cacheFolder(), "op-suite", `emulated-${hash.digest("hex").slice(0, 16)}.so`);
  if (existsSync(library)) return library;

  await inBuildFolder(["op-suite"], async (build) => {
    const object = (name: string) => join(build, `${name}.o`);
    const { command } = compiler;
    await runAll(
      Object.entries(units).map(
        ([name, unit]) =>
          () =>
            compile(what, [command, ...flags, ...defines, ...unit, "-c", "-o", object(name)]),
      ),
    );
    const linked = join(build, "kernels.so");
    await compile(what, [command, "-shared", "-pthread", ...Object.keys(units).map(object), "-o", linked]);
    renameSync(linked, library);
  });
  return library;
}
