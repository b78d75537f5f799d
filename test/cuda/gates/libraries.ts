/**
 * NVIDIA's own cuBLAS and NVRTC, from their wheels, through the product's bindings: they load, every symbol exists, and the
 * message on a machine without a driver. A separate process, since loaded libraries stay loaded.
 */
import { openCublas } from "../../../ffi/bindings/cublas.ts";
import { openDriver } from "../../../ffi/bindings/cuda.ts";
import { openNvrtc } from "../../../ffi/bindings/nvrtc.ts";
import { errorText } from "../../../src/errors.ts";
import { fetchCublas, fetchNvrtc } from "./fetch-nvrtc.ts";

/** Three checks; each failure in words. */
async function check(): Promise<string[]> {
  const [cublas, nvrtc] = [await fetchCublas(), await fetchNvrtc()];
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
  try {
    openDriver({ folder: cublas }); // also for a machine with a driver
  } catch (error) {
    const text = errorText(error);
    if (!/libcuda\.so\.1.* not found; looked in .*; install NVIDIA's driver/.test(text)) faults.push(`driver: ${text}`);
  }
  return faults;
}

/** @throws Error if the check itself fails */
export async function libraryFaults(): Promise<{ checks: number; faults: string[] }> {
  const child = Bun.spawn([process.execPath, import.meta.path], { stdout: "pipe", stderr: "pipe" });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) return { checks: 3, faults: [err.trim() || `ended with exit status ${code}`] };
  return { checks: 3, faults: JSON.parse(out) as string[] };
}

if (import.meta.main) console.log(JSON.stringify(await check()));
