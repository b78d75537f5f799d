/** One compilation: a source with one set of macros for one architecture, and what is checked of its kernels. */
import type { Nvrtc } from "../../../ffi/bindings/nvrtc.ts";
import { compileKernel, compileOptions, kernelHeaders } from "../../../src/device/cuda/compile.ts";
import { errorText } from "../../../src/errors.ts";
import { type Resources, readResources, readSignatures, signatureFault } from "./compiled.ts";
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

export function runJob(nvrtc: Nvrtc, { unit, architecture }: Job): Outcome {
  const what = `${unit.file} ${definesText(unit.defines)} sm_${architecture}`;
  const options = [...compileOptions(architecture, unit.defines), "--ptxas-options=-v"];
  let ptx: string;
  let log: string;
  try {
    ({ ptx, log } = compileKernel(nvrtc, unit.file, kernelHeaders(), options));
  } catch (error) {
    return { resources: [], faults: { compile: [`${what}: ${errorText(error)}`], memory: [], signature: [] } };
  }
  const used = readResources(log);
  const signatures = readSignatures(ptx);
  const resources: [string, Resources][] = [];
  const faults = { compile: [] as string[], memory: [] as string[], signature: [] as string[] };
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
