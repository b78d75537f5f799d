/**
 * NVIDIA's compiler without a GPU and without a toolkit: the pinned wheels, unpacked by pip into the cache folder, never
 * into the repository. Prints the folder of the libraries; with `--cublas` also fetches cuBLAS (445 MB).
 *
 * What pip unpacks goes to a folder of its own and is renamed into place, so an interrupted fetch leaves nothing behind
 * and two at once do no harm.
 */
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { cacheFolder, madeInCache } from "../../../src/cache.ts";
import { errorText, InputError } from "../../../src/errors.ts";

interface Wheels {
  readonly requirements: string;
  /** A file that must be there afterwards. */
  readonly library: string;
}

const nvrtc: Wheels = { requirements: "requirements.txt", library: "libnvrtc.so.13" };
const cublas: Wheels = { requirements: "requirements-cublas.txt", library: "libcublasLt.so.13" };

/** Where the wheels' libraries and programs lie once unpacked. */
const inside = "nvidia/cu13";

function folderOf(wheels: Wheels): string {
  const text = readFileSync(join(import.meta.dir, wheels.requirements), "utf8");
  const key = new Bun.CryptoHasher("sha256").update(text).digest("hex").slice(0, 12);
  const name = wheels.requirements.replace(/\.txt$/, "").replace("requirements", "wheels");
  return join(cacheFolder(), "nvidia", `${name}-${key}`);
}

/** @throws InputError when pip is missing, the network is, or a wheel's hash is another */
async function unpack(wheels: Wheels): Promise<string> {
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
    // A wheel does not always say that a program may be run.
    const programs = join(target, inside, "bin");
    if (existsSync(programs)) for (const name of readdirSync(programs)) chmodSync(join(programs, name), 0o755);
    rmSync(folder, { recursive: true, force: true });
    try {
      renameSync(target, folder);
    } catch (error) {
      // Another fetch was quicker: its folder holds the same files.
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
 * @throws InputError saying what is missing
 */
export async function fetchNvrtc(): Promise<string> {
  return join(await unpack(nvrtc), inside, "lib");
}

/** The folder that holds `libcublas.so.13` and `libcublasLt.so.13`. @throws InputError as `fetchNvrtc` */
export async function fetchCublas(): Promise<string> {
  return join(await unpack(cublas), inside, "lib");
}

function fetched(wheels: Wheels): string | undefined {
  const folder = join(folderOf(wheels), inside, "lib");
  return existsSync(join(folder, wheels.library)) ? folder : undefined;
}

/** The folder of `libnvrtc.so.13` where it was fetched before; no network. */
export const fetchedNvrtc = (): string | undefined => fetched(nvrtc);

/** The folder of cuBLAS where it was fetched before; no network. */
export const fetchedCublas = (): string | undefined => fetched(cublas);

/** Path of `cuobjdump` or `nvdisasm`. */
export async function fetchProgram(name: "cuobjdump" | "nvdisasm"): Promise<string> {
  return join(await unpack(nvrtc), inside, "bin", name);
}

if (import.meta.main) {
  try {
    console.log(await fetchNvrtc());
    if (process.argv.includes("--cublas")) console.log(await fetchCublas());
  } catch (error) {
    process.stderr.write(`${errorText(error)}\n`);
    process.exit(error instanceof InputError ? 2 : 1);
  }
}
