/**
 * The main loops of the tensor-core kernels in machine code: warp instructions by pipe for each `mma`, read with nvdisasm from
 * NVRTC's sm_80 output. PTX counts moves and addresses that the assembler folds away, so the roofline uses these numbers for
 * instruction-bound kernels.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openNvrtc } from "../../ffi/bindings/nvrtc.ts";
import { compileKernel, compileOptions, kernelHeaders } from "../../src/device/cuda/compile.ts";
import type { Defines, KernelDefinition } from "../../src/device/cuda/runtime.ts";
import { fetchNvrtc, fetchProgram } from "./gates/fetch-nvrtc.ts";

/** Warp instructions for each mma.m16n8k16. */
export interface MachineLoop {
  readonly instructions: number;
  /** Integer, logic, compare, select, pack: half rate. */
  readonly alu: number;
  /** Multiply-adds of float32 and of integers. */
  readonly fma: number;
  /** ex2 and similar. */
  readonly special: number;
}

const fma = new Set(["FFMA", "FMUL", "FADD", "IMAD"]);
const special = new Set(["MUFU"]);
const others = /^(HMMA|LD|ST|BRA|BAR|BSSY|BSYNC|DEPBAR|CALL|RET|EXIT|NOP|WARPSYNC|SHFL|S2R|S2UR|U|CS2R|MOV32I)/;

/** Loops of a function's listing that contain products, counted completely: both sides of their branches. */
function loopsOf(listing: string): MachineLoop {
  const names: string[] = [];
  const labels = new Map<string, number>();
  const jumps: [at: number, label: string][] = [];
  for (const line of listing.split("\n")) {
    const label = /^(\.L_x_\d+):/.exec(line)?.[1];
    if (label) labels.set(label, names.length);
    const text = /^\s+\/\*[0-9a-f]{4,}\*\/\s+(?:@!?U?P\w+\s+)?([A-Z]\S*)(.*);/.exec(line);
    if (!text) continue;
    const target = /`\((\.L_x_\d+)\)/.exec(text[2]!)?.[1];
    if (text[1]!.startsWith("BRA") && target) jumps.push([names.length, target]);
    names.push(text[1]!.split(".")[0]!);
  }
  const inside = new Set<number>();
  for (const [at, label] of jumps) {
    const from = labels.get(label);
    if (from === undefined || from > at) continue;
    const body = names.slice(from, at + 1);
    if (body.filter((name) => name === "HMMA").length < 16) continue;
    for (let i = from; i <= at; i++) inside.add(i);
  }
  const body = names.filter((_, i) => inside.has(i));
  const products = body.filter((name) => name === "HMMA").length;
  const share = (test: (name: string) => boolean) => Number((body.filter(test).length / products).toPrecision(4));
  return {
    instructions: share(() => true),
    fma: share((name) => fma.has(name)),
    special: share((name) => special.has(name)),
    alu: share((name) => !fma.has(name) && !special.has(name) && !others.test(name)),
  };
}

/** The loops of a source's kernels that have products, by kernel. @throws InputError without NVIDIA's compiler */
export async function machineLoops(definition: KernelDefinition, variant: Defines): Promise<Map<string, MachineLoop>> {
  const nvrtc = openNvrtc({ folder: await fetchNvrtc() });
  const program = await fetchProgram("nvdisasm");
  const options = compileOptions(80, { ...variant, ...definition.sizes(variant) });
  const { cubin } = compileKernel(nvrtc, definition.file, kernelHeaders(), options);
  const folder = mkdtempSync(join(tmpdir(), "grpo-loops-"));
  try {
    const path = join(folder, "kernel.cubin");
    writeFileSync(path, cubin);
    const { stdout, stderr, exitCode } = Bun.spawnSync([program, "-c", path]);
    if (exitCode !== 0) throw new Error(`nvdisasm: ${stderr.toString().trim()}`);
    const functions = stdout
      .toString()
      .split(/^\s*\.section\s+\.text\./m)
      .slice(1);
    return new Map(functions.map((text) => [/^\w+/.exec(text)![0], loopsOf(text)]));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
