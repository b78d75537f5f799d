/** `bun run bench`: every op has a benchmark, its check detects a broken kernel, and the command line's refusals. */
import { describe, expect, test } from "bun:test";
import { resolve } from "node:path";
import { boundOf, cpuMeter, measure, median, openPeakMeter, type Peak } from "../../bench/measure.ts";
import { type OpBench, picks } from "../../bench/ops/case.ts";
import { near, type OpenBench, openBench } from "../../bench/ops/real-sizes.ts";
import { sumOfProducts } from "../../bench/ops/reference.ts";
import { packedTokens, type Shapes, smollm2 } from "../../bench/ops/shapes.ts";
import { allowanceOn, allowed, bfloat16Rounding, cpuRounding, roundedOperands } from "../../bench/ops/tolerance.ts";
import { scattered } from "../../bench/ops/workspace.ts";
import { type OpResult, type OpsReport, opBenches, productShares, runBench, runOps } from "../../bench/ops.ts";
import { opsSummary, opsTable } from "../../bench/table.ts";
import { type CpuDevice, openCpuDevice } from "../../src/device/cpu/device.ts";
import { bfloat16Paths } from "../../src/device/cpu/path.ts";
import type { Ops } from "../../src/device/device.ts";
import { bfloat16ToNumber, numberToBfloat16 } from "../../src/tensor/dtype.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { emulatedLibrary } from "../ops/emulated.ts";

/** Odd sizes, partially filled pages, row counts that are not a multiple of a panel. */
const tiny: Shapes = {
  ...{ D: 36, F: 24, H: 6, Hkv: 2, Dh: 6, V: 130 },
  ...{ prompt: 67, completion: 33, samples: 2, headRows: 5, prefill: 70, batches: [1, 3] },
  large: { M: 7, N: 33, K: 31 },
};

const device = await openCpuDevice({ threads: 2 });
/** The paths that multiply in bfloat16, with emulated instructions, which run on every machine. */
const libraryFile = await emulatedLibrary();
const native = device.library.paths.flatMap(({ name, supported }) => (supported ? [[name, name, null] as const] : []));
const emulated = bfloat16Paths.map((name) => [`emulated ${name}`, name, libraryFile] as const);

/** Runs `work` on an instruction path, then restores the process's own path even if `work` throws. */
async function onPath(path: string, file: string | null, work: (on: CpuDevice) => void): Promise<void> {
  try {
    work(await openCpuDevice({ threads: 2, path, ...(file ? { libraryFile: file } : {}) }));
  } finally {
    device.library.selectPath(device.path);
  }
}

const byOp = Object.entries(opBenches(tiny)) as [keyof Ops, readonly OpBench[]][];
const all = byOp.flatMap(([, benches]) => benches);
const name = ({ op, sizes, dtype }: OpBench) => `${op} ${sizes} ${dtype}`;

type AnyOp = (...args: unknown[]) => void;

/** The device with one op replaced by another. */
function withOp(op: keyof Ops, replace: (original: AnyOp) => AnyOp, on = device): CpuDevice {
  return { ...on, ops: { ...on.ops, [op]: replace(on.ops[op] as AnyOp) } };
}

const twice = (op: keyof Ops, on = device) =>
  withOp(
    op,
    (original) =>
      (...args) => {
        original(...args);
        original(...args);
      },
    on,
  );

/** @returns the cost of one call according to the benchmark */
function check(on: CpuDevice, bench: OpBench): Pick<OpenBench, "flops" | "bytes"> {
  const opened = openBench(on, cpuRounding(on), bench);
  opened.free();
  return opened;
}

describe("every op", () => {
  test("of the device has a benchmark, under its own name, at the sizes of a real model too", () => {
    expect(Object.keys(opBenches(smollm2)).sort()).toEqual(Object.keys(device.ops).sort());
    for (const [op, benches] of byOp) {
      expect(benches.length).toBeGreaterThan(0);
      for (const bench of benches) expect(bench.op).toBe(op);
    }
    expect(packedTokens(smollm2)).toBe(2048);
  });

  test("has both number formats if it supports both", () => {
    const single: string[] = byOp
      .filter(([, benches]) => new Set(benches.map(({ dtype }) => dtype)).size === 1)
      .map(([op]) => op);
    const flat = ["add", "fill", "scale", "sumSquares", "softcapForward", "softcapBackward"];
    // Routers compute in float32, and so do the CPU's gradients of activations.
    const experts = ["routeForward", "routeBackward", "balanceForward", "balanceBackward", "dispatch"];
    const pairs = ["scatterPairs", "combineBackward"];
    expect(single.sort()).toEqual(
      [
        ...[...flat, ...experts, ...pairs],
        "addMasters",
        "biasBackward",
        "embeddingBackward",
        "gatherRows",
        "nextTokens",
        "ropeBackward",
        "sample",
        "scatterRows",
      ].sort(),
    );
  });

  test("has its own line, so that --filter can select it", () => {
    for (const shapes of [tiny, smollm2]) {
      const names = Object.values(opBenches(shapes)).flat().map(name);
      expect(new Set(names).size).toBe(names.length);
    }
  });

  test("states its cost: always bytes, and arithmetic if there is any", () => {
    const free = new Set([
      ...["fill", "cast", "gatherRows", "scatterRows", "embeddingForward", "kvStore", "nextTokens"],
      ...["dispatch", "gatherPairs"],
    ]);
    for (const bench of all) {
      const { flops, bytes } = check(device, bench);
      expect({ name: name(bench), bytes: bytes > 0 }).toEqual({ name: name(bench), bytes: true });
      expect({ name: name(bench), flops: flops > 0 }).toEqual({ name: name(bench), flops: !free.has(bench.op) });
    }
  });

  test.each([...native, ...emulated])("gives the right result on %s", async (_, path, file) => {
    await onPath(path, file, (on) => {
      for (const bench of all) check(on, bench);
    });
  });
});

describe("the check", () => {
  for (const [op, benches] of byOp)
    test(`of ${op} detects a kernel that does nothing`, () => {
      const broken = withOp(op, () => () => {});
      for (const bench of benches) expect(() => check(broken, bench)).toThrow(/ is .*, wanted /);
    });

  test("detects a gradient that is written instead of added, or added twice", () => {
    const accumulating: (keyof Ops)[] = [
      "matmulBackwardWeight",
      "biasBackward",
      "balanceForward",
      "balanceBackward",
      "expertsBackwardWeight",
      "embeddingBackward",
      "rmsnormBackward",
      "lmHeadBackward",
      "adamw",
      "add",
    ];
    for (const op of accumulating)
      for (const bench of opBenches(tiny)[op]) expect(() => check(twice(op), bench)).toThrow(/ is .*, wanted /);
  });

  test("detects one wrong element at the end of a product", () => {
    const bench = opBenches(tiny).matmulForward[0]!;
    const broken = withOp("matmulForward", (original) => (...args) => {
      original(...args);
      const y = args[0] as Tensor;
      const last = y.shape.reduce((a, b) => a * b, 1) - 1;
      device.upload({ ...y, address: y.address + last * 4, shape: [1], rowStride: 1 }, Float32Array.of(0.125));
    });
    expect(() => check(broken, bench)).toThrow(/^y\[/);
  });

  describe.each(emulated)("on %s, where operands are rounded to bfloat16", (_, path, file) => {
    const [exact, rounding] = (["float32", "bfloat16"] as const).map(
      (dtype) => opBenches(tiny).lmHeadBackward.find((bench) => bench.dtype === dtype)!,
    );

    test("allows the rounding only there", async () => {
      await onPath(path, file, (on) => {
        check(on, rounding!);
        expect(() => check({ ...on, path: "portable" }, rounding!)).toThrow(/ is .*, wanted /);
        check({ ...on, path: "portable" }, exact!);
      });
    });

    test("detects a kernel that does nothing, and a gradient added twice", async () => {
      await onPath(path, file, (on) => {
        for (const bench of all.filter(({ dtype }) => dtype === "bfloat16"))
          expect(() =>
            check(
              withOp(bench.op, () => () => {}, on),
              bench,
            ),
          ).toThrow(/ is .*, wanted /);
        expect(() => check(twice("lmHeadBackward", on), rounding!)).toThrow(/ is .*, wanted /);
      });
    });

    test.each([
      ["one percent of a gradient is missing", 0.99],
      ["a bit of the slopes is", 1 - 2 ** -7],
    ])("sees that %s", async (_, factor) => {
      const missing = (on: CpuDevice) =>
        withOp(
          "lmHeadBackward",
          (original) =>
            (...args) => {
              original(...args);
              on.ops.scale(args[0] as Tensor, factor);
            },
          on,
        );
      await onPath(path, file, (on) => expect(() => check(missing(on), rounding!)).toThrow(/^dhidden\[/));
    });
  });

  test("the allowance for rounded operands: several standard deviations for many terms, the full sum for a few", () => {
    const rounding = allowanceOn({ operands: roundedOperands }, { roundsOperands: true, tensorCores: false });
    const allowedOf = (terms: Float64Array) =>
      allowed(
        rounding,
        sumOfProducts(
          terms.length,
          (i) => terms[i]!,
          () => 1,
        ),
      );
    const all = (count: number) => allowedOf(new Float64Array(count).fill(-1));
    expect(allowedOf(new Float64Array(0))).toBe(0);
    expect(all(1)).toBe(bfloat16Rounding);
    expect(all(3) / all(1)).toBeCloseTo(3, 6);
    expect(all(40_000) / all(10_000)).toBeCloseTo(2, 6);
    // Terms rounded to bfloat16 one by one stay well within it; truncated ones of one sign do not.
    const draw = scattered(7);
    const terms = Float64Array.from({ length: 4096 }, (_, i) => Math.fround(1 + (draw(i) + draw(i + 4096) / 64) / 4));
    const off = (to: (x: number) => number) => Math.abs(terms.reduce((sum, x) => sum + to(x) - x, 0));
    expect(off((x) => bfloat16ToNumber(numberToBfloat16(x)))).toBeLessThan(allowedOf(terms) / 2);
    expect(off((x) => Math.floor(x * 128) / 128)).toBeGreaterThan(allowedOf(terms));
  });

  test("rejects NaN and missing values", () => {
    const one = { value: 1, magnitude: 0, squares: 0 };
    const within = (absolute: number) => ({ absolute, relative: 0, magnitude: 0, products: 0 });
    expect(() => near("x", Number.NaN, one, within(10))).toThrow("x is NaN, wanted 1");
    expect(() => near("x", undefined, one, within(10))).toThrow("x is undefined");
    expect(() => near("x", 1.5, one, within(0.25))).toThrow();
    near("x", 1.25, one, within(0.25));
  });

  test("rejects a benchmark that does not call its op", () => {
    const other = opBenches(tiny).fill[0]!;
    expect(() => check(device, { ...other, op: "add" })).toThrow("add: its benchmark did not call it");
  });

  test("names op, sizes, format and path when it fails", async () => {
    const meter = cpuMeter(withOp("scale", () => () => {}));
    const bench = opBenches(tiny).scale[0]!;
    const run = runBench(meter, bench, { compute: 100, memory: 10 }, { samples: 1, time: 0 });
    await expect(run).rejects.toThrow(
      `scale n=${130 * 36} float32 on ${device.path} on 2 threads: wrong result: x[0] is`,
    );
    meter.free();
  });
});

describe("measuring", () => {
  const meter = openPeakMeter(device);

  test("picks the machine's tighter limit", () => {
    const peak = { compute: 200, memory: 20 };
    expect(boundOf(10, 1, peak)).toBe("compute");
    expect(boundOf(9, 1, peak)).toBe("memory");
    expect(boundOf(0, 1, peak)).toBe("memory");
  });

  test("gives the time of one run, and the peak measured meanwhile", () => {
    const work = () => {
      const end = performance.now() + 1;
      while (performance.now() < end);
    };
    const timing = measure(work, { flops: 5e6, bytes: 1e6, bound: "compute" }, meter, { samples: 3, time: 0 });
    expect(timing.milliseconds).toBeGreaterThan(0.9);
    expect(timing.milliseconds).toBeLessThan(20);
    expect(timing.samples).toBe(3);
    expect(timing.rate).toBeCloseTo(5 / timing.milliseconds, 6);
    const memory = measure(work, { flops: 5e6, bytes: 1e6, bound: "memory" }, meter, { samples: 1, time: 0 });
    expect(memory.rate).toBeCloseTo(1 / memory.milliseconds, 6);
    expect(memory.peak).toBeGreaterThan(0.1);
  });

  test("relates each sample to the peaks around it", () => {
    const peaks = [10, 30, 50];
    const scripted = { ...meter, compute: () => peaks.shift()! };
    const work = () => Bun.sleepSync(5);
    const { share, rate, peak } = measure(work, { flops: 1e8, bytes: 1, bound: "compute" }, scripted, {
      ...{ samples: 2, time: 0 },
    });
    expect(peaks).toEqual([]);
    expect(peak).toBe(30);
    // one sample at 20, one at 40: their mean is the median of the two
    expect(share / rate).toBeGreaterThan(1 / 41);
    expect(share / rate).toBeLessThan(1 / 19);
  });

  test("products with bfloat16 weights are compared with the peak of such products, all else with float32's", async () => {
    const scripted = { ...meter, compute: () => 10, products: () => 1000 };
    const slow = { compute: 1e-9, memory: 1e9 }; // so that arithmetic is the limit
    const peakOf = async (op: keyof Ops, dtype: "float32" | "bfloat16", peak: Peak) => {
      const bench = opBenches(tiny)[op].find((one) => one.dtype === dtype)!;
      return (await runBench(cpuMeter(device, scripted), bench, peak, { samples: 1, time: 0 })).peak;
    };
    const both = { ...slow, products: 1e-9 };
    for (const op of ["matmulForward", "matmulBackwardInput", "matmulBackwardWeight", "lmHeadBackward"] as const) {
      expect(await peakOf(op, "bfloat16", both)).toBe(1000);
      expect(await peakOf(op, "bfloat16", slow)).toBe(10);
      expect(await peakOf(op, "float32", both)).toBe(10);
    }
    expect(await peakOf("attentionForward", "bfloat16", both)).toBe(10);
  });

  // Emulated tiles would take a minute for the shortest measurement, so the other emulated path represents both.
  test.each([...native, emulated[0]!])(
    "on %s: two peaks if products have dedicated instructions",
    async (_, path, file) => {
      await onPath(path, file, (on) => {
        const own = openPeakMeter(on);
        const { compute, products } = own.measure();
        own.free();
        expect(compute).toBeGreaterThan(0.01);
        if (bfloat16Paths.includes(path)) expect(products).toBeGreaterThan(0.01);
        else expect(products).toBeUndefined();
      });
    },
  );

  test("of a run: each op in turn, peaks around them", async () => {
    const seen: string[] = [];
    const some = [...opBenches(tiny).matmulForward.slice(0, 2), opBenches(tiny).fill[0]!];
    const report = await runOps(cpuMeter(device), some, { samples: 2, time: 0 }, (r) => seen.push(r.op));
    expect(seen).toEqual(["matmulForward", "matmulForward", "fill"]);
    expect(report.results).toHaveLength(3);
    for (const r of report.results) {
      expect(r.share).toBeGreaterThan(0);
      expect(r.rate).toBeCloseTo((r.bound === "compute" ? r.flops : r.bytes) / r.milliseconds / 1e6, 6);
    }
    expect(report.peaks.first.compute).toBeGreaterThan(0.1);
    expect(report.peaks.last.memory).toBeGreaterThan(0.1);
  });

  test("median, and places spread over a range", () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 2, 3])).toBe(2.5);
    expect(picks(3, 5)).toEqual([0, 1, 2]);
    expect(picks(100, 4)).toEqual([0, 33, 66, 99]);
  });

  test("inputs are bfloat16 numbers in [−1, 1) that differ from place to place", () => {
    const at = scattered(5);
    const values = Array.from({ length: 4096 }, (_, i) => at(i));
    const view = new DataView(new ArrayBuffer(4));
    for (const x of values) {
      expect(x >= -1 && x < 1).toBe(true);
      view.setUint32(0, numberToBfloat16(x) << 16);
      expect(view.getFloat32(0)).toBe(x);
    }
    expect(new Set(values).size).toBe(128);
    expect(Math.abs(values.reduce((a, b) => a + b) / 4096)).toBeLessThan(0.05);
  });
});

describe("the report", () => {
  const result = (op: keyof Ops, use: OpResult["use"], share: number): OpResult => ({
    ...{ op, use, dtype: "float32", sizes: "M=1 N=2 K=3", flops: 12, bytes: 8, bound: "compute" },
    ...{ milliseconds: 1.5, samples: 3, rate: share * 100, peak: 100, share },
  });
  const report = (results: OpResult[]): OpsReport => ({
    ...{ suite: "ops", device: "CPU", measuredOn: "avx2 on 2 threads", sharedMachine: true, results },
    peaks: { first: { compute: 100, memory: 20 }, last: { compute: 90, memory: 19 } },
  });
  const at = (...shares: number[]) => shares.map((share) => result("matmulForward", "training", share));

  test("says whether products reach 70 %, judged by the slowest in training", () => {
    expect(opsSummary(report(at(0.7, 0.9))).join()).toContain(
      "training shapes: yes (2 of 2; the slowest is matmulForward",
    );
    expect(opsSummary(report(at(0.69, 0.9))).join()).toContain("training shapes: no (1 of 2");
    const decode = [...at(0.8), result("matmulForward", "decode", 0.1), result("add", "training", 0.1)];
    expect(productShares(decode).below).toEqual([]);
    expect(opsSummary(report([result("add", "training", 0.1)])).join()).not.toContain("matmul");
  });

  test("names both peaks if there are two", () => {
    const two = { first: { compute: 100, products: 900, memory: 20 }, last: { compute: 90, memory: 19 } };
    expect(opsSummary({ ...report(at(0.9)), peaks: two })[0]).toContain(
      "100 GFLOP/s (900 with bfloat16 weights), 20.0 GB/s before, 90 GFLOP/s, 19.0 GB/s after",
    );
  });

  test("explains shares above 100 %", () => {
    const cached = { ...result("add", "training", 1.5), bound: "memory" as const };
    expect(opsSummary(report([cached])).join()).toContain("above 100 %");
    expect(opsSummary(report(at(0.9))).join()).not.toContain("above 100 %");
    expect(opsSummary(report(at(0.9)))[0]).toContain("100 GFLOP/s, 20.0 GB/s before, 90 GFLOP/s, 19.0 GB/s after");
  });

  test("warns when the peaks before and after are a fifth apart", () => {
    expect(opsSummary(report(at(0.9))).join()).not.toContain("differ");
    const last = { compute: 79, memory: 20 };
    const first = { compute: 100, memory: 20 };
    expect(opsSummary({ ...report(at(0.9)), peaks: { first, last } }).join()).toContain("the peaks differ");
    const memory = { first: { compute: 100, memory: 15 }, last: first };
    expect(opsSummary({ ...report(at(0.9)), peaks: memory }).join()).toContain("the peaks differ");
  });

  test("is a table with aligned columns", () => {
    const { head, row } = opsTable(all);
    for (const share of [0.01, 1.2]) expect(row(result("add", "training", share))).toHaveLength(head.length);
    expect(row(result("add", "training", 0.5))).toMatch(
      /^add +M=1 N=2 K=3 +float32 +1\.50 +50\.0 GFLOP\/s +compute +50 %$/,
    );
  });
});

describe("the command line", () => {
  async function bench(...argv: string[]) {
    const child = Bun.spawn([process.execPath, resolve(import.meta.dir, "../../src/cli/main.ts"), "bench", ...argv], {
      stdout: "pipe",
      stderr: "pipe",
    });
    const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    // The child compiles sources that changed since this file was loaded.
    return { out, err: err.replace("compiling the CPU kernels\n", ""), code: await child.exited };
  }

  test.each([
    [
      ["gemm"],
      'grpo bench: "gemm" is not a suite; choose from peaks, rollout, update, step, data, verify, startup, ffi, ops, roofline\n',
    ],
    [["opps"], 'grpo bench: "opps" is not a suite; did you mean ops?\n'],
    [["ops", "--filter", "("], "grpo bench: --filter (: not a regular expression"],
    [["ops", "--filter", "softmax"], "grpo bench: --filter softmax: matches no benchmark; the ops are matmulForward"],
    [["ops", "--dtype", "int8"], "grpo bench: --dtype"],
    [["ops", "--threads", "0"], "grpo bench: --threads 0: must be a whole number ≥ 1"],
    [["ops", "--path", "sse9"], "grpo bench: --path sse9: no such path; this machine runs portable"],
    [["ops", "--jsn"], "grpo bench: --jsn: unknown setting; did you mean --json?"],
    [["ops", "matmul"], 'grpo bench: "matmul" is not a suite'],
  ] as const)(
    "refuses %j in one line",
    async (argv, message) => {
      const { out, err, code } = await bench(...argv);
      expect(err).toStartWith(message);
      expect(err.trimEnd().split("\n")).toHaveLength(1);
      expect({ out, code }).toEqual({ out: "", code: 2 });
    },
    120_000,
  );

  test.each([
    [["verify", "--threads", "2"], "--threads: verify does not take it"],
    [["ops", "--num_generations", "3"], "--num_generations: ops does not take it"],
    [["ops", "--model", "M"], "--model: ops does not take it; use --shape M"],
    [["ops", "--learning_rate", "3"], "--learning_rate: unknown setting"],
    [["rollout", "--max_completion_length", "1"], "--max_completion_length 1: must be a whole number ≥ 2"],
    [["rollout", "--shape", "data/model", "--model", "data/model"], "--shape and --model: a model has either"],
    [["rollout", "--shape", "data/model", "--device", "cpu", "--prompt_tokens", "9999"], "the model's context is"],
    [["step", "--output_dir", "x"], "--output_dir: a benchmark decides it"],
    [["update", "step", "--compare", "HEAD"], "--compare: takes exactly one suite"],
    [["ops", "--compare", "no-such-revision"], "grpo bench: --compare"],
    [["ops", "--compare", "--exec=true"], "--compare: the value is missing"],
    [["roofline", "--filter", "("], "--filter (: not a regular expression"],
    [["step", "--model", "/nonexistent"], "/nonexistent: no such folder"],
    [["update", "--shape", "/nonexistent"], "/nonexistent: no such folder"],
    [["rollout", "--device", "cpu", "--shape", "Qwen2.5-7B", "--micro_batch_tokens", "1048576"], "MiB are free"],
  ])("refuses %j in one line", async (argv, message) => {
    const { err, code } = await bench(...argv);
    expect(err).toContain(message);
    expect(err.trimEnd().split("\n")).toHaveLength(1);
    expect(code).toBe(2);
  });

  test("accepts a filter for the sizes of either kind of device", async () => {
    const { out, code } = await bench("ops", "--device", "cpu", "--filter", "^scatterRows T=2048", "--quick", "--json");
    expect(code).toBe(0);
    expect(JSON.parse(out).results).toMatchObject([{ op: "scatterRows", dtype: "float32" }]);
  });

  test("--help shows suites and flags", async () => {
    const { out, code } = await bench("--help");
    expect(code).toBe(0);
    for (const word of ["ops", "--filter REGEX", "--path NAME", "--compare REV", "--quick", "--json"])
      expect(out).toContain(word);
  });

  test("prints a table, or JSON, of what --filter selects", async () => {
    const filter = "^kvStore T=1 .*float32|matmulBackwardInput M=2048 N=192 K=576 float32";
    const table = await bench("ops", "--filter", filter, "--quick", "--path", "portable", "--threads", "1");
    expect({ err: table.err, code: table.code }).toEqual({ err: "", code: 0 });
    expect(table.out).toMatch(/\nmatmulBackwardInput +M=2048 N=192 K=576 +float32 .* GFLOP\/s +compute +\d+ %\n/);
    expect(table.out).toMatch(/\nkvStore +T=1 Hkv=3 Dh=64 +float32 .* GB\/s +memory +\d+ %\n/);
    expect(table.out).toMatch(/\npeak of portable on 1 thread: .*\n/);
    expect(table.out).toMatch(/\nmatmul at ≥ 70 % of peak at training shapes: (yes|no) \([01] of 1; /);
  }, 120_000);

  test("prints one JSON object with --json", async () => {
    const { out, code } = await bench(
      "ops",
      "--device",
      "cpu",
      "--filter",
      "^kvStore T=1 ",
      "--dtype",
      "bfloat16",
      "--quick",
      "--json",
    );
    expect(code).toBe(0);
    const { results, peaks, matmulAtTrainingShapes } = JSON.parse(out);
    expect(results).toMatchObject([{ op: "kvStore", dtype: "bfloat16", sizes: "T=1 Hkv=3 Dh=64", bound: "memory" }]);
    expect(matmulAtTrainingShapes).toBeNull();
    expect(peaks.first.compute).toBeGreaterThan(0.1);
  }, 120_000);
});
