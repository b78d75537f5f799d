/**
 * A device that computes nothing. It records each op that model, rollout and optimizer call, and the minimum it must move and
 * compute, so that the table's phases are those of the program itself. Memory is only addresses.
 */
import { doPieces, type Pieces } from "../../src/device/breathe.ts";
import { counterBytes } from "../../src/device/cuda/counters.ts";
import { decodeBucket, headChunks, microBatchTokens, ROW_BLOCK } from "../../src/device/cuda/device.ts";
import type { GpuFacts } from "../../src/device/cuda/gpu.ts";
import { pageElements } from "../../src/device/cuda/ops/attention.ts";
import { attentionScratchElements } from "../../src/device/cuda/ops/attention-backward.ts";
import { cudaNf4Layout } from "../../src/device/cuda/ops/nf4.ts";
import { workspaceBytes } from "../../src/device/cuda/products.ts";
import { largestSlots } from "../../src/device/cuda/scratch.ts";
import type { Device, DeviceMemory, NumberArray, Ops } from "../../src/device/device.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { elementCount, type Tensor } from "../../src/tensor/tensor.ts";
import { opTable } from "../ops/cases/all.ts";
import type { Cost, CostOf, Lengths } from "../ops/cost.ts";
import { noteLaunches } from "./counting-runtime.ts";

/** `bytes` are all that the op's kernels move, including those between kernels. */
export interface Work extends Omit<Cost, "between"> {
  readonly op: keyof Ops;
  /** Shapes of the first operands, to distinguish two calls of one op. */
  readonly detail: string;
  /** Kernels and products that the op launches, by name. */
  readonly launches: readonly string[];
}

/** What the real device's settings follow from. */
export type CountedGpu = Pick<GpuFacts, "limits" | "totalBytes">;

export interface CountingDevice extends Device {
  /** The calls since the last `take`. */
  take(): Work[];
}

function zeros(dtype: DType, count: number): NumberArray {
  if (dtype === "float32") return new Float32Array(count);
  if (dtype === "float64") return new Float64Array(count);
  if (dtype === "int32") return new Int32Array(count);
  if (dtype === "uint32") return new Uint32Array(count);
  return new Uint16Array(count);
}

function describe(args: readonly unknown[]): string {
  const shapes = args.flatMap((a) => (a && typeof a === "object" && "shape" in a ? [(a as Tensor).shape] : []));
  return shapes
    .slice(0, 2)
    .map((shape) => shape.join("×"))
    .join(" ");
}

/**
 * @param cache tokens that decode attention reads: in all sequences, and with a group's prompt counted once
 * @param gpu that it stands for
 */
export function countingDevice(
  cache: () => { readonly tokens: number; readonly distinct: number },
  { limits, totalBytes }: CountedGpu,
): CountingDevice {
  let next = 2 ** 30;
  // Allocated before anything is planned.
  let held = workspaceBytes(limits.computeCapability) + counterBytes;
  const notes = noteLaunches(limits);
  let work: Work[] = [];
  const uploaded = new Map<number, Int32Array>();
  const lengths: Lengths = {
    segments(table) {
      for (const [address, data] of uploaded) {
        const at = (table.address - address) / 4; // a field of a block that was uploaded in one piece
        if (at >= 0 && at < data.length) return data.subarray(at, at + elementCount(table.shape));
      }
      throw new Error(`${table.name}: counted before its segments were uploaded`);
    },
    cache,
  };
  const names = Object.keys(opTable) as (keyof Ops)[];
  const ops = Object.fromEntries(
    names.map((op) => [
      op,
      (...args: Parameters<Ops[keyof Ops]>) => {
        const { between, ...cost } = (opTable[op].cost as CostOf<keyof Ops>)(lengths, ...args);
        (notes.ops[op] as (...rest: readonly unknown[]) => void)(...args);
        work.push({ op, detail: describe(args), launches: notes.take(), ...cost, bytes: cost.bytes + (between ?? 0) });
      },
    ]),
  ) as unknown as Ops;
  const allocate = (byteLength: number): DeviceMemory => {
    const address = next;
    next += Math.ceil(byteLength / 256) * 256;
    held += byteLength;
    return {
      address,
      byteLength,
      free() {
        held -= byteLength;
      },
    };
  };
  const fresh = (source: Tensor) => zeros(source.dtype, elementCount(source.shape));
  const recorded = new Map<string, () => Pieces>();
  return {
    kind: "cuda",
    description: "a device that only counts",
    numericsKey: "counting",
    exactlyOnPolicy: false,
    queuesWork: false,
    staging: null,
    peers: null,
    microBatchTokens: microBatchTokens(totalBytes),
    ...headChunks(totalBytes),
    ops,
    take() {
      const taken = work;
      work = [];
      return taken;
    },
    peakFlops: () => 1,
    traceLines: () => [],
    freeBytes: () => Math.max(0, totalBytes - held),
    heldBytes: () => held,
    allocate,
    populate() {},
    allocateHost: allocate,
    upload(target, data) {
      if (data instanceof Int32Array) uploaded.set(target.address, data);
    },
    download: fresh,
    read: async (source) => fresh(source),
    queueRead: (source) => async () => fresh(source),
    activationDType: (dtype) => dtype,
    gradientDType: (dtype) => dtype,
    masterDType: "float32",
    parameterLayout: () => "rows",
    decodeBucket,
    rowBlock: ROW_BLOCK,
    parameterElements: elementCount,
    pageElements,
    attentionScratchElements,
    scratchBytes: (...sizes) => largestSlots(sizes, limits).reduce((a, b) => a + b, 0),
    prepare() {},
    loadParameter() {},
    nf4Layout: cudaNf4Layout,
    loadCodes() {},
    saveParameter() {},
    record(key, job) {
      recorded.set(key, job);
      return doPieces(job());
    },
    replay: (key) => doPieces(recorded.get(key)!()),
    forget: () => recorded.clear(),
    close() {},
  };
}
