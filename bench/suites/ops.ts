/** `bench ops`: the command around ops.ts. */
import type { CudaDevice } from "../../src/device/cuda/device.ts";
import type { Device } from "../../src/device/device.ts";
import { InputError } from "../../src/errors.ts";
import { isEmulated } from "../cuda-meter.ts";
import { type BenchFlags, patternOf } from "../flags.ts";
import { modelNamed } from "../models.ts";
import { withMeter } from "../open.ts";
import type { OpBench } from "../ops/case.ts";
import { emulatedLoad, gpuLoad, modelShapes, processorLoad, type Shapes } from "../ops/shapes.ts";
import { type OpsReport, opBenches, productShares, runOps } from "../ops.ts";
import { opsSummary, opsTable } from "../table.ts";
import type { Suite } from "./suite.ts";

/** The line of the table that --filter matches. */
function lineOf({ op, sizes, dtype }: OpBench): string {
  return `${op} ${sizes} ${dtype}`;
}

/** Largest vocabulary where each logit takes a processor many instructions. */
const EMULATED_VOCABULARY = 4096;

/** The op sizes for a device: those of the requested model under a load typical of such a device. */
function shapesOn(device: Device, shape: string | null): Shapes {
  const modelGradients = device.gradientDType("bfloat16") === "bfloat16";
  if (device.kind === "cpu")
    return { ...modelShapes(modelNamed(shape ?? "SmolLM2-135M").config), ...processorLoad, modelGradients };
  const shapes = modelShapes(modelNamed(shape ?? "Qwen3-0.6B").config);
  if (!isEmulated(device as CudaDevice)) return { ...shapes, ...gpuLoad };
  return { ...shapes, V: Math.min(shapes.V, EMULATED_VOCABULARY), ...emulatedLoad };
}

/** @param loads the requested sizes; a benchmark passes if it belongs to any of them. @throws InputError if none is left */
function chosen(flags: BenchFlags, ...loads: readonly Shapes[]): OpBench[] {
  const pattern = patternOf(flags.filter);
  const all = loads.flatMap((shapes) => Object.values(opBenches(shapes)).flat());
  const found = all.filter(
    (bench) => pattern.test(lineOf(bench)) && (flags.dtype === null || bench.dtype === flags.dtype),
  );
  if (found.length === 0) {
    const names = [...new Set(all.map(({ op }) => op))];
    throw new InputError(`--filter ${flags.filter}: matches no benchmark; the ops are ${names.join(", ")}`);
  }
  return found;
}

export const ops: Suite = {
  summary: "every op of the device, with its share of this machine's peak",
  usual: false,
  takes: ["filter", "device", "shape", "dtype", "threads", "path", "quick"],
  async run(flags, line) {
    // Report command-line errors before opening a device, which may compile kernels.
    const [onCpu, onGpu] = ["SmolLM2-135M", "Qwen3-0.6B"].map((name) =>
      modelShapes(modelNamed(flags.shape ?? name).config),
    );
    chosen(flags, { ...onCpu!, ...processorLoad }, { ...onGpu!, ...gpuLoad });
    return withMeter(flags, async (meter) => {
      const { device } = meter;
      const benches = chosen(flags, shapesOn(device, flags.shape));
      const table = opsTable(benches);
      line(device.description);
      line(table.head);
      const patience = flags.quick ? { samples: 3, time: 10 } : { samples: 5, time: 60 };
      const report: OpsReport = await runOps(meter, benches, patience, (result) => line(table.row(result)));
      for (const text of opsSummary(report)) line(text);
      const { measured, below } = productShares(report.results);
      const matmul = measured.length === 0 ? null : { measured: measured.length, below: below.length };
      return { ...report, matmulAtTrainingShapes: matmul };
    });
  },
};
