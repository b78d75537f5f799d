/**
 * Finds and loads NVIDIA's shared libraries: from a toolkit, conda, a Python environment or the driver, in versions 13 and 12.
 * The tables of symbols are in cuda.ts, cublas.ts, nvrtc.ts and nccl.ts. Linux only: NVIDIA has no driver for macOS.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { homeFolder } from "../../src/cache.ts";
import { RunError } from "../../src/errors.ts";
import { entries, pythonFolders } from "./python-environments.ts";
import { systemLoader } from "./system-loader.ts";

/** Versions that the bindings support; the first one found is used. */
export const majorVersions: readonly number[] = [13, 12];

/** A library is missing: the names and places that were searched. */
export class MissingLibraryError extends RunError {
  readonly library: string;
  readonly searched: readonly string[];

  constructor(library: string, searched: readonly string[], cure: string, reason = "not found") {
    super(`${library}: ${reason}; looked in ${searched.join(", ")}; ${cure}`);
    this.library = library;
    this.searched = searched;
  }
}

/** A call that returned a status other than success. */
export class NvidiaCallError extends RunError {
  /** C name of the function. */
  readonly call: string;
  readonly status: number;
  /** Such as CUDA_ERROR_OUT_OF_MEMORY. */
  readonly statusName: string;

  constructor(call: string, status: number, statusName: string, text: string, cure: string) {
    super(`${call}: ${[statusName, text].filter(Boolean).join(": ") || `status ${status}`}; ${cure}`);
    this.call = call;
    this.status = status;
    this.statusName = statusName;
  }
}

export interface SearchOptions {
  /** Searched before all others. */
  readonly folder?: string | null;
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Replaces `/` in the fixed places; for tests. */
  readonly root?: string;
  /** The working folder: a Python project's environment is beside it or above it. */
  readonly cwd?: string;
}

export interface FoundLibrary {
  /** File, or the bare name that the loader resolved. */
  readonly path: string;
  readonly major: number;
}

const loaderPath = "the loader's path (LD_LIBRARY_PATH, ldconfig)";

/** The library folders of a toolkit installed in one piece. */
function toolkitFolders(home: string): string[] {
  const target = process.arch === "arm64" ? "sbsa-linux" : "x86_64-linux";
  return [join(home, "lib64"), join(home, "targets", target, "lib"), join(home, "lib")];
}

/** Folders in search order, after `options.folder` and the loader's own path. */
export function libraryFolders({ env = process.env, root = "/", cwd = process.cwd() }: SearchOptions = {}): string[] {
  const homes = [env.CUDA_HOME, env.CUDA_PATH].filter((home): home is string => !!home);
  const installed = entries(join(root, "usr/local"), /^cuda/);
  return [
    ...homes.flatMap(toolkitFolders),
    ...installed.flatMap(toolkitFolders),
    ...(env.CONDA_PREFIX ? [join(env.CONDA_PREFIX, "lib")] : []),
    ...pythonFolders({ env, root, cwd, home: env.HOME || homeFolder() }),
  ];
}

/** Where the driver is, outside the loader's path: WSL, containers, NixOS. */
export function driverFolders({ root = "/" }: SearchOptions = {}): string[] {
  const folders = ["usr/lib/wsl/lib", "usr/local/nvidia/lib64", "usr/local/nvidia/lib", "run/opengl-driver/lib"];
  return folders.map((folder) => join(root, folder));
}

/**
 * Finds a library, in the newest version whose file has all of `beside` next to it: any version in `options.folder`, since
 * whoever names a folder means its contents; then for each version the loader's path and `folders`.
 *
 * @throws MissingLibraryError that lists every place
 */
export function findLibrary(
  name: string,
  versions: readonly number[],
  folders: readonly string[],
  options: SearchOptions,
  beside: (major: number) => readonly string[],
  cure: string,
): FoundLibrary {
  const file = (major: number) => `${name}.so.${major}`;
  const complete = (folder: string, major: number) =>
    existsSync(join(folder, file(major))) &&
    beside(major).every((other) => readdirSync(folder).some((entry) => entry.startsWith(other)));
  const given = options.folder ? [options.folder] : [];
  for (const folder of given)
    for (const major of versions) if (complete(folder, major)) return { path: join(folder, file(major)), major };
  let reason = "not found";
  for (const major of versions) {
    const loaded = systemLoader().load(file(major));
    if (typeof loaded === "number") return { path: file(major), major };
    if (!/cannot open shared object file|No such file/.test(loaded)) reason = loaded;
    const found = folders.find((folder) => complete(folder, major));
    if (found) return { path: join(found, file(major)), major };
  }
  const named = versions.map(file).join(" or ");
  throw new MissingLibraryError(named, [...given, loaderPath, ...folders], cure, reason);
}

/** The file a library was loaded from, according to the process's memory map; else the name itself. */
export function loadedFile(path: string): string {
  if (path.includes("/")) return path;
  const maps = "/proc/self/maps";
  if (!existsSync(maps)) return path;
  const line = readFileSync(maps, "utf8")
    .split("\n")
    .find((entry) => entry.includes(`/${path}`));
  return line?.slice(line.indexOf("/")) ?? path;
}

/** Loads a library that the next one needs by its bare name. @throws RunError with the loader's own reason */
export function preload(path: string): void {
  const loaded = systemLoader().load(path);
  if (typeof loaded === "string")
    throw new RunError(`${path}: cannot be loaded (${loaded}); install the library again`);
}
