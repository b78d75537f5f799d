/**
 * Builds the CPU kernels at first use: every instruction path with its own flags, all in one shared library, cached by
 * the hash of sources, flags and compiler. Never -march=native: the library runs on any machine of its architecture
 * and chooses its path there.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { assetPath } from "../../src/assets.ts";
import { errorText, RunError } from "../../src/errors.ts";

const common = [
  "-std=c++20",
  "-O2",
  "-fPIC",
  "-fvisibility=hidden",
  "-ffp-contract=off", // a fused multiply-add only where the kernel says so: the same bits from every compiler
  "-fno-math-errno",
  "-pthread",
];

const avx512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma", "-mf16c"];

/** Instruction paths in the order of dispatch.cpp, with the flags that only their own code gets. */
const pathFlags: Record<string, readonly string[]> =
  process.arch === "x64"
    ? {
        portable: [],
        avx2: ["-mavx2", "-mfma", "-mf16c"],
        avx512,
      }
    : { portable: [] };

/** A path that is another with products of its own (path_bf16.cpp); left out when the compiler lacks its instructions. */
interface ProductPath {
  readonly name: string;
  readonly flags: readonly string[];
  readonly defines: readonly string[];
  /** A program of one such instruction. */
  readonly probe: string;
}

const productPaths: readonly ProductPath[] =
  process.arch === "x64"
    ? [
        {
          name: "avx512bf16",
          flags: [...avx512, "-mavx512bf16"],
          defines: ["-DBASE_PATH=path_avx512"],
          probe: "__m512 f(__m512 c, __m512bh a, __m512bh b) { return _mm512_dpbf16_ps(c, a, b); }",
        },
        {
          name: "amx",
          flags: [...avx512, "-mamx-tile", "-mamx-bf16"],
          defines: ["-DBASE_PATH=path_avx512", "-DAMX_TILES"],
          probe: "void f() { _tile_dpbf16ps(0, 1, 2); }",
        },
      ]
    : [];

/** Where built libraries are kept: `$BUN_GRPO_CACHE`, else `$XDG_CACHE_HOME/bun-grpo`, else `~/.cache/bun-grpo`. */
export function cacheFolder(): string {
  const { BUN_GRPO_CACHE, XDG_CACHE_HOME } = process.env;
  return BUN_GRPO_CACHE || join(XDG_CACHE_HOME || join(homedir(), ".cache"), "bun-grpo");
}

interface Compiler {
  readonly command: string;
  readonly version: string;
}

function findCompiler(): Compiler {
  const tried = [process.env.CXX, "c++", "g++", "clang++"].filter((name): name is string => !!name);
  for (const command of tried) {
    if (!Bun.which(command)) continue;
    const result = Bun.spawnSync([command, "--version"]);
    if (result.success) return { command, version: result.stdout.toString().split("\n")[0] ?? "" };
  }
  throw new RunError(
    `the CPU kernels need a C++20 compiler and none of ${tried.join(", ")} runs; install one (Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install) or set CXX`,
  );
}

function sourceFiles(): string[] {
  return readdirSync(assetPath("ffi/cpu"))
    .filter((name) => /\.(cpp|h)$/.test(name))
    .sort();
}

async function compile(command: readonly string[]): Promise<void> {
  const child = Bun.spawn([...command], { stdout: "ignore", stderr: "pipe" });
  const [stderr, code] = await Promise.all([new Response(child.stderr).text(), child.exited]);
  if (code === 0) return;
  const reason = stderr.split("\n").find((line) => /error|fatal/.test(line)) ?? stderr.trim();
  throw new RunError(`the CPU kernels did not compile: ${command.join(" ")}: ${reason} (GCC 11 or Clang 14 is needed)`);
}

/** Whether compiler and assembler know the path's instructions (GCC 11 and Clang 12 know all). */
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
  return (await Bun.spawn(command, { stdout: "ignore", stderr: "ignore" }).exited) === 0;
}

/** Runs `jobs` with at most one per core at a time. */
async function runAll(jobs: (() => Promise<void>)[]): Promise<void> {
  const queue = [...jobs];
  const workers = Array.from({ length: Math.min(jobs.length, navigator.hardwareConcurrency) }, async () => {
    for (let job = queue.shift(); job; job = queue.shift()) await job();
  });
  await Promise.all(workers);
}

export interface BuildResult {
  readonly library: string;
  readonly compiler: string;
  /** Seconds the compiler took; 0 when the library was in the cache. */
  readonly seconds: number;
}

/**
 * The path of the kernel library, built now unless it is cached.
 *
 * Two processes that start at once both build, each in a folder of its own; the second rename replaces an equal file.
 *
 * @throws RunError without a compiler, when compiling fails, or when the cache folder cannot be written.
 */
export async function buildKernels(onBuild?: () => void): Promise<BuildResult> {
  const compiler = findCompiler();
  const hash = new Bun.CryptoHasher("sha256");
  hash.update(JSON.stringify([compiler, common, pathFlags, productPaths, process.arch, process.platform]));
  const folder = assetPath("ffi/cpu");
  for (const name of sourceFiles()) hash.update(`${name}\0`).update(readFileSync(join(folder, name)));
  const key = hash.digest("hex").slice(0, 16);
  const cache = cacheFolder();
  const library = join(cache, `libgrpo-cpu-${key}.so`);
  if (existsSync(library)) return { library, compiler: compiler.version, seconds: 0 };

  onBuild?.();
  const start = performance.now();
  let build: string;
  try {
    mkdirSync(cache, { recursive: true });
    build = mkdtempSync(join(cache, "build-"));
  } catch (error) {
    throw new RunError(`${cache}: cannot be written (${errorText(error)}); set BUN_GRPO_CACHE to a folder that can`);
  }
  try {
    const known = await Promise.all(productPaths.map((path) => knows(compiler, path, build)));
    const products = productPaths.filter((_, i) => known[i]);
    const units: [object: string, command: string[]][] = [
      ...Object.entries(pathFlags).map(([name, flags]): [string, string[]] => [
        join(build, `${name}.o`),
        [...flags, `-DKERNEL_PATH=path_${name}`, join(folder, "path.cpp")],
      ]),
      ...products.map(({ name, flags, defines }): [string, string[]] => [
        join(build, `${name}.o`),
        [...flags, ...defines, `-DKERNEL_PATH=path_${name}`, join(folder, "path_bf16.cpp")],
      ]),
      [
        join(build, "dispatch.o"),
        [...products.map(({ name }) => `-DHAVE_${name.toUpperCase()}`), join(folder, "dispatch.cpp")],
      ],
      [join(build, "threads.o"), [join(folder, "threads.cpp")]],
    ];
    await runAll(
      units.map(
        ([object, rest]) =>
          () =>
            compile([compiler.command, ...common, ...rest, "-c", "-o", object]),
      ),
    );
    const linked = join(build, "kernels.so");
    await compile([compiler.command, "-shared", "-pthread", ...units.map(([object]) => object), "-o", linked]);
    renameSync(linked, library);
  } finally {
    rmSync(build, { recursive: true, force: true });
  }
  return { library, compiler: compiler.version, seconds: (performance.now() - start) / 1000 };
}

// `bun ffi/cpu/build.ts`: builds now what would be built at first use.
if (import.meta.main) {
  try {
    await buildKernels(() => process.stderr.write("compiling the CPU kernels for this machine (once)\n"));
  } catch (error) {
    process.stderr.write(`${errorText(error)}\n`);
    process.exit(1);
  }
}
