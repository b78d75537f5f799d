/** Runs the opcode vectors' own lines through NVIDIA's assembler: a vector of invalid PTX would prove nothing. */
import type { Nvrtc } from "../../../ffi/bindings/nvrtc.ts";
import { errorText } from "../../../src/errors.ts";
import { vectors } from "../../emulator/vectors/all.ts";
import { cudaSource } from "../../emulator/vectors/module.ts";
import { recordedArchitecture } from "./kernels.ts";

export const vectorGroups = Object.entries(vectors);

export function assembleVectors(nvrtc: Nvrtc): string[] {
  return vectorGroups.flatMap(([name, forms]) => {
    const options = ["-default-device", `-arch=sm_${recordedArchitecture}`];
    try {
      nvrtc.compile({ name: `${name}.cu`, source: cudaSource(forms), headers: [], options });
      return [];
    } catch (error) {
      return [`${name}: ${errorText(error)}`];
    }
  });
}
