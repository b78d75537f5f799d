/**
 * Runs ops of a set one after the other and says on stdout, a JSON line each, which begins and how it ended: whoever started
 * the process (op-stage.ts) sees what it died of, or hangs in.
 *
 *   grpo check:gpu --op-task '{"set":"small, heads of 64","from":0,"count":1}'
 */
import { cudaMeter } from "../bench/cuda-meter.ts";
import type { OpBench } from "../bench/ops/case.ts";
import { checkBench, runBench } from "../bench/ops.ts";
import { isSticky } from "../ffi/bindings/cuda.ts";
import { type CudaDevice, openCudaDevice } from "../src/device/cuda.ts";
import { errorText } from "../src/errors.ts";
import { chosenOps, type OpChoice } from "./op-sets.ts";

export interface OpTask extends OpChoice {
  /** Index of the first op, and how many at most. */
  readonly from: number;
  readonly count?: number;
  /** Times each once it was right. */
  readonly timed?: boolean;
}

export interface OpLine {
  readonly index: number;
  readonly name: string;
  /** Absent: it begins now. */
  readonly failure?: string | null;
  readonly lost?: boolean;
  readonly seconds?: number;
  /** What was timed: "12.3 µs  1234 GB/s  45 % of what the card gives". */
  readonly speed?: string;
}

export const opName = ({ op, sizes, dtype }: OpBench) => `${op} ${sizes} ${dtype}`;

/** @returns the exit status: 1 where an op failed or the GPU cannot be opened, 3 at once where its context is lost */
export async function runOpTask(task: OpTask): Promise<number> {
  const say = (line: OpLine) => void process.stdout.write(`${JSON.stringify(line)}\n`);
  let device: CudaDevice;
  try {
    device = await openCudaDevice();
  } catch (error) {
    process.stderr.write(`error: ${errorText(error)}\n`);
    return 1;
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
