/**
 * NVIDIA's libraries: a machine without them gets one line about it, or computes on the CPU; NVIDIA's own cuBLAS and NVRTC load
 * through the bindings with every symbol, if they have been fetched.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { openCublas } from "../../ffi/bindings/cublas.ts";
import { openDriver } from "../../ffi/bindings/cuda.ts";
import { openNccl } from "../../ffi/bindings/nccl.ts";
import { MissingLibraryError } from "../../ffi/bindings/nvidia-libraries.ts";
import { openNvrtc } from "../../ffi/bindings/nvrtc.ts";
import { models, scoreFlags, scoresApart } from "../e2e/golden.ts";
import { argvOf, grpo, workFolder } from "../e2e/runs.ts";
import { buildEmulator } from "../emulator/build.ts";
import { fetchedCublas, fetchedNccl, fetchedNvrtc, newestVersion, openPinned } from "./gates/fetch-nvrtc.ts";

// The CPU's kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

function hasDriver(): boolean {
  try {
    openDriver({}, null);
    return true;
  } catch (error) {
    return !(error instanceof MissingLibraryError);
  }
}

const model = models[0]!;
const score = (device: string, output: string) =>
  grpo(["score", ...argvOf(scoreFlags(model, output, { device }))], { seconds: 150 });

describe.skipIf(hasDriver())("without a driver (skipped if there is one)", () => {
  test("--device cuda is an input error of one line that says what is missing and where it was searched", async () => {
    const { code, out, err } = await score("cuda", work.at("none.jsonl"));
    expect({ code, out }).toEqual({ code: 2, out: "" });
    expect(err).toMatch(/^[^\n]*device cuda: libcuda\.so\.1: not found; looked in [^\n]*\n$/);
  });

  test("--device auto computes on the CPU and says so in one line", async () => {
    const output = work.at("auto.jsonl");
    const { code, err } = await score("auto", output);
    expect(code).toBe(0);
    const told = err.split("\n").filter((line) => /CUDA/.test(line));
    expect(told).toEqual([expect.stringMatching(/^computing on the CPU: no CUDA device \(libcuda\.so\.1: not found/)]);
    expect(scoresApart(model, output).logprob).toBeLessThanOrEqual(2e-5);
  });
});

test("the gates check only the pinned compiler", async () => {
  const { nullFolder } = await buildEmulator(); // it reports version 13.0
  expect(newestVersion).toMatch(/^13\.\d+$/);
  expect(openPinned(nullFolder, "13.0").path).toStartWith(nullFolder);
  expect(() => openPinned(nullFolder, "12.8")).toThrow("NVRTC 13.0, and 12.8 is to be checked");
});

describe.skipIf(!fetchedNvrtc())("NVIDIA's NVRTC (skipped unless test/cuda/gates/fetch-nvrtc.ts has run)", () => {
  test("loads with every symbol and compiles", () => {
    const nvrtc = openNvrtc({ folder: fetchedNvrtc()! });
    const source = 'extern "C" __global__ void one(float *x) { x[threadIdx.x] = 1.0f; }';
    const { cubin } = nvrtc.compile({ name: "one.cu", source, headers: [], options: ["-arch=sm_80"] });
    expect(new TextDecoder().decode(cubin.subarray(1, 4))).toBe("ELF");
  });
});

describe.skipIf(!fetchedCublas())("NVIDIA's cuBLAS (skipped unless fetch-nvrtc.ts --cublas has run)", () => {
  test("loads with every symbol", () => {
    expect(openCublas({ folder: fetchedCublas()! }).version).toMatch(/^13\./);
  });
});

describe.skipIf(!fetchedNccl())("NVIDIA's NCCL (skipped unless fetch-nvrtc.ts --nccl has run)", () => {
  test("loads with every symbol, and names a group without a GPU", () => {
    const { version, createId } = openNccl({ folder: fetchedNccl()! });
    expect(version).toMatch(/^2\.\d+\.\d+$/);
    expect(createId()).toHaveLength(128);
    expect(createId()).not.toEqual(createId());
  });
});
