/**
 * Runs the ops of a set in turn and writes a JSON line to stdout when each begins and ends, so that the parent process
 * (op-stage.ts) sees in which op this one died or hangs.
 *
 *   grpo check:gpu --op-task '{"set":"small, heads of 64","from":0,"count":1}'
 */
import { cudaMeter, isEmulated } from "../bench/cuda-meter.ts";
import type { OpBench } from "../bench/ops/case.ts";
import { checkBench, runBench } from "../bench/ops.ts";
import { isSticky } from "../ffi/bindings/cuda.ts";
import { type CudaDevice, openCudaDevice } from "../src/device/cuda/device.ts";
import { errorText } from "../src/errors.ts";
import { tensor } from "../src/tensor/tensor.ts";
import { chosenOps, type OpChoice } from "./op-sets.ts";

export interface OpTask extends OpChoice {
  /** Index of the first op, and the maximum count. */
  readonly from: number;
  readonly count?: number;
  /** Times each op once its result was right. */
  readonly timed?: boolean;
  /** Instead of all that: describe the GPU, as one line of JSON. */
  readonly describe?: boolean;
  /** Instead of all that: one write beyond an allocation, which a tool that watches our kernels must report. */
  readonly stray?: boolean;
}

export interface GpuDescription {
  readonly text: string;
  /** Its driver computes on a processor. */
  readonly emulated: boolean;
}

export interface OpLine {
  readonly index: number;
  readonly name: string;
  /** Absent: it begins now. */
  readonly failure?: string | null;
  readonly lost?: boolean;
  readonly seconds?: number;
  /** The measurement: "12.3 µs  1234 GB/s  45 % of what the card gives". */
  readonly speed?: string;
}

export const opName = ({ op, sizes, dtype }: OpBench) => `${op} ${sizes} ${dtype}`;

/** @returns the exit status: 1 if an op failed or the GPU cannot be opened; 3, immediately, if its context is lost */
export async function runOpTask(task: OpTask): Promise<number> {
  const say = (line: OpLine) => void process.stdout.write(`${JSON.stringify(line)}\n`);
  let device: CudaDevice;
  try {
    device = await openCudaDevice();
  } catch (error) {
    process.stderr.write(`error: ${errorText(error)}\n`);
    return 1;
  }
  if (task.describe) {
    const free = ((device.freeBytes() ?? 0) / 2 ** 30).toFixed(1);
    const text = `${device.description}, ${free} GiB free`;
    process.stdout.write(`${JSON.stringify({ text, emulated: isEmulated(device) } satisfies GpuDescription)}\n`);
    device.close();
    return 0;
  }
  if (task.stray) {
    const { address, byteLength } = device.allocate(256, "a stray write");
    // Within the GPU's page, so that only such a tool notices.
    device.ops.fill(tensor("stray", address + byteLength + 256, "float32", [4]), 1);
    device.download(tensor("waited for", address, "float32", [1]));
    device.close();
    return 0;
  }
  const meter = cudaMeter(device);
  const peak = task.timed ? await meter.peak() : null;
  const benches = chosenOps(task);
  let status = 0;
  for (const [index, bench] of benches.entries()) {
    if (index < task.from || index >= task.from + (task.count ?? benches.length)) continue;
    const name = opName(bench);
    say({ index, name });
    const start = performance.now();
    const seconds = () => (performance.now() - start) / 1000;
    try {
      if (peak) {
        const { milliseconds, rate, bound, share } = await runBench(meter, bench, peak, { samples: 7, time: 0 });
        const amount = bound === "compute" ? `${(rate / 1e3).toFixed(1)} TFLOP/s` : `${rate.toFixed(0)} GB/s`;
        const speed = `${(milliseconds * 1e3).toFixed(1).padStart(9)} µs ${amount.padStart(14)} ${(100 * share).toFixed(0).padStart(4)} %`;
        say({ index, name, failure: null, seconds: seconds(), speed });
      } else {
        checkBench(meter, bench);
        say({ index, name, failure: null, seconds: seconds() });
      }
    } catch (error) {
      const lost = isSticky(error);
      status = 1;
      say({ index, name, failure: errorText(error), lost, seconds: seconds() });
      if (lost) return 3;
    }
  }
  device.close();
  return status;
}
