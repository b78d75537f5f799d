/**
 * The bf16 attention's machine code, read with nvdisasm: tensor-core products, matrix loads and asynchronous copies for sm_80;
 * warpgroup products, tiles of the copy engine and registers handed over for sm_90a.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Nvrtc } from "../../../ffi/bindings/nvrtc.ts";
import { compileKernel, compileOptions, kernelHeaders } from "../../../src/device/cuda/compile.ts";
import { fetchProgram } from "./fetch-nvrtc.ts";
import { definesText, kernelDefinitions, units } from "./kernels.ts";

/** mma, ldmatrix, cp.async */
const tensorCores = ["HMMA.16816.F32.BF16", "LDSM", "LDGSTS"];
/** wgmma, cp.async.bulk.tensor, setmaxnreg */
const warpgroups = ["HGMMA.64x128x16.F32.BF16", "UTMALDG.2D", "USETMAXREG"];
const expected: Readonly<Record<string, readonly string[]>> = {
  "attention_forward.cu": tensorCores,
  "attention_backward.cu": tensorCores,
  "attention_forward_warpgroup.cu": warpgroups,
  "attention_backward_keys_warpgroup.cu": ["HGMMA.64x64x16.F32.BF16", ...warpgroups.slice(1)],
  "attention_backward_queries_warpgroup.cu": warpgroups,
};

export async function machineCodeFaults(nvrtc: Nvrtc): Promise<{ checks: number; faults: string[] }> {
  const program = await fetchProgram("nvdisasm");
  const folder = mkdtempSync(join(tmpdir(), "grpo-gates-"));
  const faults: string[] = [];
  let checks = 0;
  try {
    const all = units(await kernelDefinitions());
    for (const [file, instructions] of Object.entries(expected)) {
      const variants = all.filter((unit) => unit.file === file);
      if (variants.length === 0) faults.push(`${file}: no kernel is launched from it`);
      for (const unit of variants) {
        const { cubin } = compileKernel(
          nvrtc,
          file,
          kernelHeaders(),
          compileOptions(unit.only ?? 80, unit.macros, unit.only !== undefined),
        );
        const path = join(folder, "kernel.cubin");
        writeFileSync(path, cubin);
        const { stdout, exitCode, stderr } = Bun.spawnSync([program, "-c", path]);
        const text = stdout.toString();
        for (const instruction of instructions) {
          checks++;
          if (exitCode !== 0) faults.push(`nvdisasm: ${stderr.toString().trim()}`);
          else if (!text.includes(instruction)) faults.push(`${file} ${definesText(unit.defines)}: no ${instruction}`);
        }
      }
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return { checks: Math.max(checks, 1), faults };
}
