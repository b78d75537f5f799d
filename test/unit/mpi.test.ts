/** Which library of MPI is loaded, and what is said where there is none. The real ones are in test/mpi/ranks.long.ts. */
import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mpiCandidates, openMpi } from "../../ffi/bindings/mpi.ts";
import { InputError } from "../../src/errors.ts";

const folder = mkdtempSync(join(tmpdir(), "grpo-mpi-"));
afterAll(() => rmSync(folder, { recursive: true }));

for (const name of ["bin", "lib"]) mkdirSync(join(folder, name));
writeFileSync(join(folder, "bin/mpirun"), "", { mode: 0o755 });
for (const name of ["libmpi.so.12", "libmpi_abi.so.1", "libmpi.so.40"]) writeFileSync(join(folder, "lib", name), "");
const env = { PATH: join(folder, "bin") };
/** A process that cannot be looked at. */
const launcher = 2 ** 30;

test("the library beside mpirun comes first, MPI's own interface before MPICH's, then the loader's places", () => {
  expect(mpiCandidates("MPICH", { env, launcher })).toEqual([
    join(folder, "lib/libmpi_abi.so.1"),
    join(folder, "lib/libmpi.so.12"),
    ...["libmpi_abi.so.1", "libmpi.so.12", "libmpich.so.12"],
  ]);
  expect(mpiCandidates("Open MPI", { env, launcher })).toEqual([join(folder, "lib/libmpi.so.40"), "libmpi.so.40"]);
  expect(mpiCandidates("Open MPI", { env: {}, launcher })).toEqual(["libmpi.so.40"]);
});

test("the variable is the only place", () => {
  expect(mpiCandidates("MPICH", { env: { ...env, BUN_GRPO_MPI: "/x/libmpi.so" }, launcher })).toEqual(["/x/libmpi.so"]);
});

test("a library that cannot be loaded is named, with both cures", () => {
  const path = join(folder, "lib/libmpi.so.40");
  const load = () => openMpi("Open MPI", { env: { BUN_GRPO_MPI: path }, launcher });
  expect(load).toThrow(InputError);
  expect(load).toThrow(
    /^this process was started by Open MPI, whose library cannot be loaded \(.*libmpi\.so\.40: file too short\); name it in BUN_GRPO_MPI, or set MASTER_ADDR and MASTER_PORT, and ranks meet without MPI$/,
  );
});
