/**
 * Builds the CPU kernels at first use: every instruction path with its own flags, all in one shared library, cached by
 * the hash of sources, flags and compiler. Never -march=native: the library runs on any machine of its architecture
 * and chooses its path there.
 */
import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { assetPath } from "../../src/assets.ts";
import { cacheFolder } from "../../src/cache.ts";
import { errorText } from "../../src/errors.ts";
import { type Compiler, compile, compilerRun, findCompiler, inBuildFolder, runAll } from "../compiler.ts";

const what = "the CPU kernels";

const common = [
  "-std=c++20",
  "-O2",
  "-fPIC",
  "-fvisibility=hidden",
  "-ffp-contract=off", // a fused multiply-add only where the kernel has one: the same bits from every compiler
  "-fno-math-errno",
  "-pthread",
];

const avx512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma", "-mf16c"];

/** A path that extends another with its own products (path_bf16.cpp); left out if the compiler lacks its instructions. */
interface ProductPath {
  readonly name: string;
  readonly flags: readonly string[];
  readonly defines: readonly string[];
  /** A program with one such instruction. */
  readonly probe: string;
}

const x64 = {
  portable: [],
  avx2: ["-mavx2", "-mfma", "-mf16c"],
  avx512,
};

const x64Products: readonly ProductPath[] = [
  {
    name: "avx512bf16",
    flags: [...avx512, "-mavx512bf16"],
    defines: ["-DBASE_PATH=path_avx512"],
    probe: "__m512 f(__m512 c, __m512bh a, __m512bh b) { return _mm512_dpbf16_ps(c, a, b); }",
  },
  {
    name: "amx",
    flags: [...avx512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
    defines: ["-DBASE_PATH=path_avx512", "-DAMX_TILES"],
    probe: "void f() { _tile_dpbf16ps(0, 1, 2); }",
  },
];

interface Paths {
  /** Instruction paths in the order of dispatch.cpp, with the flags for their own code. */
  readonly paths: Readonly<Record<string, readonly string[]>>;
  readonly products: readonly ProductPath[];
}

const pathsOf = (architecture: string): Paths =>
  architecture === "x64" ? { paths: x64, products: x64Products } : { paths: { portable: [] }, products: [] };

function sourceFiles(): string[] {
  return readdirSync(assetPath("ffi/cpu"))
    .filter((name) => /\.(cpp|h)$/.test(name))
    .sort();
}

/** Whether compiler and assembler support the path's instructions (GCC 11 and Clang 12 support all). */
async function knows(compiler: Compiler, path: ProductPath, folder: string): Promise<boolean> {
  const source = join(folder, `probe-${path.name}.cpp`);
  writeFileSync(source, `#include <immintrin.h>\n${path.probe}\n`);
  const command = [
    compiler.command,
    ...common,
    ...path.flags,
    "-c",
    source,
    "-o",
    join(folder, `probe-${path.name}.o`),
  ];
  return (await compilerRun(command)).code === 0;
}

export interface BuildResult {
  readonly library: string;
  /** Null if the library was prebuilt. */
  readonly compiler: string | null;
  /** Seconds the compiler took; 0 if the library existed. */
  readonly seconds: number;
}

function hashOf(settings: readonly unknown[]): string {
  const hash = new Bun.CryptoHasher("sha256").update(JSON.stringify(settings));
  const folder = assetPath("ffi/cpu");
  for (const name of sourceFiles()) hash.update(`${name}\0`).update(readFileSync(join(folder, name)));
  return hash.digest("hex").slice(0, 16);
}

/** The name of a prebuilt library: from sources and flags, so that one built from other sources is never used. */
export function prebuiltName(architecture: string): string {
  const { paths, products } = pathsOf(architecture);
  return `libgrpo-cpu-${hashOf([common, paths, products, architecture, "linux"])}.so`;
}

/** The prebuilt library for exactly these sources, if the program came with one (release/build.ts). */
export function prebuiltKernels(): string | null {
  if (process.platform !== "linux") return null;
  const library = assetPath(`prebuilt/${prebuiltName(process.arch)}`);
  return existsSync(library) ? library : null;
}

export interface BuildOptions {
  /** Called before the compiler runs. */
  readonly onBuild?: (() => void) | undefined;
  /** For another machine: its architecture as Bun names it, and the compiler for it. */
  readonly architecture?: string;
  readonly compiler?: Compiler;
}

/**
 * The path of the kernel library, compiled now unless it is cached.
 *
 * Two processes that start at once both build, each in its own folder; the second rename replaces an identical file.
 *
 * @throws RunError without a compiler, if compiling fails, or if the cache folder cannot be written.
 */
export async function compileKernels(options: BuildOptions = {}): Promise<BuildResult> {
  const compiler = options.compiler ?? findCompiler(what);
  const architecture = options.architecture ?? process.arch;
  const { paths, products } = pathsOf(architecture);
  const key = hashOf([compiler, common, paths, products, architecture, process.platform]);
  const library = join(cacheFolder(), `libgrpo-cpu-${key}.so`);
  if (existsSync(library)) return { library, compiler: compiler.version, seconds: 0 };
  const start = performance.now();
  await inBuildFolder([], async (folder) => {
    options.onBuild?.();
    const linked = await compileInto(folder, compiler, paths, products);
    renameSync(linked, library);
  });
  return { library, compiler: compiler.version, seconds: (performance.now() - start) / 1000 };
}

async function compileInto(
  build: string,
  compiler: Compiler,
  paths: Readonly<Record<string, readonly string[]>>,
  products: readonly ProductPath[],
): Promise<string> {
  const folder = assetPath("ffi/cpu");
  const known = await Promise.all(products.map((path) => knows(compiler, path, build)));
  const wide = products.filter((_, i) => known[i]);
  const units: [object: string, command: string[]][] = [
    ...Object.entries(paths).map(([name, flags]): [string, string[]] => [
      join(build, `${name}.o`),
      [...flags, `-DKERNEL_PATH=path_${name}`, join(folder, "path.cpp")],
    ]),
    ...wide.map(({ name, flags, defines }): [string, string[]] => [
      join(build, `${name}.o`),
      [...flags, ...defines, `-DKERNEL_PATH=path_${name}`, join(folder, "path_bf16.cpp")],
    ]),
    [
      join(build, "dispatch.o"),
      [...wide.map(({ name }) => `-DHAVE_${name.toUpperCase()}`), join(folder, "dispatch.cpp")],
    ],
    [join(build, "recording.o"), [join(folder, "recording.cpp")]],
    [join(build, "threads.o"), [join(folder, "threads.cpp")]],
  ];
  await runAll(
    units.map(
      ([object, rest]) =>
        () =>
          compile(what, [compiler.command, ...common, ...rest, "-c", "-o", object]),
    ),
  );
  const linked = join(build, "kernels.so");
  await compile(what, [compiler.command, "-shared", "-pthread", ...units.map(([object]) => object), "-o", linked]);
  return linked;
}

// `bun ffi/cpu/build.ts`: builds now instead of at first use.
if (import.meta.main) {
  try {
    await compileKernels({
      onBuild: () => process.stderr.write("compiling the CPU kernels for this machine (once)\n"),
    });
  } catch (error) {
    process.stderr.write(`${errorText(error)}\n`);
    process.exit(1);
  }
}
