// `bun run emulated`: the command's exit status, or 2 with instructions if a kernel cannot be compiled.
import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { buildKernels } from "../../ffi/bindings/cpu.ts";
import { buildEmulator } from "./build.ts";

setDefaultTimeout(300_000);

function emulated(args: readonly string[], env: Record<string, string> = {}) {
  const command = [process.execPath, join(import.meta.dir, "run.ts"), ...args];
  const child = Bun.spawnSync(command, { env: { ...process.env, ...env } });
  return { status: child.exitCode, stdout: child.stdout.toString(), stderr: child.stderr.toString() };
}

test("passes the exit status on, and the command finds the emulated libraries", async () => {
  const { folder } = await buildEmulator();
  expect(emulated(["no-such-command"]).status).toBe(2);
  const doctor = emulated(["doctor"]);
  expect(doctor.stdout).toContain(join(folder, "libcuda.so.1"));
  expect(doctor.stdout).toContain("Emulated GPU sm_80");
});

test("a kernel without a recording or NVRTC gives status 2 and the cure", async () => {
  const cache = mkdtempSync(join(tmpdir(), "emulated-cache-"));
  try {
    // A cache that has the libraries, but no kernels of an earlier run.
    for (const built of [(await buildEmulator()).folder, (await buildKernels()).library])
      symlinkSync(built, join(cache, basename(built)));
    const recordings = join(cache, "none");
    mkdirSync(recordings);
    const env = { BUN_GRPO_CACHE: cache, EMULATOR_RECORDINGS: recordings, EMULATOR_NVRTC: "" };
    const { status, stderr } = emulated(["generate", "--device", "cuda", "--prompt", "1 + 1 ="], env);
    expect(stderr).toContain("NVIDIA's compiler (NVRTC) is needed");
    expect(stderr).toContain("bun test/cuda/gates/fetch-nvrtc.ts");
    expect(status).toBe(2);
  } finally {
    rmSync(cache, { recursive: true, force: true });
  }
});
