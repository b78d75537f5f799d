/**
 * `grpo doctor`: what this machine offers for training, what is missing, and the cure. It changes nothing but the cache of
 * kernels, which it builds as any command would. How fast each op is: `bun run bench ops`.
 */
import { z } from "zod";
import { about } from "../config/settings/about.ts";
import type { Command } from "./command.ts";
import { describeFlags, readFlags } from "./flags.ts";
import { examine, type Machine } from "./machine.ts";

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
  json: z.boolean().default(false).meta(about("One JSON object: the findings, and what was measured.")),
};

export const doctor: Command = {
  name: "doctor",
  summary: "what this machine offers, what is missing, and the cure",
  usage: `Usage: grpo doctor [--json]

Looks at Bun, the processor, memory, the compiler and the kernels it builds, checks a small product and measures the
machine's peak. Exit status 0 where training can run, 1 where something it needs is missing.

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
  return [...lines, "", ready ? "Training can run here." : "Training cannot run here until what is MISSING is there."];
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
    cudaFinding(machine),
    diskFinding(machine),
    bundledFinding(machine),
  ];
}

function bunFinding({ bun }: Machine): Finding {
  const ok = Bun.semver.satisfies(bun, `>=${leastBun}`);
  if (ok) return { topic: "Bun", status: "ok", text: bun };
  return { topic: "Bun", status: "missing", text: `${bun}; ${leastBun} is needed`, cure: "bun upgrade" };
}

function systemFinding({ platform, arch, release }: Machine): Finding {
  const text = `${platform} ${arch}, kernel ${release}`;
  if ((platform === "linux" || platform === "darwin") && (arch === "x64" || arch === "arm64"))
    return { topic: "system", status: "ok", text };
  const cure = platform === "win32" ? "run it under WSL 2" : "use Linux or macOS on x64 or arm64";
  return { topic: "system", status: "missing", text, cure };
}

function processorFinding({ processor, cores }: Machine): Finding {
  const { installed, allowed, usable } = cores;
  const limits = [
    ...(allowed < installed ? [`the affinity mask allows ${allowed} of ${installed}`] : []),
    ...(usable < allowed ? [`the control group's quota is ${usable}`] : []),
  ];
  const text = [`${processor}, ${usable} ${usable === 1 ? "core" : "cores"} usable`, ...limits].join("; ");
  return { topic: "processor", status: "ok", text };
}

function memoryFinding({ memory }: Machine): Finding {
  const { total, available } = memory;
  const topic = "memory";
  const text = `${size(available)} available of ${size(total)}`;
  const cure = "end what else holds memory; grpo plan tells what a run takes";
  if (available < LEAST_MEMORY) return { topic, status: "missing", text, cure };
  if (available < LITTLE_MEMORY) return { topic, status: "note", text: `${text}: enough for small models`, cure };
  return { topic, status: "ok", text };
}

function kernelFindings({ kernels, cacheFolder }: Machine): Finding[] {
  if ("failure" in kernels) {
    // "what is wrong; the cure"
    const [text = "", ...cure] = kernels.failure.split("; ");
    return [{ topic: "kernels", status: "missing", text, ...(cure.length > 0 ? { cure: cure.join("; ") } : {}) }];
  }
  const built = kernels.seconds > 0 ? `built just now in ${kernels.seconds.toFixed(1)} s` : "from the cache";
  return [
    { topic: "compiler", status: "ok", text: kernels.compiler },
    {
      topic: "kernels",
      status: "ok",
      text: `${built}: ${kernels.library.replace(`${cacheFolder}/`, "")} in ${cacheFolder}`,
    },
  ];
}

function pathFindings({ paths, forcedPath, compute }: Machine): Finding[] {
  const chosen = compute !== null && "path" in compute ? compute.path : null;
  return paths.map(({ name, supported, proven }) => {
    const topic = `path ${name}`;
    const facts = [
      "compiled",
      supported ? "supported by this processor" : "not supported by this processor",
      proven ? "proven on real hardware" : "never run on real hardware",
    ];
    if (name === chosen) facts.push(forcedPath === name ? "chosen by BUN_GRPO_CPU_PATH" : "chosen");
    const text = facts.join(", ");
    if (proven || !supported) return { topic, status: "ok", text };
    if (name === chosen)
      return {
        ...{ topic, status: "note", text },
        cure: `check it first, from the repository: OPS_PATH=${name} bun test test/ops`,
      };
    return {
      ...{ topic, status: "note", text: `${text}; so it is not chosen by itself` },
      cure: `to use it: BUN_GRPO_CPU_PATH=${name}; to check it first, from the repository: OPS_PATH=${name} bun test test/ops`,
    };
  });
}

function computeFindings({ compute, paths }: Machine): Finding[] {
  if (compute === null) return [];
  if ("failure" in compute) {
    const usable = paths.filter(({ supported }) => supported).map(({ name }) => name);
    return [
      {
        ...{ topic: "path", status: "missing", text: compute.failure },
        cure: `unset BUN_GRPO_CPU_PATH, or set it to ${usable.join(" or ")}`,
      },
    ];
  }
  const { path, threads, peakGflops, readGigabytes, selfCheck } = compute;
  const off = (x: number) => x.toExponential(1);
  const differences = `${off(selfCheck.fromPortable)} from the portable path, ${off(selfCheck.fromExact)} from float64`;
  return [
    {
      ...{ topic: "peak", status: "ok" },
      text: `${peakGflops.toFixed(0)} GFLOP/s, reads ${readGigabytes.toFixed(1)} GB/s (${path}, ${threads} ${threads === 1 ? "thread" : "threads"}, best of 5)`,
    },
    selfCheck.passed
      ? {
          topic: "self-check",
          status: "ok",
          text: `${selfCheck.samples} elements of a product: at most ${differences}`,
        }
      : {
          ...{ topic: "self-check", status: "missing" },
          text: `a product on ${path} is wrong: ${differences}, where ${off(selfCheck.tolerance)} is allowed`,
          cure: `compute on another path (BUN_GRPO_CPU_PATH=portable), and delete the cached kernels to have them rebuilt`,
        },
  ];
}

function cudaFinding({ cuda }: Machine): Finding {
  if ("device" in cuda) return { topic: "CUDA", status: "ok", text: cuda.device };
  return { topic: "CUDA", status: "note", text: cuda.none };
}

function diskFinding({ folder }: Machine): Finding {
  const { path, free, writable } = folder;
  const topic = "disk";
  if (!writable)
    return { topic, status: "note", text: `${path} cannot be written`, cure: "name an --output_dir that can" };
  const text = `${size(free)} free in ${path}`;
  if (free >= LITTLE_DISK) return { topic, status: "ok", text };
  const cure = "free some, or name another --output_dir: a checkpoint takes about 14 bytes a parameter";
  return { topic, status: "note", text, cure };
}

function bundledFinding({ bundled }: Machine): Finding {
  const topic = "bundled";
  const missing = [...(bundled.model ? [] : ["data/model"]), ...(bundled.problems ? [] : ["data/problems"])];
  if (missing.length === 0) return { topic, status: "ok", text: "the tiny model and its problems: try bun run train" };
  return {
    ...{ topic, status: "note", text: `${missing.join(" and ")} ${missing.length === 1 ? "is" : "are"} not there` },
    cure: "name --model and --dataset, or make the bundled ones: bun data/make.ts",
  };
}

function size(bytes: number): string {
  return bytes >= GiB ? `${(bytes / GiB).toFixed(1)} GiB` : `${(bytes / 2 ** 20).toFixed(0)} MiB`;
}
