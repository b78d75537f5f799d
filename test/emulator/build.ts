/**
 * Builds the emulated CUDA libraries, and the null ones that do nothing, into one folder of the cache, named by the hash of
 * sources, flags and compiler. Leaves out kernels, which the PTX engine compiles later.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bindLibrary } from "../../ffi/bindings/bind.ts";
import { nativeBlock } from "../../ffi/bindings/native.ts";
import { type Compiler, compile, findCompiler, inBuildFolder, runAll } from "../../ffi/compiler.ts";
import { assetPath } from "../../src/assets.ts";
import { cacheFolder } from "../../src/cache.ts";
import { errorText, RunError } from "../../src/errors.ts";
import { unpackRecordings } from "./recordings.ts";

const what = "the libraries of the emulated GPU";

const common = [
  "-std=c++20",
  "-fPIC",
  "-fvisibility=hidden",
  "-ffp-contract=off", // the same bits from every compiler
  "-fwrapv",
  "-fno-strict-aliasing",
  "-pthread",
];

/**
 * One object. Small sources are compiled together, since headers take most of the time; names in their unnamed namespaces must
 * then differ.
 */
interface Unit {
  readonly sources: readonly string[];
  readonly flags: readonly string[];
}

interface Library {
  readonly name: string;
  readonly units: readonly Unit[];
  /** Calls into the emulated driver. */
  readonly needsDriver?: boolean;
}

/**
 * Not the file's name: a process finds a loaded library by its soname, wherever the file is, so a test that opened the emulated
 * GPU would leave one behind for every later `--device auto`.
 */
const soname = (name: string) => `emulated-${name.replace("/", "-")}`;

const root = assetPath("test/emulator");

function sourcesIn(folder: string): string[] {
  return readdirSync(join(root, folder))
    .filter((name) => name.endsWith(".cpp"))
    .sort()
    .map((name) => `${folder}/${name}`);
}

const together = (sources: readonly string[], optimisation = "-O1"): Unit => ({ sources, flags: [optimisation] });

function libraries(): Library[] {
  const product = together(["cublas/gemm.cpp"], "-O3");
  return [
    {
      name: "libcuda.so.1",
      units: [
        together(sourcesIn("driver")),
        together(sourcesIn("ptx")),
        ...sourcesIn("runtime").map((source) => together([source], "-O2")), // code that runs with every launch
      ],
    },
    {
      name: "libcublas.so.13",
      units: [product, together(["cublas/check.cpp", "cublas/cublas.cpp"])],
      needsDriver: true,
    },
    {
      name: "libcublasLt.so.13",
      units: [product, together(["cublas/check.cpp", "cublas/cublaslt.cpp"])],
      needsDriver: true,
    },
    { name: "libnccl.so.2", units: [together(sourcesIn("nccl"))], needsDriver: true },
    { name: "libnvrtc.so.13", units: [together(sourcesIn("nvrtc"))] },
    ...["libcuda.so.1", "libcublas.so.13", "libcublasLt.so.13", "libnvrtc.so.13"].map((name) => ({
      name: `null/${name}`,
      units: [together([`null/${/^lib(\w+)/.exec(name)?.[1]?.toLowerCase()}.cpp`])],
    })),
  ];
}

export interface EmulatorBuild {
  /** Holds libcuda.so.1, libcublas.so.13, libcublasLt.so.13, libnccl.so.2, libnvrtc.so.13 and recordings/. */
  readonly folder: string;
  /** The same names but NCCL's, doing nothing: for measuring the host's share of the time. */
  readonly nullFolder: string;
  /** Seconds of compilation; 0 if the libraries were in the cache. */
  readonly seconds: number;
}

/**
 * The folder of the emulated libraries, built now unless it is cached.
 *
 * Two processes that start at once both build, each in its own folder; the second then finds the first one's in place.
 *
 * @throws RunError without a compiler, if compiling fails, or if the cache folder cannot be written
 */
export async function buildEmulator(onBuild?: () => void): Promise<EmulatorBuild> {
  const compiler = findCompiler(what);
  const wanted = libraries();
  const names = wanted.map(({ name }) => soname(name));
  const hash = new Bun.CryptoHasher("sha256").update(JSON.stringify([compiler, common, wanted, names, process.arch]));
  for (const name of ["engine.h", ...["driver", "ptx", "runtime", "cublas", "nccl", "nvrtc", "null"].flatMap(allIn)])
    hash.update(`${name}\0`).update(readFileSync(join(root, name)));
  const folder = join(cacheFolder(), `emulator-${hash.digest("hex").slice(0, 16)}`);
  const start = performance.now();
  const cached = existsSync(folder);
  if (!cached) {
    onBuild?.();
    await inBuildFolder([], (build) => buildInto(folder, build, compiler, wanted));
  }
  unpackRecordings(join(folder, "recordings"));
  return { folder, nullFolder: join(folder, "null"), seconds: cached ? 0 : (performance.now() - start) / 1000 };
}

function allIn(folder: string): string[] {
  return readdirSync(join(root, folder))
    .filter((name) => /\.(cpp|h)$/.test(name))
    .sort()
    .map((name) => `${folder}/${name}`);
}

/** Makes the libraries in `build` and renames them to `folder`. */
async function buildInto(
  folder: string,
  build: string,
  { command }: Compiler,
  wanted: readonly Library[],
): Promise<void> {
  const result = join(build, "result");
  mkdirSync(join(result, "null"), { recursive: true });
  const objects = new Map<string, string>(); // by content: a compilation unit may be used by two libraries
  const jobs: (() => Promise<void>)[] = [];
  const objectOf = (unit: Unit): string => {
    const key = JSON.stringify(unit);
    const known = objects.get(key);
    if (known) return known;
    const object = join(build, `${objects.size}.o`);
    const source = join(build, `${objects.size}.cpp`);
    writeFileSync(source, unit.sources.map((name) => `#include "${join(root, name)}"\n`).join(""));
    jobs.push(() => compile(what, [command, ...common, ...unit.flags, "-c", source, "-o", object]));
    objects.set(key, object);
    return object;
  };
  const linked = wanted.map(({ units }) => units.map(objectOf));
  await runAll(jobs);
  for (const [i, { name, needsDriver }] of wanted.entries()) {
    const driver = needsDriver ? [join(result, "libcuda.so.1"), "-Wl,-rpath,$ORIGIN"] : [];
    const flags = ["-shared", "-pthread", `-Wl,-soname,${soname(name)}`, "-Wl,-z,defs"];
    await compile(what, [command, ...flags, ...linked[i]!, ...driver, "-ldl", "-o", join(result, name)]);
  }
  symlinkSync("libcuda.so.1", join(result, soname("libcuda.so.1"))); // where the others look for the driver
  try {
    renameSync(result, folder);
  } catch (error) {
    if (!existsSync(folder)) throw error; // another process was first
  }
}

/**
 * Compiles every recorded kernel that is not in the cache yet, on all cores; otherwise tests compile them one by one as they
 * load.
 */
export function precompileRecordings(folder: string): void {
  const recordings = join(folder, "recordings");
  const names = existsSync(recordings) ? readdirSync(recordings).filter((name) => name.endsWith(".ptx")) : [];
  const paths = names.map((name) => join(recordings, name));
  const table = nativeBlock(8 * (paths.length + 1) + paths.reduce((sum, path) => sum + Buffer.byteLength(path) + 1, 0));
  let end = 8 * (paths.length + 1);
  for (const [i, path] of paths.entries()) {
    table.setU64(8 * i, table.setText(end, path));
    end += Buffer.byteLength(path) + 1;
  }
  const signatures = { emulator_precompile: "paths:ptr count:i32 jobs:i32" };
  const { emulator_precompile } = bindLibrary(join(folder, "libcuda.so.1"), signatures, [], null);
  const failures = emulator_precompile(table.address, paths.length, navigator.hardwareConcurrency);
  table.free();
  if (failures > 0) throw new RunError(`${failures} of ${paths.length} recorded kernels did not compile`);
}

// `bun test/emulator/build.ts` builds what would otherwise be built at first use, and prints its folder; with `--kernels` it
// also builds the recorded kernels.
if (import.meta.main) {
  try {
    const { folder } = await buildEmulator(() => process.stderr.write("compiling the emulated GPU (once)\n"));
    if (process.argv.includes("--kernels")) precompileRecordings(folder);
    process.stdout.write(`${folder}\n`);
  } catch (error) {
    process.stderr.write(`${errorText(error)}\n`);
    process.exit(1);
  }
}
