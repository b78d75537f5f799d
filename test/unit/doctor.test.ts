/** `grpo doctor`: its findings about simulated machines, its check of a product, and the command itself. */
import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { buildKernels } from "../../ffi/bindings/cpu.ts";
import { prebuiltKernels } from "../../ffi/cpu/build.ts";
import packageJson from "../../package.json" with { type: "json" };
import { type Finding, findings, leastBun, report } from "../../src/cli/doctor.ts";
import { checkProduct, type Machine } from "../../src/cli/machine.ts";
import { type CpuDevice, openCpuDevice } from "../../src/device/cpu/device.ts";
import { provenPaths } from "../../src/device/cpu/path.ts";

const GiB = 2 ** 30;

const sound: Machine = {
  ...{ bun: leastBun, platform: "linux", arch: "x64", release: "6.1", processor: "Some CPU", cacheFolder: "/cache" },
  cores: { installed: 8, allowed: 8, usable: 8 },
  memory: { total: 16 * GiB, available: 12 * GiB },
  kernels: { library: "/cache/lib.so", compiler: "c++ 12.2", seconds: 0 },
  paths: [
    { name: "portable", supported: true, proven: true },
    { name: "avx2", supported: true, proven: true },
    { name: "avx512", supported: false, proven: true },
    { name: "avx512bf16", supported: false, proven: true },
    { name: "amx", supported: false, proven: true },
    { name: "avx99", supported: false, proven: false },
  ],
  forcedPath: null,
  compute: {
    ...{ path: "avx2", threads: 8, peakGflops: 512, bfloat16Gflops: null, readGigabytes: 33.3 },
    selfCheck: { samples: 64, fromPortable: 1e-7, fromExact: 2e-7, tolerance: 2 ** -18, passed: true },
  },
  cuda: {
    driver: { missing: "libcuda.so.1: not found; looked in here, there; install NVIDIA's driver" },
    gpus: [],
    cublas: { missing: "libcublas.so.13 or libcublas.so.12: not found; looked in here; install it" },
    nvrtc: { missing: "libnvrtc.so.13 or libnvrtc.so.12: not found; looked in here; install it" },
    nccl: { missing: "libnccl.so.2: not found; looked in here; install it" },
  },
  folder: { path: "/run", free: 100 * GiB, writable: true },
  bundled: { model: true, problems: true },
};

function finding(machine: Partial<Machine>, topic: string): Finding {
  const found = findings({ ...sound, ...machine }).filter((f) => f.topic === topic);
  expect(found).toHaveLength(1);
  return found[0]!;
}

const missing = (machine: Partial<Machine>): string[] =>
  findings({ ...sound, ...machine }).flatMap(({ topic, status }) => (status === "missing" ? [topic] : []));

describe("a healthy machine", () => {
  test("has nothing missing, and all measurements are printed", () => {
    expect(missing({})).toEqual([]);
    const text = report(findings(sound), true).join("\n");
    for (const part of [
      "Some CPU, 8 cores usable",
      "12.0 GiB available of 16.0 GiB",
      "c++ 12.2",
      "512 GFLOP/s",
      "33.3 GB/s",
    ])
      expect(text).toContain(part);
    for (const part of ["avx2, 8 threads", "64 elements of a product", "100.0 GiB free in /run", "libcuda.so.1"])
      expect(text).toContain(part);
    expect(text).toEndWith("\nTraining can run here.");
  });

  test("a problem has its cure on the line below", () => {
    const found: Finding[] = [
      { topic: "a", status: "ok", text: "fine" },
      { topic: "longer", status: "missing", text: "gone", cure: "bring it back" },
    ];
    expect(report(found, false)).toEqual([
      "ok       a       fine",
      "MISSING  longer  gone",
      "                 → bring it back",
      "",
      "Training cannot run here until everything marked MISSING is in place.",
    ]);
  });
});

describe("Bun and system", () => {
  test("the oldest Bun is the one that package.json names", () =>
    expect(packageJson.engines.bun).toBe(`>=${leastBun}`));

  test.each([
    ["1.4.4", ["Bun"]],
    ["1.4.5", []],
    ["1.10.0", []],
    ["0.9.9", ["Bun"]],
  ])("Bun %s", (bun, wanted) => expect(missing({ bun })).toEqual(wanted));

  test.each([
    ["linux", "arm64", []],
    ["darwin", "arm64", []],
    ["win32", "x64", ["system"]],
    ["linux", "riscv64", ["system"]],
  ])("%s %s", (platform, arch, wanted) => expect(missing({ platform, arch })).toEqual(wanted));

  test("on Windows, WSL is suggested", () => expect(finding({ platform: "win32" }, "system").cure).toContain("WSL"));
});

describe("cores and memory", () => {
  test.each([
    [{ installed: 8, allowed: 8, usable: 8 }, "Some CPU, 8 cores usable"],
    [{ installed: 8, allowed: 4, usable: 4 }, "Some CPU, 4 cores usable; the affinity mask allows 4 of 8"],
    [{ installed: 8, allowed: 8, usable: 1 }, "Some CPU, 1 core usable; the control group's quota is 1"],
  ])("%j", (cores, text) => expect(finding({ cores }, "processor").text).toBe(text));

  test.each([
    [0.1, "missing"],
    [1, "note"],
    [2, "ok"],
  ])("%d GiB available", (available, status) => {
    const found = finding({ memory: { total: 16 * GiB, available: available * GiB } }, "memory");
    expect(found.status as string).toBe(status);
    expect(found.cure === undefined).toBe(status === "ok");
  });
});

describe("kernels", () => {
  test("just built: how long it took", () => {
    const kernels = { library: "/cache/lib.so", compiler: "c++ 12.2", seconds: 12.34 };
    expect(finding({ kernels }, "kernels").text).toBe("built just now in 12.3 s: lib.so in /cache");
  });

  test("without a compiler: paths are not mentioned, and the cure is on its own line", () => {
    const kernels = { failure: "they need a compiler; install one; or set CXX" };
    const machine = { kernels, paths: [], compute: null };
    expect(missing(machine)).toEqual(["kernels"]);
    expect(finding(machine, "kernels")).toMatchObject({
      text: "they need a compiler",
      cure: "install one; or set CXX",
    });
    expect(findings({ ...sound, ...machine }).some(({ topic }) => topic.startsWith("path"))).toBe(false);
  });

  test("a machine that computes a wrong product is unfit for training", () => {
    const compute = sound.compute as Extract<Machine["compute"], { path: string }>;
    const selfCheck = { ...compute.selfCheck, fromPortable: 0.25, passed: false };
    expect(missing({ compute: { ...compute, selfCheck } })).toEqual(["self-check"]);
    expect(finding({ compute: { ...compute, selfCheck } }, "self-check").text).toContain(
      "2.5e-1 from the portable path",
    );
  });
});

describe("instruction paths", () => {
  /** The healthy machine with a processor that supports these paths, and the path chosen on it. */
  const running = (chosen: string, ...supported: string[]): Partial<Machine> => ({
    paths: sound.paths.map((p) => ({ ...p, supported: supported.includes(p.name) })),
    compute: { ...(sound.compute as object), path: chosen } as Machine["compute"],
  });
  const wide = ["portable", "avx2", "avx512"];
  const said = (machine: Partial<Machine>) =>
    findings({ ...sound, ...machine })
      .filter(({ topic }) => topic.startsWith("path "))
      .map(({ topic, status, text }) => `${status} ${topic.slice(5)}: ${text}`);

  const proven = "supported by this processor, proven on real hardware";
  const lacking = "compiled, not supported by this processor, proven on real hardware";

  test("with AMX, AMX is chosen", () => {
    const machine = running("amx", ...wide, "avx512bf16", "amx");
    const compute = { ...(machine.compute as object), bfloat16Gflops: 4096 } as Machine["compute"];
    expect(finding({ ...machine, compute }, "peak").text).toStartWith(
      "512 GFLOP/s (4096 with bfloat16 weights), reads",
    );
    expect(said(running("amx", ...wide, "avx512bf16", "amx")).slice(0, -1)).toEqual([
      `ok portable: compiled, ${proven}`,
      `ok avx2: compiled, ${proven}`,
      `ok avx512: compiled, ${proven}`,
      `ok avx512bf16: compiled, ${proven}`,
      `ok amx: compiled, ${proven}, chosen`,
    ]);
  });

  test("with AVX-512, AVX-512; paths that the processor lacks are no problem", () => {
    expect(said(running("avx512", ...wide)).slice(2)).toEqual([
      `ok avx512: compiled, ${proven}, chosen`,
      `ok avx512bf16: ${lacking}`,
      `ok amx: ${lacking}`,
      "ok avx99: compiled, not supported by this processor, never run on real hardware",
    ]);
  });

  test("a faster one that the system refuses is named, with the permission it needs", () => {
    const machine = running("avx512bf16", ...wide, "avx512bf16", "amx");
    const found = finding(machine, "path amx");
    expect(found.status).toBe("note");
    expect(found.text).toBe(`compiled, ${proven}; the system denies it to this process, so it is not chosen`);
    expect(found.cure).toContain("arch_prctl");
    expect(said(machine)[3]).toBe(`ok avx512bf16: compiled, ${proven}, chosen`);
    expect(missing(machine)).toEqual([]);
    // If a slower one was requested, the faster one was not refused.
    const forced = { ...running("avx2", ...wide, "avx512bf16", "amx"), forcedPath: "avx2" };
    expect(said(forced)[1]).toEndWith("chosen by BUN_GRPO_CPU_PATH");
    expect(said(forced)[4]).toBe(`ok amx: compiled, ${proven}`);
  });

  test("one that never ran on real hardware is not chosen, and how to force it is explained", () => {
    const machine = running("avx512", ...wide, "avx99");
    const found = finding(machine, "path avx99");
    expect(found.status).toBe("note");
    expect(found.text).toContain(
      "supported by this processor, never run on real hardware; so it is not chosen automatically",
    );
    expect(found.cure).toContain("BUN_GRPO_CPU_PATH=avx99");
    expect(found.cure).toContain("OPS_PATH=avx99 bun test test/ops");
    expect(missing(machine)).toEqual([]);
  });

  test("forced, it is still reported as never run", () => {
    const machine = { ...running("avx99", ...wide, "avx99"), forcedPath: "avx99" };
    const found = finding(machine, "path avx99");
    expect(found).toMatchObject({ status: "note" });
    expect(found.text).toEndWith("never run on real hardware, chosen by BUN_GRPO_CPU_PATH");
    expect(finding(machine, "path avx512").text).not.toContain("chosen");
  });

  test("an unknown one was requested: lists the available ones", () => {
    const compute = { failure: "BUN_GRPO_CPU_PATH=sse9: unknown instruction path; one of portable, avx2" };
    expect(missing({ compute, forcedPath: "sse9" })).toEqual(["path"]);
    expect(finding({ compute, forcedPath: "sse9" }, "path").cure).toBe(
      "unset BUN_GRPO_CPU_PATH, or set it to portable or avx2",
    );
  });
});

describe("parts that training does not need", () => {
  test.each([
    ["disk", { folder: { path: "/run", free: GiB / 2, writable: true } }, "512 MiB free in /run"],
    ["disk", { folder: { path: "/run", free: GiB * 9, writable: false } }, "/run is not writable"],
    ["bundled", { bundled: { model: false, problems: true } }, "data/model is missing"],
    ["bundled", { bundled: { model: false, problems: false } }, "data/model and data/problems are missing"],
  ] as const)("%s", (topic, machine, text) => {
    expect(finding(machine, topic)).toMatchObject({ status: "note", text });
    expect(missing(machine)).toEqual([]);
  });
});

describe("CUDA", () => {
  const path = "/usr/lib/libcuda.so.1";
  const gpu = { name: "Some GPU", computeCapability: "9.0", totalBytes: 80 * GiB, usable: true };
  const cuda: Machine["cuda"] = {
    driver: { version: "13.0", path },
    gpus: [gpu, { ...gpu, name: "Old GPU", computeCapability: "7.5", usable: false }],
    cublas: { version: "13.1.0", path: "/lib/libcublas.so.13" },
    nvrtc: { version: "13.0", path: "/lib/libnvrtc.so.13" },
    nccl: { version: "2.31.2", path: "/lib/libnccl.so.2" },
  };

  test("driver, GPUs and libraries, each with version and path", () => {
    expect(finding({ cuda }, "CUDA")).toMatchObject({ status: "ok", text: `the driver supports CUDA 13.0, ${path}` });
    expect(finding({ cuda }, "cuda:0")).toMatchObject({
      status: "ok",
      text: "Some GPU, compute capability 9.0, 80.0 GiB",
    });
    expect(finding({ cuda }, "cuda:1")).toMatchObject({ status: "note", cure: expect.stringContaining("8.0") });
    expect(finding({ cuda }, "cuBLAS")).toMatchObject({ status: "ok", text: "13.1.0, /lib/libcublas.so.13" });
    expect(finding({ cuda }, "NVRTC")).toMatchObject({ status: "ok", text: "13.0, /lib/libnvrtc.so.13" });
    expect(finding({ cuda }, "NCCL")).toMatchObject({ status: "ok", text: "2.31.2, /lib/libnccl.so.2" });
    expect(missing({ cuda })).toEqual([]);
  });

  test("without a driver: lists the names and places searched, and the cure; training does not need it", () => {
    expect(finding({}, "CUDA")).toEqual({
      ...{ topic: "CUDA", status: "note", text: "libcuda.so.1: not found" },
      cure: "looked in here, there; install NVIDIA's driver",
    });
    const topics = findings(sound).map(({ topic }) => topic);
    expect(topics).not.toContain("cuBLAS");
    expect(missing({})).toEqual([]);
  });

  test("NCCL is missed where there are several GPUs", () => {
    const without = { ...cuda, nccl: sound.cuda.nccl };
    expect(finding({ cuda: without }, "NCCL")).toEqual({
      ...{ topic: "NCCL", status: "note", text: "libnccl.so.2: not found", cure: "looked in here; install it" },
    });
    const topics = findings({ ...sound, cuda: { ...without, gpus: [gpu] } }).map(({ topic }) => topic);
    expect(topics).not.toContain("NCCL");
  });

  test("a driver without a library, and one without a GPU", () => {
    const without = { ...cuda, gpus: [], nvrtc: sound.cuda.nvrtc };
    expect(finding({ cuda: without }, "NVRTC")).toMatchObject({ status: "note", cure: "looked in here; install it" });
    expect(finding({ cuda: without }, "cuda:0").text).toBe("the driver shows no GPU");
  });
});

const device = await openCpuDevice({ threads: 1 });

describe("the product that is checked", () => {
  test.each(device.library.paths.filter(({ supported }) => supported).map(({ name }) => [name]))(
    "is right on %s, and the path in use does not change",
    (path) => {
      const check = checkProduct({ ...device, path });
      expect(check).toMatchObject({ passed: true, samples: 64 });
      expect(check.fromExact).toBeGreaterThan(0);
      device.library.selectPath(device.path);
    },
  );

  const broken = (spoil: (y: Float32Array) => void): CpuDevice => ({
    ...device,
    download(t) {
      const y = device.download(t);
      spoil(y as Float32Array);
      return y;
    },
  });

  test("fails for a small error, for NaN, and when only one path is wrong", () => {
    expect(checkProduct(broken((y) => y.set(y.map((value) => value + 0.01)))).passed).toBe(false);
    expect(checkProduct(broken((y) => y.fill(Number.NaN, y.length - 1))).passed).toBe(false);
    let calls = 0;
    const check = checkProduct(broken((y) => calls++ % 2 === 1 && y.fill(0)));
    expect(check.passed).toBe(false);
    expect(check.fromExact).toBeLessThan(check.tolerance);
    expect(check.fromPortable).toBeGreaterThan(check.tolerance);
  });
});

/** The sources in a pack come with built kernels: nothing is compiled there. */
const builds = test.skipIf(prebuiltKernels() !== null);

describe("the command", () => {
  const main = resolve(import.meta.dir, "../../src/cli/main.ts");
  async function doctor(env: Record<string, string | undefined>, ...argv: string[]) {
    const child = Bun.spawn([process.execPath, main, "doctor", ...argv], {
      ...{ stdout: "pipe", stderr: "pipe" },
      env: { ...process.env, BUN_GRPO_CPU_PATH: undefined, ...env },
    });
    const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    return { out, err, code: await child.exited };
  }

  test("examines this machine, for people and for programs", async () => {
    const { out, code } = await doctor({}, "--json");
    expect(code).toBe(0);
    const {
      ready,
      findings: found,
      machine,
    } = JSON.parse(out) as { ready: boolean; findings: Finding[]; machine: Machine };
    expect(ready).toBe(true);
    expect(machine.bun).toBe(Bun.version);
    expect(machine.memory.available).toBeGreaterThan(0);
    expect(machine.memory.available).toBeLessThanOrEqual(machine.memory.total);
    expect(machine.compute).toMatchObject({ selfCheck: { passed: true } });
    expect(machine.paths.filter(({ proven }) => proven).map(({ name }) => name)).toEqual(
      machine.paths.map(({ name }) => name).filter((name) => provenPaths.includes(name)),
    );
    expect(found).toEqual(findings(machine));
  }, 120_000);

  test("uses the requested path, and exits with 1 for an unknown one", async () => {
    const portable = await doctor({ BUN_GRPO_CPU_PATH: "portable" });
    expect(portable.code).toBe(0);
    expect(portable.out).toMatch(/path portable .*chosen by BUN_GRPO_CPU_PATH\n/);
    const unknown = await doctor({ BUN_GRPO_CPU_PATH: "sse9" });
    expect(unknown).toMatchObject({ code: 1, err: "" });
    expect(unknown.out).toContain("MISSING  path");
    expect(unknown.out).toContain("BUN_GRPO_CPU_PATH=sse9: unknown instruction path");
  }, 120_000);

  builds(
    "without a compiler says so, with the cure and status 1",
    async () => {
      const { out, err, code } = await doctor({ PATH: "/nonexistent", CXX: undefined });
      expect({ err, code }).toEqual({ err: "", code: 1 });
      expect(out).toMatch(/MISSING {2}kernels .*C\+\+20 compiler.*\n +→ install one/);
    },
    120_000,
  );

  builds(
    "a cached library that cannot be loaded counts as missing, with a hint what to delete",
    async () => {
      const cache = mkdtempSync(join(tmpdir(), "grpo-doctor-"));
      const { library } = await buildKernels();
      writeFileSync(join(cache, basename(library)), "torn");
      const { out, err, code } = await doctor({ BUN_GRPO_CACHE: cache });
      rmSync(cache, { recursive: true });
      expect({ err, code }).toEqual({ err: "", code: 1 });
      expect(out).toMatch(/MISSING {2}kernels .*cannot be loaded.*\n +→ delete it to have it rebuilt\n/);
      expect(out).not.toMatch(/^\w+ +path /m);
    },
    120_000,
  );

  test("refuses an unknown flag", async () => {
    const { err, code } = await doctor({}, "--jsn");
    expect({ err, code }).toEqual({ err: "grpo doctor: --jsn: unknown setting; did you mean --json?\n", code: 2 });
  }, 120_000);
});
