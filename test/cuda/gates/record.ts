/**
 * What has to be recorded, and the recording itself: all variants of all kernels, the planted bugs, and other kernels that
 * tests launch.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import type { Nvrtc } from "../../../ffi/bindings/nvrtc.ts";
import { compileOptions } from "../../../src/device/cuda/compile.ts";
import { buildEmulator } from "../../emulator/build.ts";
import { plantedCompilation } from "../../emulator/planted/session.ts";
import { kernelDefinitions, recordedArchitecture, units } from "./kernels.ts";
import { hashOf, type Recording, sourceOf } from "./recordings.ts";

const root = join(import.meta.dir, "../../..");
const plantedFolder = "test/emulator/planted/kernels";

interface Wanted {
  readonly source: string;
  readonly options: readonly string[];
}

/** What must be recorded, independent of the tests. */
export async function wantedRecordings(): Promise<Wanted[]> {
  const launched = units(await kernelDefinitions()).map(({ file, macros, only }) => ({
    source: file,
    options: compileOptions(only ?? recordedArchitecture, macros, only !== undefined),
  }));
  const planted = readdirSync(join(root, plantedFolder))
    .filter((name) => name.endsWith(".cu"))
    .sort()
    .map((name) => ({ source: `${plantedFolder}/${name}`, options: plantedCompilation(name).options }));
  return [...launched, ...planted];
}

/** Those missing from the index, in words. */
export async function missingRecordings(recorded: readonly Recording[]): Promise<string[]> {
  const hashes = new Set(recorded.map(({ hash }) => hash));
  const wanted = await wantedRecordings();
  return wanted
    .filter(({ source, options }) => !hashes.has(hashOf(source, options) ?? ""))
    .map(({ source, options }) => `${source} ${options.join(" ")}: not recorded; run \`bun run gates --update\``);
}

type Recorded = Recording & { readonly ptx: string };

/** @param folder of the real libnvrtc, for the tests that record their launches */
export async function recordAll(nvrtc: Nvrtc, folder: string): Promise<Map<string, Recorded>> {
  const found = new Map<string, Recorded>();
  for (const { source, options } of await wantedRecordings()) {
    const { source: text, headers } = sourceOf(source)!;
    const { ptx } = nvrtc.compile({ name: basename(source), source: text, headers, options });
    const hash = hashOf(source, options)!;
    found.set(hash, { hash, source, options, ptx });
  }
  for (const recording of await recordedByTests(folder))
    if (!found.has(recording.hash)) found.set(recording.hash, recording);
  return found;
}

/** Test files that launch kernels on the emulated device, in mixtures of types and head sizes that no model has. */
function launchingTests(): string[] {
  const own = readdirSync(join(root, "test/cuda")).filter((name) => name.endsWith(".test.ts"));
  return ["test/ops/cuda.test.ts", ...own.sort().map((name) => `test/cuda/${name}`)];
}

/** Runs the emulated tests with recording on: HASH.ptx, next to HASH.txt with the source's name and one option per line. */
async function recordedByTests(folder: string): Promise<Recorded[]> {
  const target = mkdtempSync(join(tmpdir(), "grpo-recordings-"));
  // A cache without compiled kernels, which would not be compiled and recorded again; the emulator is kept.
  const cache = mkdtempSync(join(tmpdir(), "grpo-cache-"));
  const emulator = (await buildEmulator()).folder;
  symlinkSync(emulator, join(cache, basename(emulator)));
  try {
    const env = {
      ...process.env,
      EMULATOR_NVRTC: join(folder, "libnvrtc.so.13"),
      EMULATOR_RECORD: target,
      BUN_GRPO_CACHE: cache,
      OPS_PATH: "cuda",
    };
    const child = Bun.spawn([process.execPath, "test", "--timeout", "600000", ...launchingTests()], {
      cwd: root,
      env,
      stdout: "ignore",
      stderr: "pipe",
    });
    const [output, code] = await Promise.all([new Response(child.stderr).text(), child.exited]);
    if (code !== 0) {
      const failed = new Set(output.split("\n").filter((line) => line.startsWith("(fail)")));
      console.log(
        ["these tests failed; what they would have launched afterwards is not recorded:", ...failed].join("\n  "),
      );
    }
    return readdirSync(target)
      .filter((name) => name.endsWith(".ptx"))
      .flatMap((name) => {
        const hash = basename(name, ".ptx");
        const [source, ...options] = readFileSync(join(target, `${hash}.txt`), "utf8")
          .trim()
          .split("\n");
        // Sources made up by a test are not recorded: the test must not need it.
        if (hashOf(source!, options) !== hash) return [];
        return [{ hash, source: source!, options, ptx: readFileSync(join(target, name), "utf8") }];
      });
  } finally {
    rmSync(target, { recursive: true, force: true });
    rmSync(cache, { recursive: true, force: true });
  }
}
