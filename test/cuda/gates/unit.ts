/**
 * One compilation: a source with one set of macros for one architecture, and the checks of its kernels. Compiler output is
 * cached by everything it depends on, so that a run after a change compiles only what the change affects; the checks themselves
 * always run.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Nvrtc } from "../../../ffi/bindings/nvrtc.ts";
import { cacheFolder, writeInCache } from "../../../src/cache.ts";
import { compileKernel, compileOptions, kernelHeaders, kernelSource } from "../../../src/device/cuda/compile.ts";
import { errorText } from "../../../src/errors.ts";
import {
  type Resources,
  readLosses,
  readResources,
  readSignatures,
  type Signature,
  signatureFault,
} from "./compiled.ts";
import { definesText, type Unit } from "./kernels.ts";
import { rowKey } from "./resources.ts";
import { stackReasons } from "./stack-reasons.ts";

export interface Job {
  readonly unit: Unit;
  readonly architecture: number;
}

export interface Outcome {
  readonly resources: readonly (readonly [key: string, resources: Resources])[];
  readonly faults: {
    readonly compile: readonly string[];
    readonly memory: readonly string[];
    readonly signature: readonly string[];
  };
}

/** By kernel. */
interface Made {
  readonly resources: readonly (readonly [string, Resources])[];
  readonly signatures: readonly (readonly [string, Signature])[];
  readonly losses: readonly string[];
}

/** The parsers of the log and the PTX, part of the key: a changed parser may read something else. */
const readers = readFileSync(join(import.meta.dir, "compiled.ts"), "utf8");

/** @throws NvidiaCallError with the compiler's log */
function made(nvrtc: Nvrtc, source: string, options: readonly string[]): Made {
  const headers = kernelHeaders();
  // The compiler's folder name contains the hashes of its wheels.
  const inputs = JSON.stringify([nvrtc.path, nvrtc.version, options, kernelSource(source), headers, readers]);
  const folder = join(cacheFolder(), "nvidia", "compiled");
  const path = join(folder, `${new Bun.CryptoHasher("sha256").update(inputs).digest("hex").slice(0, 32)}.json`);
  if (existsSync(path)) return JSON.parse(readFileSync(path, "utf8"));
  const { ptx, log } = compileKernel(nvrtc, source, headers, options);
  const result: Made = {
    resources: [...readResources(log)],
    signatures: [...readSignatures(ptx)],
    losses: readLosses(log),
  };
  writeInCache(path, JSON.stringify(result));
  return result;
}

export function runJob(nvrtc: Nvrtc, { unit, architecture }: Job): Outcome {
  const what = `${unit.file} ${definesText(unit.defines)} sm_${architecture}`;
  const options = [...compileOptions(architecture, unit.macros, unit.only !== undefined), "--ptxas-options=-v"];
  let result: Made;
  try {
    result = made(nvrtc, unit.file, options);
  } catch (error) {
    return { resources: [], faults: { compile: [`${what}: ${errorText(error)}`], memory: [], signature: [] } };
  }
  const used = new Map(result.resources);
  const signatures = new Map(result.signatures);
  const resources: [string, Resources][] = [];
  const faults = {
    compile: result.losses.map((loss) => `${what}: ${loss}`),
    memory: [] as string[],
    signature: [] as string[],
  };
  for (const definition of unit.kernels) {
    const kernel = `${what} ${definition.name}`;
    const fault = signatureFault(definition, signatures.get(definition.name));
    if (fault !== undefined) faults.signature.push(`${kernel}: ${fault}`);
    const found = used.get(definition.name);
    if (found === undefined) {
      faults.compile.push(`${kernel}: the assembler's log does not name it`);
      continue;
    }
    resources.push([rowKey(definition.file, definition.name, definesText(unit.defines), architecture), found]);
    const { spillStores, spillLoads, stack } = found;
    if (spillStores + spillLoads > 0) faults.memory.push(`${kernel}: spills ${spillStores} bytes, loads ${spillLoads}`);
    if (stack > 0 && stackReasons[definition.name] === undefined)
      faults.memory.push(
        `${kernel}: ${stack} bytes of stack; index the array at compile time, or give a reason in stack-reasons.ts`,
      );
  }
  return { resources, faults };
}
