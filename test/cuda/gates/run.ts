/**
 * The static gates: everything that NVIDIA's real compiler can check about the kernels without a GPU. Per kernel, variant and
 * architecture: it compiles, nothing spills, registers and shared memory match resources.tsv, parameters and block size match
 * TypeScript's launches. Older compilers, down to the oldest supported one, are checked against limits (older.ts). The
 * recordings of PTX are up to date, the bf16 attention uses tensor-core instructions, and the opcode vectors are PTX that the
 * assembler accepts.
 *
 *   bun test/cuda/gates/run.ts            checks
 *   bun test/cuda/gates/run.ts --update   rewrites resources.tsv and the recordings, then checks
 *
 * Exit status 0; 1 if a check fails, 2 if the compiler cannot be fetched.
 */
import { errorText, InputError } from "../../../src/errors.ts";
import { assembleVectors, vectorGroups } from "./assemble.ts";
import {
  fetchNvrtc,
  fetchOlder,
  newestVersion,
  type OlderCompiler,
  olderCompilers,
  openPinned,
} from "./fetch-nvrtc.ts";
import { architectures, isFor, kernelDefinitions, units } from "./kernels.ts";
import { libraryFaults } from "./libraries.ts";
import { machineCodeFaults } from "./machine-code.ts";
import { olderFaults } from "./older.ts";
import { missingRecordings, recordAll } from "./record.ts";
import { readIndex, recordingFaults, writeRecordings } from "./recordings.ts";
import { differences, readTable, type Table, writeTable } from "./resources.ts";
import { type Job, type Outcome, runJob } from "./unit.ts";

/** Concurrent compilations. */
const PROCESSES = Math.max(1, Math.min(4, navigator.hardwareConcurrency));

/** Runs this file's jobs for one process: index, stride. Prints an outcome per line. */
async function work(index: number, folder: string, version: string, wanted: readonly number[]): Promise<void> {
  const nvrtc = openPinned(folder, version);
  const jobs = await allJobs(wanted);
  for (let i = index; i < jobs.length; i += PROCESSES) console.log(JSON.stringify(runJob(nvrtc, jobs[i]!)));
}

async function allJobs(wanted: readonly number[]): Promise<Job[]> {
  const all = units(await kernelDefinitions());
  return wanted.flatMap((architecture) =>
    all.filter((unit) => isFor(unit, architecture)).map((unit) => ({ unit, architecture })),
  );
}

/** All kernels for these architectures, compiled by the compiler in `folder`, which has that version. */
async function compileAll(folder: string, version: string, wanted: readonly number[]): Promise<Outcome[]> {
  const outputs = await Promise.all(
    Array.from({ length: PROCESSES }, async (_, index) => {
      const job = ["--worker", String(index), folder, version, wanted.join()];
      const child = Bun.spawn([process.execPath, import.meta.path, ...job], { stdout: "pipe", stderr: "inherit" });
      const [text, code] = await Promise.all([new Response(child.stdout).text(), child.exited]);
      if (code !== 0) throw new Error(`compiling ended with exit status ${code}`);
      return text.trim().split("\n").filter(Boolean);
    }),
  );
  return outputs.flat().map((line) => JSON.parse(line) as Outcome);
}

let passed = 0;
let failed = 0;

/** Prints a group's outcome, with each fault on its own line. */
function group(name: string, checks: number, faults: readonly string[]): void {
  const wrong = Math.min(faults.length, checks);
  passed += checks - wrong;
  failed += Math.max(wrong, faults.length > 0 ? 1 : 0);
  console.log(`${faults.length === 0 ? "ok    " : "FAILED"} ${name}: ${checks} checks`);
  for (const fault of faults.slice(0, 20)) console.log(`         ${fault}`);
  if (faults.length > 20) console.log(`         and ${faults.length - 20} more`);
}

/** An older compiler on its listed architectures. */
async function older(compiler: OlderCompiler): Promise<void> {
  const { version, architectures: wanted, absent } = compiler;
  if (absent !== null) {
    console.log(`       NVRTC ${version}: not tried, ${absent}`);
    return;
  }
  const outcomes = await compileAll(await fetchOlder(compiler), version, wanted);
  const compiled: Table = new Map(outcomes.flatMap(({ resources }) => resources));
  const faults = outcomes.flatMap((outcome) => [...outcome.faults.compile, ...outcome.faults.signature]);
  const name = `NVRTC ${version} on ${wanted.map((each) => `sm_${each}`).join(", ")}: compiles, signatures, limits`;
  group(name, outcomes.length + 2 * compiled.size, [...faults, ...olderFaults(version, compiled, readTable())]);
}

async function main(update: boolean): Promise<void> {
  const start = performance.now();
  const folder = await fetchNvrtc();
  const nvrtc = openPinned(folder, newestVersion);
  console.log(`NVRTC ${nvrtc.version}, ${nvrtc.path}`);
  const outcomes = await compileAll(folder, nvrtc.version, architectures);
  const compiled: Table = new Map(outcomes.flatMap(({ resources }) => resources));
  if (update) {
    writeTable(compiled);
    writeRecordings(await recordAll(nvrtc, folder));
  }
  const faultsOf = (kind: keyof Outcome["faults"]) => outcomes.flatMap(({ faults }) => faults[kind]);
  group("every kernel compiles", outcomes.length, faultsOf("compile"));
  group("no spills, no stack without a reason", compiled.size, faultsOf("memory"));
  group("parameters and block size are the launches'", compiled.size, faultsOf("signature"));
  group("registers and memory are resources.tsv's", compiled.size, differences(readTable(), compiled));
  for (const compiler of olderCompilers) await older(compiler);
  const { checks, faults } = await machineCodeFaults(nvrtc);
  group("bf16 attention in machine code", checks, faults);
  const libraries = await libraryFaults();
  group("NVIDIA's libraries load, symbol by symbol", libraries.checks, libraries.faults);
  group("opcode vectors are PTX", vectorGroups.length, assembleVectors(nvrtc));
  const recorded = readIndex();
  const missing = await missingRecordings(recorded);
  group("recordings are up to date", recorded.length + missing.length, [...recordingFaults(recorded), ...missing]);
  console.log(`${((performance.now() - start) / 1000).toFixed(0)} s`);
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 ? 0 : 1;
}

if (import.meta.main) {
  const [flag, index, folder, version, wanted] = process.argv.slice(2);
  try {
    if (flag === "--worker") await work(Number(index), folder!, version!, wanted!.split(",").map(Number));
    else await main(flag === "--update");
  } catch (error) {
    process.stderr.write(`${errorText(error)}\n`);
    process.exit(error instanceof InputError ? 2 : 1);
  }
}
