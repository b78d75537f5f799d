/**
 * The CUDA device itself, on the emulated driver: transfers, parameters, recordings, memory, failures. Streams run lazily, so
 * that anything read, overwritten or freed too early is wrong every time. Ops are tested in test/ops.
 */
import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { isSticky, openDriver, stickyStatuses } from "../../ffi/bindings/cuda.ts";
import { bytesAt, mapAnonymous } from "../../ffi/bindings/libc.ts";
import type { Nvrtc } from "../../ffi/bindings/nvrtc.ts";
import { architectureFor } from "../../src/device/cuda/compile.ts";
import {
  type CudaDevice,
  decodeBucket,
  headChunks,
  microBatchTokens,
  openCudaDevice,
} from "../../src/device/cuda/device.ts";
import { chooseGpu, type GpuFacts } from "../../src/device/cuda/gpu.ts";
import { flatKernels } from "../../src/device/cuda/ops/flat.ts";
import { peakFlops } from "../../src/device/cuda/peak.ts";
import type { KernelDefinition } from "../../src/device/cuda/runtime.ts";
import type { Weight } from "../../src/device/device.ts";
import { InputError, RunError } from "../../src/errors.ts";
import { bfloat16ToNumber, type DType, numberToBfloat16 } from "../../src/tensor/dtype.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { buildEmulator } from "../emulator/build.ts";
import { type EmulatorControl, openControl } from "../emulator/control.ts";

setDefaultTimeout(600_000); // the emulator may have to be compiled first

let libraryFolder: string;
let control: EmulatorControl;
let device: CudaDevice;

beforeAll(async () => {
  libraryFolder = (await buildEmulator()).folder;
  control = openControl(libraryFolder);
  control.reset();
  control.setStreams("lazy");
  device = await openCudaDevice({ libraryFolder });
});
afterAll(() => {
  device.close();
  control.reset();
});

const advisory = ["bank-conflict", "uncoalesced"];
afterEach(() => {
  const found = control.reports().filter(({ kind }) => !advisory.includes(kind));
  control.clearReports();
  expect(found).toEqual([]);
});

/** A packed tensor in its own memory; freed with the device. */
function place(name: string, dtype: DType, shape: readonly number[]): Tensor {
  const bytes = shape.reduce((a, b) => a * b, 1) * 8;
  return tensor(name, device.allocate(bytes, name).address, dtype, shape);
}

const ramp = (n: number, from = 0) => Float32Array.from({ length: n }, (_, i) => from + i);

describe("transfers", () => {
  test("an array may be reused as soon as it is uploaded, however many there are", async () => {
    const n = 40_000; // about a third of a piece of the ring, so that together they fill the ring more than twice
    const targets = Array.from({ length: 60 }, (_, i) => place(`target ${i}`, "float32", [n]));
    const data = new Float32Array(n);
    for (const [i, target] of targets.entries()) {
      data.fill(i + 1);
      device.upload(target, data);
    }
    data.fill(-1);
    for (const [i, target] of targets.entries()) {
      const values = device.download(target) as Float32Array;
      expect([values[0], values[n - 1]]).toEqual([i + 1, i + 1]);
    }
  });

  test("one larger than a piece, and one of odd size", () => {
    const n = 300_001;
    const target = place("large", "float32", [n]);
    device.upload(target, ramp(n));
    expect(device.download(target)).toEqual(ramp(n));
    expect(() => device.upload(tensor("small", target.address, "float32", [2]), ramp(3))).toThrow("12 bytes into 8");
  });

  test("uploads, ops and reads keep their call order", async () => {
    const x = place("x", "float32", [1000]);
    device.upload(x, ramp(1000));
    const first = device.read(x);
    device.ops.scale(x, 2);
    const second = device.read(x);
    device.upload(x, ramp(1000, 5));
    const third = device.read(x);
    expect(await first).toEqual(ramp(1000));
    expect(await second).toEqual(ramp(1000).map((v) => 2 * v));
    expect(await third).toEqual(ramp(1000, 5));
  });

  test("a read does not block the event loop, and a pinned piece is reused by the next one", async () => {
    const x = place("x", "int32", [3]);
    device.upload(x, Int32Array.of(1, -2, 3));
    let turns = 0;
    const timer = setImmediate(() => turns++);
    expect(await device.read(x)).toEqual(Int32Array.of(1, -2, 3));
    clearImmediate(timer);
    expect(turns).toBe(1);
    const { pinned } = control.live();
    for (let i = 0; i < 5; i++) await device.read(x);
    expect(control.live().pinned).toBe(pinned);
    expect(await device.read({ ...x, shape: [0] })).toEqual(new Int32Array(0));
    await expect(device.read({ ...x, shape: [2, 1], rowStride: 2 })).rejects.toThrow("only packed tensors");
  });

  test("each type is read back as its own array type", () => {
    const arrays = [Float32Array.of(1.5), Float64Array.of(2.5), Int32Array.of(-3), Uint32Array.of(4e9)] as const;
    const dtypes = ["float32", "float64", "int32", "uint32"] as const;
    for (const [i, array] of arrays.entries()) {
      const x = place("x", dtypes[i]!, [1]);
      device.upload(x, array);
      expect(device.download(x)).toEqual(array as never);
    }
    const x = place("x", "bfloat16", [2]);
    device.upload(x, Uint16Array.of(0x3f80, 0xc000));
    expect(device.download(x)).toEqual(Uint16Array.of(0x3f80, 0xc000));
  });
});

describe("parameters", () => {
  const rows = 700;
  const width = 3001; // several pieces of staging, and a remainder
  const values = Float32Array.from({ length: rows * width }, (_, i) => bfloat16ToNumber(numberToBfloat16(Math.sin(i))));
  const halves: Record<string, number> = { "0": 0, "1": 0x3c00, "-2": 0xc000, "0.5": 0x3800, "65504": 0x7bff };

  function host(dtype: DType, from: ArrayLike<number>) {
    const size = dtype === "float32" ? 4 : 2;
    const memory = mapAnonymous(from.length * size);
    const bytes = bytesAt(memory.address, from.length * size);
    const array = size === 4 ? new Float32Array(bytes) : new Uint16Array(bytes);
    for (let i = 0; i < from.length; i++) array[i] = dtype === "bfloat16" ? numberToBfloat16(from[i]!) : from[i]!;
    return { address: memory.address, array, free: () => memory.free() };
  }

  const weight = (dtype: "float32" | "bfloat16"): Weight => {
    const { address } = place("w", dtype, [rows, width]);
    return { name: "w", address, dtype, shape: [rows, width], elements: rows * width };
  };

  test.each([
    ["float32", "float32"],
    ["float32", "bfloat16"],
    ["bfloat16", "float32"],
    ["bfloat16", "bfloat16"],
  ] as const)("%s from %s and back, the source free at once", (dtype, stored) => {
    const w = weight(dtype);
    const source = host(stored, values);
    device.loadParameter(w, source.address, stored, 0, rows);
    source.array.fill(0);
    const target = host("float32", new Float32Array(rows * width));
    device.saveParameter(target.address, "float32", w, 0, rows);
    expect(Buffer.from(target.array.buffer).equals(Buffer.from(values.buffer))).toBe(true);
    for (const memory of [source, target]) memory.free();
  });

  test("only some rows, into pinned memory, and float16 as a source", () => {
    const w = weight("bfloat16");
    device.ops.fill(tensor("w", w.address, "float32", [w.elements / 2]), 0);
    const source = host("float32", values);
    device.loadParameter(w, source.address, "float32", 5, 2);
    const pinned = device.allocateHost(4 * width * 2, "pinned");
    device.saveParameter(pinned.address, "bfloat16", w, 4, 3);
    const saved = new Uint16Array(bytesAt(pinned.address, 2 * width * 3));
    expect(saved.slice(0, width).every((bits) => bits === 0)).toBe(true);
    expect(Array.from(saved.slice(width), bfloat16ToNumber)).toEqual([...values.slice(0, 2 * width)]);
    pinned.free();
    source.free();

    const names = Object.keys(halves);
    const bits = host("float16", Object.values(halves));
    const bias: Weight = { name: "b", address: w.address, dtype: "float32", shape: [5], elements: 5 };
    device.loadParameter(bias, bits.address, "float16", 0, 5);
    expect([...(device.download(tensor("b", w.address, "float32", [5])) as Float32Array)]).toEqual(names.map(Number));
    bits.free();
  });
});

describe("recordings", () => {
  test("recorded work has run once, and a replay uses the buffers' current contents", async () => {
    const [x, y] = [place("x", "float32", [64]), place("y", "float32", [64])];
    device.upload(x, ramp(64));
    device.ops.fill(y, 0);
    await device.record("twice", function* () {
      device.ops.add(y, x);
      yield;
      device.ops.scale(y, 2);
    });
    expect(await device.read(y)).toEqual(ramp(64).map((v) => 2 * v));
    device.upload(x, ramp(64, 1));
    await device.replay("twice");
    expect(await device.read(y)).toEqual(ramp(64).map((v) => 6 * v + 2));
    control.clearCounters();
    await device.replay("twice");
    expect(control.calls()).toEqual({ cuGraphLaunch: 1 });
    await device.read(y);

    const { executables } = control.live();
    device.forget("tw");
    expect(control.live()).toMatchObject({ executables: executables - 1, graphs: 0 });
    await expect(device.replay("twice")).rejects.toThrow("nothing recorded under twice");
  });

  test("products with and without a bias are recorded too", async () => {
    const shape = [16, 16];
    const [x, w, y] = ["x", "w", "y"].map((name) => place(name, "float32", shape)) as [Tensor, Tensor, Tensor];
    const b = place("b", "float32", [16]);
    const identity = Float32Array.from({ length: 256 }, (_, i) => (i % 17 === 0 ? 1 : 0));
    device.upload(w, identity);
    device.upload(b, ramp(16));
    device.upload(x, ramp(256));
    const weight = (t: Tensor): Weight => ({ ...t, dtype: "float32", elements: 256 });
    await device.record("products", function* () {
      device.ops.matmulForward(y, x, weight(w), null);
      yield;
      device.ops.matmulForward(y, x, weight(w), weight(b), true);
    });
    const want = (from: number) => ramp(256).map((v, i) => 2 * (v + from) + (i % 16));
    expect(await device.read(y)).toEqual(want(0));
    device.upload(x, ramp(256, 3));
    await device.replay("products");
    expect(await device.read(y)).toEqual(want(3));
    device.forget("");
  });

  test("scratch that has moved since is found", async () => {
    const x = place("x", "float32", [64]);
    const sum = place("sum", "float64", [1]);
    device.upload(x, ramp(64));
    await device.record("sum", function* () {
      device.ops.sumSquares(sum, x);
      yield;
    });
    const before = device.runtime.scratch(0, 1);
    expect(device.runtime.scratch(0, 4 * 2 ** 20)).not.toBe(before);
    device.upload(x, ramp(64, 1));
    await device.replay("sum");
    expect(await device.read(sum)).toEqual(Float64Array.of(ramp(64, 1).reduce((total, v) => total + v * v, 0)));
    expect(control.reports()).toEqual([]);
    device.forget("");
  });

  test("a transfer during recording is refused, and the stream works afterwards", async () => {
    const x = place("x", "float32", [4]);
    let run = 0;
    const bad = device.record("bad", function* () {
      device.ops.fill(x, 7);
      yield;
      if (run++ > 0) device.upload(x, ramp(4));
    });
    await expect(bad).rejects.toThrow("x: an upload within a recorded sequence");
    expect(control.live()).toMatchObject({ graphs: 0, executables: 0 });
    device.upload(x, ramp(4, 1));
    expect(await device.read(x)).toEqual(ramp(4, 1));
    await expect(device.replay("bad")).rejects.toThrow("nothing recorded");
  });
});

describe("memory", () => {
  test("is counted, and freed once", () => {
    const held = device.heldBytes()!;
    const free = device.freeBytes()!;
    const memory = device.allocate(1000, "some");
    expect(memory).toMatchObject({ byteLength: 1000 });
    expect(memory.address % 256).toBe(0);
    expect(device.heldBytes()).toBe(held + 1024);
    expect(device.freeBytes()).toBeLessThan(free);
    memory.free();
    memory.free();
    expect(device.heldBytes()).toBe(held);
    expect(device.freeBytes()).toBe(free);
  });

  test("memory that is not available is refused with the amounts requested, free and held, and what to lower", () => {
    const before = control.live();
    const ask = () => device.allocate(2 ** 40, "the plan");
    expect(ask).toThrow(RunError);
    expect(ask).toThrow(
      /^the plan: .* refused 1048576 MiB; [\d.]+ of its \d+ MiB are free and this run holds [\d.]+; lower micro_batch_tokens, max_concurrent_sequences/,
    );
    expect(control.live()).toEqual(before);
  });

  test("scratch is allocated once, within the announced bytes", () => {
    const sizes = {
      ...{ vocabSize: 5000, hiddenSize: 256, intermediateSize: 512, longest: 128, tokens: 512 },
      ...{
        dtype: "bfloat16" as const,
        headRows: 64,
        sequences: 8,
        attention: { heads: 4, kvHeads: 2, headDim: 64, scale: 1 },
      },
    };
    const held = device.heldBytes()!;
    device.prepare(sizes);
    expect(device.heldBytes()! - held).toBeLessThanOrEqual(device.scratchBytes(sizes));
    const ready = control.live().allocations;
    device.prepare(sizes);
    const dw = place("dw", "float32", [256 * 512]);
    const [dy, input] = [place("dy", "float32", [512, 256]), place("x", "bfloat16", [512, 512])];
    const w = { ...place("w", "bfloat16", [256, 512]), dtype: "bfloat16", elements: 256 * 512 } as const;
    for (const t of [dw, dy]) device.ops.fill(t, 1);
    device.ops.fill(tensor("w", w.address, "float32", [64 * 1024]), 0);
    device.ops.fill(tensor("x", input.address, "float32", [128 * 1024]), 0);
    device.ops.matmulBackwardWeight(dw, dy, input, w); // a gradient of the residual stream is converted
    device.ops.matmulBackwardInput(input, dy, w);
    const x = place("x", "float32", [100_000]);
    device.ops.fill(x, 1);
    device.ops.sumSquares(place("sum", "float64", [1]), x);
    expect(control.live().allocations).toBe(ready + 6);
  });
});

describe("opening and closing", () => {
  test("closing leaves nothing, after allocating, recording and loading", async () => {
    const before = control.live();
    const other = await openCudaDevice({ libraryFolder });
    const memory = other.allocate(4096, "x");
    const x = tensor("x", memory.address, "float32", [1024]);
    await other.record("fill", function* () {
      other.ops.fill(x, 1);
      yield;
    });
    other.allocateHost(100, "pinned");
    await other.read(x);
    const host = mapAnonymous(4096);
    other.loadParameter({ ...x, dtype: "float32", elements: 1024 }, host.address, "bfloat16", 0, 1024);
    host.free();
    other.close();
    expect(control.live()).toEqual(before);
  });

  test("if there is no memory for the workspace, nothing is left behind", async () => {
    const before = control.live();
    control.setMemory(before.bytes + 2 ** 20);
    await expect(openCudaDevice({ libraryFolder })).rejects.toThrow(/workspace of cuBLAS: .* refused 4\.0 MiB/);
    expect(control.live()).toEqual(before);
    control.setMemory(8 * 2 ** 30);
  });

  test("a missing GPU is an input error that lists the existing ones", async () => {
    const open = openCudaDevice({ libraryFolder, device: "cuda:7" });
    await expect(open).rejects.toThrow(InputError);
    await expect(open).rejects.toThrow(/device cuda:7: there are cuda:0 .*name one of them/);
  });

  test("describes itself, and what its bits depend on", () => {
    expect(device.description).toMatch(/^CUDA .* \(sm_80, \d+ SMs\), driver 1\d\.\d, cuBLAS 1\d\./);
    expect(device.numericsKey).toMatch(/^cuda .* sm_80 driver .* cublas .* nvrtc \d+\.\d+$/);
    // 108 multiprocessors at 1410 MHz, as on an A100: 312 TFLOP/s
    expect(device.peakFlops("bfloat16") / 1e12).toBeCloseTo(312, -1);
    expect(device.traceLines()).toEqual([]);
  });

  test("a trace counts calls by symbol and launches by kernel", async () => {
    const other = await openCudaDevice({ libraryFolder, trace: true });
    const x = tensor("x", other.allocate(4096, "x").address, "float32", [1024]);
    for (let i = 0; i < 3; i++) other.ops.fill(x, i);
    const lines = other.traceLines();
    expect(lines.find((line) => line.startsWith("fill "))).toMatch(/ 3 calls +\d+\.\d{3} s$/);
    expect(lines.find((line) => line.startsWith("cuLaunchKernel "))).toMatch(/ 3 calls /);
    other.close();
  });
});

describe("failures", () => {
  test("a kernel's source that does not compile shows the compiler's log", () => {
    const bad: KernelDefinition = { ...flatKernels.fill };
    expect(() => device.runtime.kernel(bad, { X_TYPE: "no_such_type" })).toThrow(
      /^nvrtcCompileProgram: NVRTC_ERROR_COMPILATION[\s\S]*flat\.cu .*-DX_TYPE=no_such_type/,
    );
  });

  test("for a kernel missing from its file, and a launch that the driver refuses, the error names kernel and cure", () => {
    const definition: KernelDefinition = { ...flatKernels.fill };
    const defines = { Y_TYPE: "float", X_TYPE: "float" };
    const { kernel, launch } = device.runtime;
    expect(() => kernel({ ...definition, name: "gone" }, defines)).toThrow(
      /cuModuleGetFunction \(gone\): CUDA_ERROR_NOT_FOUND/,
    );
    const fill = kernel(definition, defines);
    expect(() => launch(fill, [1, 1, 1], 2048, 0, 0, 0, 0)).toThrow(
      /cuLaunchKernel \(fill\): CUDA_ERROR_INVALID_VALUE: .*; see/,
    );
    expect(() => launch(fill, [1, 1, 1], 32, 2 ** 20, 0, 0, 0)).toThrow(/fill: 1048576 bytes of shared memory/);
    expect(() => launch(fill, [1, 1, 1], 32, 0, 0)).toThrow("fill: 1 arguments for 3 parameters");
    launch(fill, [0, 1, 1], 32, 0, 0, 0, 0);
  });

  test("after a fault in a kernel it is reported, and closing is quiet", async () => {
    const other = await openCudaDevice({ libraryFolder });
    const memory = other.allocate(1024, "x");
    const x = tensor("x", memory.address, "float32", [256]);
    other.ops.fill({ ...x, address: 4096 }, 1);
    await expect(other.read(x)).rejects.toThrow(
      /CUDA_ERROR_ILLEGAL_ADDRESS: .*; a kernel failed and the GPU's memory is lost/,
    );
    expect(() => other.upload(x, ramp(4))).toThrow("CUDA_ERROR_ILLEGAL_ADDRESS");
    memory.free();
    other.close();
    expect(control.reports().map(({ kernel }) => kernel)).toContain("fill");
    // It has the same context, and has not noticed the fault yet.
    expect(() => device.close()).toThrow("CUDA_ERROR_ILLEGAL_ADDRESS");
    control.reset();
    control.setStreams("lazy");
    device = await openCudaDevice({ libraryFolder });
  });
});

describe("statuses", () => {
  // Names and numbers as in NVIDIA's cuda.h 13.0: the statuses documented to leave the process in an inconsistent state, the
  // failed assertion, and the uncorrectable errors of memory and links.
  const hardware = [214, 220, 226, 911];
  const lost = [...hardware, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721];

  test("after each status that loses the GPU's memory, the error says so and closing is quiet", async () => {
    expect([...stickyStatuses].sort()).toEqual([...lost].sort());
    device.close(); // a loss affects all that share the context
    for (const status of lost) {
      const other = await openCudaDevice({ libraryFolder });
      const memory = other.allocate(1024, "x");
      const x = tensor("x", memory.address, "float32", [256]);
      await other.record("fill", function* () {
        other.ops.fill(x, 1);
        yield;
      });
      control.fault(status);
      const failure = await other.read(x).catch((error) => error);
      expect({ status: failure.status, sticky: isSticky(failure) }).toEqual({ status, sticky: true });
      expect(failure.message).toMatch(/memory is lost.*start again from the last checkpoint/);
      expect(failure.message.includes("Xid")).toBe(hardware.includes(status));
      memory.free();
      other.close();
      control.reset();
      control.setStreams("lazy");
    }
    device = await openCudaDevice({ libraryFolder });
  });

  test("one that cuBLAS finds first has the driver's name, and closing is quiet", async () => {
    device.close();
    const other = await openCudaDevice({ libraryFolder });
    const [x, w, y] = ["x", "w", "y"].map((name) =>
      tensor(name, other.allocate(1024, name).address, "float32", [16, 16]),
    );
    control.fault(700);
    const multiply = () => other.ops.matmulForward(y!, x!, { ...w!, dtype: "float32", elements: 256 }, null);
    expect(multiply).toThrow(/^cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS/);
    other.close();
    control.reset();
    control.setStreams("lazy");
    device = await openCudaDevice({ libraryFolder });
  });

  test("those caused by installations name the cure, and lose nothing", () => {
    const driver = openDriver({ folder: libraryFolder });
    const failure = (status: number) => {
      try {
        driver.check("cuInit", status);
      } catch (error) {
        expect(isSticky(error)).toBe(false);
        return (error as Error).message;
      }
    };
    expect(failure(2)).toMatch(/CUDA_ERROR_OUT_OF_MEMORY.*; lower micro_batch_tokens/);
    expect(failure(34)).toMatch(/CUDA_ERROR_STUB_LIBRARY.*; .*LD_LIBRARY_PATH/);
    expect(failure(36)).toMatch(/CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER.*; the driver is older/);
    expect(failure(222)).toMatch(/CUDA_ERROR_UNSUPPORTED_PTX_VERSION.*; .*older than NVRTC/);
    expect(failure(35)).toBe("cuInit: status 35; see nvidia-smi, and dmesg for lines with Xid");
  });
});

describe("description of the GPU", () => {
  const gpu = (name: string, computeCapability: number, multiprocessors: number, megahertz: number): GpuFacts => ({
    ...{ ordinal: 0, uuid: "", name, totalBytes: 2 ** 34, clockKilohertz: 1000 * megahertz },
    limits: { computeCapability, multiprocessors, sharedMemory: 0 },
  });

  test("each rank of a machine takes a GPU of its own where there are several", () => {
    const four = [0, 1, 2, 3].map((ordinal) => ({ ...gpu("NVIDIA H200", 90, 132, 1980), ordinal }));
    expect(chooseGpu(four, "cuda").ordinal).toBe(0);
    expect(chooseGpu(four, "cuda", 3).ordinal).toBe(3);
    expect(chooseGpu(four, "cuda:1", 3).ordinal).toBe(1);
    // A launcher that shows each rank its own, or ranks that share one.
    expect(chooseGpu(four.slice(0, 1), "cuda", 3).ordinal).toBe(0);
    expect(() => chooseGpu(four, "cuda", 4)).toThrow(
      /^device cuda: rank 4 of this machine has no GPU: there are cuda:0 NVIDIA H200, .*; start at most one rank for each$/,
    );
  });

  // Dense bfloat16 with float32 sums, as published by NVIDIA, whatever clock the driver reports.
  test.each([
    ["NVIDIA A100-SXM4-80GB", 80, 108, 1410, 312],
    ["NVIDIA A100 80GB PCIe", 80, 108, 1410, 312],
    ["NVIDIA A100-SXM4-80GB MIG 3g.40gb", 80, 42, 1410, 121.3],
    ["NVIDIA GeForce RTX 3090", 86, 82, 1965, 71],
    ["NVIDIA RTX A6000", 86, 84, 2100, 154.8],
    ["NVIDIA GeForce RTX 4090", 89, 128, 2625, 165.2],
    ["NVIDIA L40S", 89, 142, 2520, 362.05],
    ["NVIDIA L4", 89, 58, 2040, 121],
    ["NVIDIA RTX 6000 Ada Generation", 89, 142, 2505, 364.2],
    ["NVIDIA H100 80GB HBM3", 90, 132, 1980, 989.4],
    ["NVIDIA H100 PCIe", 90, 114, 1755, 756],
    ["NVIDIA H100 NVL", 90, 132, 1785, 835],
    ["NVIDIA H200", 90, 132, 1980, 989.4],
    ["NVIDIA GH200 480GB", 90, 132, 1980, 989.4],
    ["NVIDIA H20", 90, 78, 1980, 148],
    ["NVIDIA B200", 100, 148, 1965, 2250],
    ["NVIDIA GeForce RTX 5090", 120, 170, 2407, 209.5],
  ])("peak of %s", (name, capability, multiprocessors, megahertz, teraflops) => {
    const peak = peakFlops(gpu(name, capability, multiprocessors, megahertz)) / 1e12;
    expect(Math.abs(peak / teraflops - 1)).toBeLessThan(0.001);
  });

  // As published for these cards at these clocks; the estimate is close even for cards missing from the table.
  test.each([
    ["Emulated A100", 80, 108, 1410, 312],
    ["NVIDIA GeForce RTX 4080", 89, 76, 2505, 97.5],
    ["NVIDIA GeForce RTX 5080", 120, 84, 2617, 112.6],
    ["NVIDIA Something of 2030", 130, 170, 2407, 419],
  ])("peak of %s, from the driver's figures", (name, capability, multiprocessors, megahertz, teraflops) => {
    const peak = peakFlops(gpu(name, capability, multiprocessors, megahertz)) / 1e12;
    expect(Math.abs(peak / teraflops - 1)).toBeLessThan(0.01);
  });

  test("a GPU that is too old is an input error, and so is one of a generation unknown to NVRTC", () => {
    const old = gpu("Some T4", 75, 40, 1590);
    expect(() => chooseGpu([old], "cuda")).toThrow(/device cuda: Some T4 has compute capability 7\.5, and 8\.0/);
    expect(() => chooseGpu([], "cuda:1")).toThrow(/device cuda:1: the driver shows no GPU; see nvidia-smi/);
    const nvrtc = { version: "12.4", architectures: [75, 80, 86, 89, 90] } as unknown as Nvrtc;
    expect(() => architectureFor(nvrtc, 120)).toThrow(/NVRTC 12\.4 does not compile for this GPU \(sm_120\)/);
    expect([80, 87, 90].map((capability) => architectureFor(nvrtc, capability))).toEqual([80, 86, 90]);
  });
});

test("buckets of decode steps", () => {
  const buckets = [1, 2, 3, 5, 8, 9, 17, 64, 65, 128, 129, 200].map(decodeBucket);
  expect(buckets).toEqual([1, 2, 4, 8, 8, 16, 24, 64, 80, 128, 160, 224]);
});

test("micro-batches and chunks of the head follow the GPU's memory", () => {
  expect([1e9, 8e9, 24e9, 40e9, 80e9].map(microBatchTokens)).toEqual([2048, 3072, 9216, 16384, 16384]);
  expect([24e9, 80e9].map((bytes) => headChunks(bytes).headBytes)).toEqual([600e6, 2 ** 30]);
});
