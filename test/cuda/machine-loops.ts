/**
 * The main loops of the tensor-core kernels in machine code: warp instructions by pipe for each operation of their products, read
 * with nvdisasm from NVRTC's output for sm_80, or for the one GPU that a kernel is for. PTX counts moves and addresses that the assembler folds away, so the roofline uses these numbers for
 * instruction-bound kernels.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openNvrtc } from "../../ffi/bindings/nvrtc.ts";
import { compileKernel, compileOptions, kernelHeaders } from "../../src/device/cuda/compile.ts";
import type { Defines, KernelDefinition } from "../../src/device/cuda/runtime.ts";
import { fetchNvrtc, fetchProgram } from "./gates/fetch-nvrtc.ts";

/** Warp instructions for each floating-point operation of the products. */
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
const others =
  /^(HMMA|HGMMA|WARPGROUP|LD|ST|BRA|BAR|BSSY|BSYNC|DEPBAR|CALL|RET|EXIT|NOP|WARPSYNC|SHFL|S2R|S2UR|U|CS2R|MOV32I)/;

/** A loop with fewer operations a warp has other work than products. */
const LEAST_FLOPS = 2 ** 16;

/** A warp's operations of an instruction: mma.m16n8k16, or a quarter of wgmma.m64nNk16. */
function flopsOf(instruction: string): number {
  if (instruction.startsWith("HMMA")) return 2 * 16 * 8 * 16;
  const columns = /^HGMMA\.64x(\d+)x16/.exec(instruction)?.[1];
  return columns === undefined ? 0 : 2 * 16 * Number(columns) * 16;
}

const flopsIn = (instructions: readonly string[]) => instructions.reduce((sum, name) => sum + flopsOf(name), 0);

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
    names.push(text[1]!);
  }
  const inside = new Set<number>();
  for (const [at, label] of jumps) {
    const from = labels.get(label);
    if (from === undefined || from > at) continue;
    const body = names.slice(from, at + 1);
    if (flopsIn(body) < LEAST_FLOPS) continue;
    for (let i = from; i <= at; i++) inside.add(i);
  }
  const body = names.filter((_, i) => inside.has(i));
  const flops = flopsIn(body);
  const kinds = body.map((name) => name.split(".")[0]!);
  const share = (test: (kind: string) => boolean) => kinds.filter(test).length / flops;
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
  const { only } = definition;
  const options = compileOptions(only ?? 80, { ...variant, ...definition.sizes(variant) }, only !== undefined);
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
