/**
 * `grpo doctor`: what this machine offers for training, what is missing, and the cure. It changes nothing but the cache of
 * kernels, which it builds as any command would. How fast each op is: `grpo bench ops`.
 */
import { toggle } from "../config/settings/kinds.ts";
import { callOf } from "../program.ts";
import type { Command } from "./command.ts";
import { describeFlags, readFlags } from "./flags.ts";
import { examine, type Machine, type SelfCheck } from "./machine.ts";

/** The oldest Bun that the program runs on, as package.json says. */
export const leastBun = "1.4.5";

const GiB = 2 ** 30;
/** Below this not even the bundled model trains. */
const LEAST_MEMORY = GiB / 4;
/** Below this a run of a real model is likely to end for want of it. */
const LITTLE_MEMORY = 2 * GiB;
const LITTLE_DISK = GiB;

export interface Finding {
  readonly topic: string;
  /** missing: training cannot run. */
  readonly status: "ok" | "note" | "missing";
  readonly text: string;
  readonly cure?: string;
}

const settings = {
  json: toggle(false)`Print one JSON object with the findings and the measurements.`,
};

export const doctor: Command = {
  flags: settings,
  usage: `Usage: grpo doctor [--json]

Looks at Bun, the processor, memory, the compiler and the kernels it builds, checks a small product and measures the
machine's peak speed. Exit status 0 if training can run, 1 if something it needs is missing.

${describeFlags(settings)}
Example: grpo doctor`,
  async run(argv) {
    const { flags } = readFlags("doctor", settings, argv);
    const machine = await examine((text) => process.stderr.write(`${text}\n`));
    const found = findings(machine);
    const ready = found.every(({ status }) => status !== "missing");
    process.stdout.write(
      flags.json ? `${JSON.stringify({ ready, findings: found, machine })}\n` : `${report(found, ready).join("\n")}\n`,
    );
    return ready ? 0 : 1;
  },
};

/** The findings as lines: status, topic, text, and the cure below. */
export function report(found: readonly Finding[], ready: boolean): string[] {
  const width = Math.max(...found.map(({ topic }) => topic.length));
  const marks = { ok: "ok", note: "note", missing: "MISSING" };
  const lines = found.flatMap(({ topic, status, text, cure }) => [
    `${marks[status].padEnd(8)} ${topic.padEnd(width)}  ${text}`,
    ...(cure === undefined ? [] : [`${" ".repeat(9 + width)}  → ${cure}`]),
  ]);
  return [
    ...lines,
    "",
    ready ? "Training can run here." : "Training cannot run here until everything marked MISSING is in place.",
  ];
}

/** What there is to say about a machine, in the order it is printed. */
export function findings(machine: Machine): Finding[] {
  return [
    bunFinding(machine),
    systemFinding(machine),
    processorFinding(machine),
    memoryFinding(machine),
    ...kernelFindings(machine),
    ...pathFindings(machine),
    ...computeFindings(machine),
    ...cudaFindings(machine),
    diskFinding(machine),
    bundledFinding(machine),
  ];
}

const ok = (topic: string, text: string): Finding => ({ topic, status: "ok", text });
const note = (topic: string, text: string, cure: string): Finding => ({ topic, status: "note", text, cure });
const missing = (topic: string, text: string, cure: string): Finding => ({ topic, status: "missing", text, cure });

function bunFinding({ bun }: Machine): Finding {
  if (Bun.semver.satisfies(bun, `>=${leastBun}`)) return ok("Bun", bun);
  return missing("Bun", `${bun}; ${leastBun} or later is needed`, "bun upgrade");
}

function systemFinding({ platform, arch, release }: Machine): Finding {
  const text = `${platform} ${arch}, kernel ${release}`;
  const known = (platform === "linux" || platform === "darwin") && (arch === "x64" || arch === "arm64");
  if (known) return ok("system", text);
  const cure = platform === "win32" ? "run it under WSL 2" : "use Linux or macOS on x64 or arm64";
  return missing("system", text, cure);
}

function processorFinding({ processor, cores }: Machine): Finding {
  const { installed, allowed, usable } = cores;
  const parts = [`${processor}, ${usable} ${usable === 1 ? "core" : "cores"} usable`];
  if (allowed < installed) parts.push(`the affinity mask allows ${allowed} of ${installed}`);
  if (usable < allowed) parts.push(`the control group's quota is ${usable}`);
  return ok("processor", parts.join("; "));
}

function memoryFinding({ memory }: Machine): Finding {
  const { total, available } = memory;
  const text = `${size(available)} available of ${size(total)}`;
  const cure = "close other programs that use memory; grpo plan prints what a run needs";
  if (available < LEAST_MEMORY) return missing("memory", text, cure);
  if (available < LITTLE_MEMORY) return note("memory", `${text}: enough for small models`, cure);
  return ok("memory", text);
}

function kernelFindings({ kernels, cacheFolder }: Machine): Finding[] {
  if ("failure" in kernels) {
    // "what is wrong; the cure"
    const [text = "", ...cure] = kernels.failure.split("; ");
    return [missing("kernels", text, cure.join("; ") || "see grpo doctor --debug")];
  }
  if (kernels.compiler === null) return [ok("kernels", `shipped with the program: ${kernels.library}`)];
  const built = kernels.seconds > 0 ? `built just now in ${kernels.seconds.toFixed(1)} s` : "from the cache";
  const file = kernels.library.replace(`${cacheFolder}/`, "");
  return [ok("compiler", kernels.compiler), ok("kernels", `${built}: ${file} in ${cacheFolder}`)];
}

function pathFindings({ paths, forcedPath, compute }: Machine): Finding[] {
  const chosen = compute !== null && "path" in compute ? compute.path : null;
  const chosenAt = paths.findIndex(({ name }) => name === chosen);
  return paths.map(({ name, supported, proven }, at) => {
    const topic = `path ${name}`;
    const facts = [
      "compiled",
      supported ? "supported by this processor" : "not supported by this processor",
      proven ? "proven on real hardware" : "never run on real hardware",
    ];
    if (name === chosen) facts.push(forcedPath === name ? "chosen by BUN_GRPO_CPU_PATH" : "chosen");
    const text = facts.join(", ");
    if (proven && supported && forcedPath === null && chosenAt >= 0 && at > chosenAt)
      return note(
        topic,
        `${text}; the system denies it to this process, so it is not chosen`,
        "in a container or sandbox, allow the system call arch_prctl",
      );
    if (proven || !supported) return ok(topic, text);
    const check = `to check it, from the repository: OPS_PATH=${name} bun test test/ops`;
    if (name === chosen) return note(topic, text, check);
    return note(
      topic,
      `${text}; so it is not chosen automatically`,
      `to use it, set BUN_GRPO_CPU_PATH=${name}; ${check}`,
    );
  });
}

function computeFindings({ compute, paths }: Machine): Finding[] {
  if (compute === null) return [];
  if ("failure" in compute) {
    const usable = paths.filter(({ supported }) => supported).map(({ name }) => name);
    return [missing("path", compute.failure, `unset BUN_GRPO_CPU_PATH, or set it to ${usable.join(" or ")}`)];
  }
  const { path, threads, peakGflops, bfloat16Gflops, readGigabytes, selfCheck } = compute;
  const on = `${path}, ${threads} ${threads === 1 ? "thread" : "threads"}`;
  const beside = bfloat16Gflops === null ? "" : ` (${bfloat16Gflops.toFixed(0)} with bfloat16 weights)`;
  const peak = ok(
    "peak",
    `${peakGflops.toFixed(0)} GFLOP/s${beside}, reads ${readGigabytes.toFixed(1)} GB/s (${on}, best of 5)`,
  );
  return [peak, selfCheckFinding(path, selfCheck)];
}

function selfCheckFinding(path: string, { samples, fromPortable, fromExact, tolerance, passed }: SelfCheck): Finding {
  const off = (x: number) => x.toExponential(1);
  const differences = `${off(fromPortable)} from the portable path, ${off(fromExact)} from float64`;
  if (passed) return ok("self-check", `${samples} elements of a product: at most ${differences}`);
  return missing(
    "self-check",
    `a product on ${path} is wrong: ${differences}, but at most ${off(tolerance)} is allowed`,
    "use another path (BUN_GRPO_CPU_PATH=portable), and delete the cached kernels to rebuild them",
  );
}

/** "what; where; cure" as a finding: all but the first is what can be done about it. */
function absence(topic: string, { missing }: { readonly missing: string }): Finding {
  const [text = "", ...rest] = missing.split("; ");
  return note(topic, text, rest.join("; "));
}

/** Without a driver the libraries are useless, so it is not worth a line that they are missing. */
function cudaFindings({ cuda }: Machine): Finding[] {
  const { driver, gpus, cublas, nvrtc, nccl } = cuda;
  const libraries = Object.entries({ cuBLAS: cublas, NVRTC: nvrtc }).flatMap(([topic, library]) => {
    if (!("missing" in library)) return [ok(topic, `${library.version}, ${library.path}`)];
    return "missing" in driver ? [] : [absence(topic, library)];
  });
  // One GPU needs none.
  if (!("missing" in nccl)) libraries.push(ok("NCCL", `${nccl.version}, ${nccl.path}`));
  else if (gpus.length > 1) libraries.push(absence("NCCL", nccl));
  if ("missing" in driver) return [absence("CUDA", driver), ...libraries];
  const devices = gpus.map(({ name, computeCapability, totalBytes, usable }, i) => {
    const text = `${name}, compute capability ${computeCapability}, ${size(totalBytes)}`;
    if (usable) return ok(`cuda:${i}`, text);
    return note(`cuda:${i}`, text, "it will not be used: compute capability 8.0 (Ampere) is needed");
  });
  const none =
    gpus.length > 0 ? [] : [note("cuda:0", "the driver shows no GPU", "see nvidia-smi and CUDA_VISIBLE_DEVICES")];
  return [ok("CUDA", `the driver supports CUDA ${driver.version}, ${driver.path}`), ...devices, ...none, ...libraries];
}

function diskFinding({ folder }: Machine): Finding {
  const { path, free, writable } = folder;
  if (!writable) return note("disk", `${path} is not writable`, "choose an --output_dir that is");
  const text = `${size(free)} free in ${path}`;
  if (free >= LITTLE_DISK) return ok("disk", text);
  const cure = "free some, or choose another --output_dir: a checkpoint takes about 14 bytes per parameter";
  return note("disk", text, cure);
}

function bundledFinding({ bundled }: Machine): Finding {
  const absent = [...(bundled.model ? [] : ["data/model"]), ...(bundled.problems ? [] : ["data/problems"])];
  if (absent.length === 0) return ok("bundled", `the tiny model and its problems: try ${callOf("train")}`);
  return note(
    "bundled",
    `${absent.join(" and ")} ${absent.length === 1 ? "is" : "are"} missing`,
    "give --model and --dataset, or make the bundled ones: bun data/make.ts",
  );
}

function size(bytes: number): string {
  return bytes >= GiB ? `${(bytes / GiB).toFixed(1)} GiB` : `${(bytes / 2 ** 20).toFixed(0)} MiB`;
}
