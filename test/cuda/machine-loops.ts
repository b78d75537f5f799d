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

/** A function's machine code: instructions by name, and for each the places that may follow. */
interface Listing {
  readonly names: readonly string[];
  readonly next: readonly (readonly number[])[];
}

function readListing(text: string): Listing {
  const names: string[] = [];
  const labels = new Map<string, number>();
  const jumps = new Map<number, { readonly label: string; readonly always: boolean }>();
  const ends = new Set<number>();
  for (const line of text.split("\n")) {
    const label = /^(\.L_x_\d+):/.exec(line)?.[1];
    if (label) labels.set(label, names.length);
    const found = /^\s+\/\*[0-9a-f]{4,}\*\/\s+(@!?U?P\w+\s+)?([A-Z]\S*)(.*);/.exec(line);
    if (!found) continue;
    const [, condition, name, operands] = found;
    const target = /`\((\.L_x_\d+)\)/.exec(operands!)?.[1];
    const plain = condition === undefined && name === "BRA" && /^\s*`/.test(operands!);
    if (name!.startsWith("BRA") && target) jumps.set(names.length, { label: target, always: plain });
    if (condition === undefined && /^(EXIT|RET)/.test(name!)) ends.add(names.length);
    names.push(name!);
  }
  const next = names.map((_, at) => {
    const jump = jumps.get(at);
    const target = jump && labels.get(jump.label);
    const behind = ends.has(at) || jump?.always || at + 1 === names.length ? [] : [at + 1];
    return target === undefined ? behind : [...behind, target];
  });
  return { names, next };
}

/** For each instruction all that are passed on every way to it, itself included; none for what is never reached. */
function dominators({ names, next }: Listing): (Set<number> | undefined)[] {
  const before: number[][] = names.map(() => []);
  for (const [at, places] of next.entries()) for (const to of places) before[to]!.push(at);
  const found: (Set<number> | undefined)[] = names.map(() => undefined);
  found[0] = new Set([0]);
  for (let changed = true; changed; ) {
    changed = false;
    for (let at = 1; at < names.length; at++) {
      const known = before[at]!.map((from) => found[from]).filter((set) => set !== undefined);
      if (known.length === 0) continue;
      const [least, ...others] = known.sort((a, b) => a.size - b.size);
      const all = new Set([...least!].filter((each) => others.every((set) => set.has(each)))).add(at);
      if (found[at]?.size === all.size) continue;
      found[at] = all;
      changed = true;
    }
  }
  return found;
}

/** The loops by their first instruction: what leads back to it. */
function loopsIn(listing: Listing): Set<number>[] {
  const { names, next } = listing;
  const dominating = dominators(listing);
  const before: number[][] = names.map(() => []);
  for (const [at, places] of next.entries()) for (const to of places) before[to]!.push(at);
  const loops = new Map<number, Set<number>>();
  for (const [at, places] of next.entries())
    for (const head of places) {
      if (!dominating[at]?.has(head)) continue;
      const body = loops.get(head) ?? new Set([head]);
      for (const open = [at]; open.length > 0; ) {
        const one = open.pop()!;
        if (body.has(one)) continue;
        body.add(one);
        open.push(...before[one]!);
      }
      loops.set(head, body);
    }
  return [...loops.values()];
}

/**
 * Loops of a function's listing that contain products, counted completely: both sides of their branches. `persistent`: the
 * outermost loop, in which a block takes its next tile, is passed once for many products and left out.
 */
function loopsOf(text: string, persistent: boolean): MachineLoop {
  const listing = readListing(text);
  const nameOf = (at: number) => listing.names[at]!;
  const loops = loopsIn(listing).filter((body) => flopsIn([...body].map(nameOf)) >= LEAST_FLOPS);
  const inner = (body: Set<number>) => loops.some((other) => other !== body && body.isSubsetOf(other));
  const counted = persistent ? loops.filter(inner) : loops;
  const body = [...new Set(counted.flatMap((each) => [...each]))].map(nameOf);
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
    return new Map(functions.map((text) => [/^\w+/.exec(text)![0], loopsOf(text, only !== undefined)]));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
