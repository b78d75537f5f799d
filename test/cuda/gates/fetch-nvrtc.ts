/**
 * NVIDIA's compiler without a GPU or a toolkit: the pinned wheels, unpacked by pip into the cache folder, never into the
 * repository. Prints the folder of the libraries; `--cublas` also fetches cuBLAS (445 MB), `--nccl` NCCL (200 MB), `--older` the older compilers (200
 * MB).
 *
 * pip unpacks into a temporary folder that is then renamed, so an interrupted fetch leaves nothing behind, and two at once are
 * harmless.
 */
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type Nvrtc, openNvrtc } from "../../../ffi/bindings/nvrtc.ts";
import { cacheFolder, madeInCache } from "../../../src/cache.ts";
import { errorText, InputError } from "../../../src/errors.ts";

interface Wheels {
  readonly requirements: string;
  /** Location of the wheels' libraries and programs once unpacked. */
  readonly inside: string;
  /** A file that must exist afterwards. */
  readonly library: string;
}

const cuda13 = "nvidia/cu13";
const nvrtc: Wheels = { requirements: "requirements.txt", inside: cuda13, library: "libnvrtc.so.13" };
/** The newest compiler's version, as it reports it: "13.5". */
export const newestVersion = pinnedVersion(nvrtc);
const cublas: Wheels = { requirements: "requirements-cublas.txt", inside: cuda13, library: "libcublasLt.so.13" };
const nccl: Wheels = { requirements: "requirements-nccl.txt", inside: "nvidia/nccl", library: "libnccl.so.2" };

/** A compiler in use that is not the newest. */
export interface OlderCompiler {
  readonly version: string;
  /** Architectures to compile for: each takes half a minute of one core, so not all of them. */
  readonly architectures: readonly number[];
  readonly wheels: Wheels;
  /** Why it does not run on this machine; null if it does. */
  readonly absent: string | null;
}

const cuda12 = { inside: "nvidia/cuda_nvrtc", library: "libnvrtc.so.12" };
export const olderCompilers: readonly OlderCompiler[] = [
  {
    version: "12.0",
    architectures: [80, 90],
    wheels: { requirements: "requirements-12.0.txt", ...cuda12 },
    absent: process.arch === "x64" ? null : "NVIDIA publishes it only for x86-64",
  },
  {
    version: "12.8",
    architectures: [89, 120],
    wheels: { requirements: "requirements-12.8.txt", ...cuda12 },
    absent: null,
  },
  {
    version: "13.0",
    architectures: [90],
    wheels: { requirements: "requirements-13.0.txt", inside: cuda13, library: "libnvrtc.so.13" },
    absent: null,
  },
];

function pinnedVersion({ requirements }: Wheels): string {
  const text = readFileSync(join(import.meta.dir, requirements), "utf8");
  const version = /^nvidia-cuda-nvrtc\S*==(\d+\.\d+)/m.exec(text)?.[1];
  if (version === undefined) throw new Error(`${requirements}: pins no nvidia-cuda-nvrtc`);
  return version;
}

/** The compiler in `folder`. @throws Error if it is not the one to be checked */
export function openPinned(folder: string, version: string): Nvrtc {
  const nvrtc = openNvrtc({ folder });
  if (nvrtc.version === version) return nvrtc;
  throw new Error(`${nvrtc.path}: NVRTC ${nvrtc.version}, and ${version} is to be checked; delete ${folder}`);
}

function folderOf(wheels: Wheels): string {
  const text = readFileSync(join(import.meta.dir, wheels.requirements), "utf8");
  const key = new Bun.CryptoHasher("sha256").update(text).digest("hex").slice(0, 12);
  const name = wheels.requirements.replace(/\.txt$/, "").replace("requirements", "wheels");
  return join(cacheFolder(), "nvidia", `${name}-${key}`);
}

/** @throws InputError if pip or the network is missing, or a wheel's hash differs */
async function unpack(wheels: Wheels): Promise<string> {
  const { inside } = wheels;
  const folder = folderOf(wheels);
  if (existsSync(join(folder, inside, "lib", wheels.library))) return folder;
  if (process.platform !== "linux") throw new InputError(`NVIDIA's wheels are for Linux; this is ${process.platform}`);
  const python = ["python3", "python"].find((name) => Bun.which(name));
  if (python === undefined)
    throw new InputError("NVIDIA's compiler is fetched by pip and there is no python3; install it");
  const target = mkdtempSync(join(madeInCache("nvidia"), "fetch-"));
  try {
    const options = "--no-deps --only-binary=:all: --require-hashes --disable-pip-version-check --no-input --quiet";
    const child = Bun.spawn(
      [
        ...[python, "-m", "pip", "install", ...options.split(" "), "--no-warn-script-location"],
        ...["--target", target, "-r", join(import.meta.dir, wheels.requirements)],
      ],
      { stdout: "ignore", stderr: "pipe" },
    );
    const [stderr, code] = await Promise.all([new Response(child.stderr).text(), child.exited]);
    if (code !== 0) {
      const lines = stderr.trim().split("\n");
      const reason = lines.findLast((line) => /error|no module named pip/i.test(line)) ?? lines.at(-1) ?? "";
      throw new InputError(
        `NVIDIA's wheels (${wheels.requirements}) could not be fetched: ${reason}; it needs pip and the network, or an index that has them (PIP_INDEX_URL)`,
      );
    }
    // A wheel does not always mark its programs as executable.
    const programs = join(target, inside, "bin");
    if (existsSync(programs)) for (const name of readdirSync(programs)) chmodSync(join(programs, name), 0o755);
    rmSync(folder, { recursive: true, force: true });
    try {
      renameSync(target, folder);
    } catch (error) {
      // Another fetch was faster: its folder holds the same files.
      if (!existsSync(join(folder, inside, "lib", wheels.library))) throw error;
    }
  } finally {
    rmSync(target, { recursive: true, force: true });
  }
  return folder;
}

/**
 * The folder that holds `libnvrtc.so.13`, fetched now unless it is cached.
 *
 * @throws InputError naming what is missing
 */
export async function fetchNvrtc(): Promise<string> {
  return join(await unpack(nvrtc), cuda13, "lib");
}

/** The folder that holds the library of an older compiler. @throws InputError as `fetchNvrtc` */
export async function fetchOlder({ wheels }: OlderCompiler): Promise<string> {
  return join(await unpack(wheels), wheels.inside, "lib");
}

/** The folder that holds `libcublas.so.13` and `libcublasLt.so.13`. @throws InputError as `fetchNvrtc` */
export async function fetchCublas(): Promise<string> {
  return join(await unpack(cublas), cuda13, "lib");
}

/** The folder that holds `libnccl.so.2`. @throws InputError as `fetchNvrtc` */
export async function fetchNccl(): Promise<string> {
  return join(await unpack(nccl), nccl.inside, "lib");
}

function fetched(wheels: Wheels): string | undefined {
  const folder = join(folderOf(wheels), wheels.inside, "lib");
  return existsSync(join(folder, wheels.library)) ? folder : undefined;
}

/** The folder of `libnvrtc.so.13` if it was fetched before; no network. */
export const fetchedNvrtc = (): string | undefined => fetched(nvrtc);

/** The folder of cuBLAS if it was fetched before; no network. */
export const fetchedCublas = (): string | undefined => fetched(cublas);

/** The folder of NCCL if it was fetched before; no network. */
export const fetchedNccl = (): string | undefined => fetched(nccl);

/** Path of `cuobjdump` or `nvdisasm`. */
export async function fetchProgram(name: "cuobjdump" | "nvdisasm"): Promise<string> {
  return join(await unpack(nvrtc), cuda13, "bin", name);
}

if (import.meta.main) {
  try {
    console.log(await fetchNvrtc());
    if (process.argv.includes("--cublas")) console.log(await fetchCublas());
    if (process.argv.includes("--nccl")) console.log(await fetchNccl());
    if (process.argv.includes("--older"))
      for (const compiler of olderCompilers) if (compiler.absent === null) console.log(await fetchOlder(compiler));
  } catch (error) {
    process.stderr.write(`${errorText(error)}\n`);
    process.exit(error instanceof InputError ? 2 : 1);
  }
}
