/**
 * NVIDIA's own cuBLAS, NVRTC and NCCL, from their wheels, through the product's bindings: they load, every symbol exists, and the
 * message on a machine without a driver. A separate process, since loaded libraries stay loaded.
 */
import { openCublas } from "../../../ffi/bindings/cublas.ts";
import { openDriver } from "../../../ffi/bindings/cuda.ts";
import { openNccl } from "../../../ffi/bindings/nccl.ts";
import { openNvrtc } from "../../../ffi/bindings/nvrtc.ts";
import { errorText } from "../../../src/errors.ts";
import { fetchCublas, fetchNccl, fetchNvrtc } from "./fetch-nvrtc.ts";

const CHECKS = 5;

/** Each failure in words. */
async function check(): Promise<string[]> {
  const [cublas, nvrtc, nccl] = [await fetchCublas(), await fetchNvrtc(), await fetchNccl()];
  const faults: string[] = [];
  const attempt = (what: string, work: () => unknown) => {
    try {
      work();
    } catch (error) {
      faults.push(`${what}: ${errorText(error)}`);
    }
  };
  attempt("cuBLAS and cuBLASLt", () => openCublas({ folder: cublas }));
  attempt("NVRTC", () => openNvrtc({ folder: nvrtc }));
  attempt("NCCL", () => {
    const { createId } = openNccl({ folder: nccl });
    if (Buffer.from(createId()).equals(Buffer.from(createId()))) throw new Error("two groups have the same id");
  });
  if (hasNoDriver(cublas))
    try {
      const library = openNccl({ folder: nccl });
      library.begin(library.createId(), 0, 1);
      faults.push("NCCL joins a group without a driver");
    } catch (error) {
      // The arguments, and the structure of settings among them, have been accepted by then.
      if (!/unhandled cuda error|CUDA driver/.test(errorText(error))) faults.push(`NCCL: ${errorText(error)}`);
    }
  try {
    openDriver({ folder: cublas }); // also for a machine with a driver
  } catch (error) {
    const text = errorText(error);
    if (!/libcuda\.so\.1.* not found; looked in .*; install NVIDIA's driver/.test(text)) faults.push(`driver: ${text}`);
  }
  return faults;
}

function hasNoDriver(folder: string): boolean {
  try {
    openDriver({ folder });
    return false;
  } catch {
    return true;
  }
}

/** @throws Error if the check itself fails */
export async function libraryFaults(): Promise<{ checks: number; faults: string[] }> {
  const child = Bun.spawn([process.execPath, import.meta.path], { stdout: "pipe", stderr: "pipe" });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) return { checks: CHECKS, faults: [err.trim() || `ended with exit status ${code}`] };
  return { checks: CHECKS, faults: JSON.parse(out) as string[] };
}

if (import.meta.main) console.log(JSON.stringify(await check()));
