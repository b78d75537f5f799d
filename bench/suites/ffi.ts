/**
 * `bench ffi`: what a call from TypeScript into the kernels costs, by itself and with the op's launcher around it, and what that
 * comes to in a decode step. The work of each call is next to nothing.
 */

import type { CpuDevice } from "../../src/device/cpu/device.ts";
import type { Device } from "../../src/device/device.ts";
import { RunError } from "../../src/errors.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { type Figure, less } from "../figures.ts";
import { median } from "../measure.ts";
import { measuredModel } from "../model.ts";
import { withMeter } from "../open.ts";
import { openWorkspace } from "../ops/workspace.ts";
import { gpus } from "../roofline/machines.ts";
import { stepPhases } from "../roofline/phases.ts";
import { reportOf, type Suite } from "./suite.ts";

const ELEMENTS = 16;

/** Nanoseconds per call: the median of several rounds. */
function nanoseconds(call: () => void, wait: () => void, calls: number): number {
  const round = () => {
    const start = performance.now();
    for (let i = 0; i < calls; i++) call();
    wait();
    return ((performance.now() - start) * 1e6) / calls;
  };
  round(); // compiled by the engine
  return median([round(), round(), round(), round(), round()]);
}

/** Adds ones to `y`, and requires as many as there were calls. @throws RunError if a call did nothing, or something else */
export function checkCalls(device: Device, y: Tensor, ones: Tensor): void {
  device.ops.fill(y, 0);
  for (let i = 0; i < 100; i++) device.ops.add(y, ones);
  const wrong = [...device.download(y)].findIndex((value) => value !== 100);
  if (wrong >= 0)
    throw new RunError(
      `ffi on ${device.description}: wrong result: 100 calls of add gave ${device.download(y)[wrong]}`,
    );
}

export const ffi: Suite = {
  summary: "nanoseconds of a call into the kernels, and of all calls of a decode step",
  usual: true,
  takes: ["device", "shape", "threads", "path", "quick"],
  run: (flags, line) =>
    withMeter(flags, async ({ device }) => {
      const calls = flags.quick ? 20_000 : 100_000;
      const w = openWorkspace(device);
      try {
        const y = w.filled("y", "float32", [ELEMENTS], () => 0);
        const ones = w.filled("ones", "float32", [ELEMENTS], () => 1);
        checkCalls(device, y, ones);
        const settled = () => void device.download(y);
        const op = nanoseconds(() => device.ops.add(y, ones), settled, device.kind === "cuda" ? calls / 10 : calls);
        const figures: Figure[] = [];
        if (device.kind === "cpu") {
          const { kernels } = (device as CpuDevice).library;
          const direct = nanoseconds(() => kernels.add(y.address, ones.address, ELEMENTS), settled, calls);
          figures.push(less(`a kernel's call, ${ELEMENTS} elements`, direct, "ns"));
        }
        figures.push(less(`an op's call, ${ELEMENTS} elements`, op, "ns"));
        const { name, config } = await measuredModel({ ...flags, model: null }, device);
        const shape = {
          groups: 1,
          samples: 8,
          promptTokens: 8,
          completionTokens: 8,
          sequences: 8,
          microBatchTokens: 64,
        };
        const { phases } = await stepPhases(config, shape, gpus[0]!);
        const perStep = phases.find((phase) => phase.name === "decode")!.work.length;
        const once = device.kind === "cuda" ? ", recorded once and then replayed" : "";
        figures.push(less(`the ${perStep} ops of a decode step of ${name}${once}`, (perStep * op) / 1000, "µs"));
        return reportOf("ffi", device, "100 calls add up to 100", figures, line, { opsPerDecodeStep: perStep });
      } finally {
        w.free();
      }
    }),
};
