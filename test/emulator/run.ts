/**
 * `bun run emulated COMMAND …`: `grpo COMMAND …` on the emulated GPU, the product unchanged. Checks are off unless
 * EMULATOR_CHECK=1; the environment can set every option of the emulator. Passes the exit status on; 1 if the emulator reported
 * a fault, 2 if a kernel needs NVIDIA's compiler, which could not be fetched.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { assetPath } from "../../src/assets.ts";
import { errorText } from "../../src/errors.ts";
import { buildEmulator } from "./build.ts";

/** Findings about speed, reported by checks; they do not affect the exit status. */
const advisory = /^(bank-conflict|uncoalesced): /;

async function run(args: readonly string[]): Promise<number> {
  const { folder } = await buildEmulator(() => process.stderr.write("compiling the emulated GPU (once)\n"));
  const notes = mkdtempSync(join(tmpdir(), "emulated-"));
  const reports = process.env.EMULATOR_REPORTS || join(notes, "reports");
  const missing = join(notes, "missing");
  const before = linesOf(reports).length;
  try {
    const child = Bun.spawn([process.execPath, assetPath("src/cli/main.ts"), ...args], {
      stdin: "inherit",
      stdout: "inherit",
      stderr: "inherit",
      env: {
        EMULATOR_CHECK: "0",
        EMULATOR_THREADS: "2",
        EMULATOR_FETCH: `'${process.execPath}' '${assetPath("test/cuda/gates/fetch-nvrtc.ts")}'`,
        ...process.env,
        EMULATOR_REPORTS: reports,
        EMULATOR_MISSING: missing,
        LD_LIBRARY_PATH: [folder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(":"),
      },
    });
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => child.kill(signal));
    await child.exited;
    const status = child.signalCode
      ? 128 + (constants.signals[child.signalCode as NodeJS.Signals] ?? 0)
      : (child.exitCode ?? 1);
    if (existsSync(missing)) {
      process.stderr.write(readFileSync(missing, "utf8"));
      return 2;
    }
    const found = linesOf(reports).slice(before);
    if (found.length === 0) return status;
    const faults = found.filter((line) => !advisory.test(line));
    process.stderr.write(`the emulated GPU made ${found.length} reports, the first: ${faults[0] ?? found[0]}\n`);
    return status || Number(faults.length > 0);
  } finally {
    rmSync(notes, { recursive: true, force: true });
  }
}

function linesOf(path: string): string[] {
  return existsSync(path) ? readFileSync(path, "utf8").split("\n").filter(Boolean) : [];
}

if (import.meta.main) {
  try {
    process.exitCode = await run(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`${errorText(error)}\n`);
    process.exitCode = 1;
  }
}
