/** The harness detects every kind of fault it is meant to: each one, planted on purpose, fails its case. */
import { expect, test } from "bun:test";
import { caseName, opCase, type Run, type SuiteRun } from "../../bench/ops/case.ts";
import { tables } from "../../bench/ops/cases/all.ts";
import type { Tolerance } from "../../bench/ops/tolerance.ts";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import type { CpuDevice } from "../../src/device/cpu/device.ts";
import type { Device, Weight } from "../../src/device/device.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { deviceArena } from "./arena.ts";
import { type Backend, execute, type Path } from "./harness.ts";
import { layoutsOf } from "./layout.ts";
import { cpuPath, cpuPaths, defaultDevice, emulatedPaths, someCpuPaths as paths } from "./paths.ts";

/** Writes one float `index` elements from the tensor's address. */
function poke(t: Tensor, index: number, value: number): void {
  new Float32Array(bytesAt(t.address + index * 4, 4))[0] = value;
}

function failure(body: (run: SuiteRun) => void, on: readonly Path[] = paths): string {
  try {
    execute(opCase("fill", { of: "harness" }, body), on);
  } catch (error) {
    return (error as Error).message;
  }
  return "passed";
}

const output = (run: Run, gap = 0) => run.output("y", "float32", [3, 5], { gap });

/** The correct y = 1, followed by `fault`. */
function filled(run: SuiteRun, y: Tensor, fault: (device: Device) => void): void {
  run.run((device) => {
    for (let r = 0; r < 3; r++) for (let i = 0; i < 5; i++) poke(y, r * y.rowStride + i, 1);
    fault(device);
  });
}

test("a sound case passes", () => {
  const message = failure((run) => {
    const y = output(run, 2);
    filled(run, y, () => {});
    run.check(y, new Array(15).fill(1), {});
  });
  expect(message).toBe("passed");
});

test("writes outside an output: after it, before it, in a gap, in an input", () => {
  const stray = (gap: number, index: number) =>
    failure((run) => {
      const y = output(run, gap);
      filled(run, y, () => poke(y, index, 7));
    });
  expect(stray(0, 15)).toContain("wrote past the end of y (element 15 of 15)");
  expect(stray(0, -1)).toContain("wrote before y");
  expect(stray(2, 5)).toContain("wrote in a gap of y (element 5 of 21)");
  const input = failure((run) => {
    const x = run.slot("x", "float32", [4], [1, 2, 3, 4]);
    const y = output(run);
    filled(run, y, () => poke(x, 2, 3.5));
  });
  expect(input).toContain("wrote in input x (element 2 of 4)");
});

test("an element that was never written is NaN and fails", () => {
  const message = failure((run) => {
    const y = output(run);
    run.run(() => poke(y, 0, 1));
    run.check(y, new Array(15).fill(1), { absolute: 1e9 });
  });
  expect(message).toContain("y: element 1 is NaN, wanted 1");
});

test("a difference beyond the tolerance, and NaN or infinity before any difference", () => {
  const against = (got: number, want: number, tolerance: object) =>
    failure((run) => {
      const y = output(run);
      filled(run, y, () => poke(y, 7, got));
      const wanted = new Array(15).fill(1);
      wanted[7] = want;
      wanted[2] = 1 + 1e-3; // a small difference ranks second
      run.check(y, wanted, { absolute: 2e-3, ...tolerance });
    });
  expect(against(2, 2.001, {})).toBe("passed");
  expect(against(2, 2.01, {})).toContain("1 of 15 elements are off; the worst, element 7, is 2, wanted 2.01");
  expect(against(2, 2.01, { relative: 0.01 })).toBe("passed");
  expect(against(Number.NaN, 2, {})).toContain("element 7 is NaN, wanted 2");
  expect(against(2, Number.NaN, {})).toContain("element 7 is 2, wanted NaN");
  expect(against(Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, {})).toContain("is Infinity, wanted -Infinity");
  expect(against(Number.NaN, Number.NaN, {})).toBe("passed");
});

test("bits that change from run to run or with the threads", () => {
  let runs = 0;
  const message = failure((run) => {
    const y = output(run);
    filled(run, y, () => poke(y, 3, 1 + 2 ** -23 * runs++));
  });
  expect(message).toContain("different bits with 2 threads than with 1 thread");
});

test("rows that differ in a bit, and gradients that differ from the slope", () => {
  const rows = failure((run) => {
    const y = output(run, 1);
    filled(run, y, () => poke(y, 2 * y.rowStride, 1 + 2 ** -23));
    run.same(y, 0, y, 1, 1);
    run.same(y, 1, y, 1, 2);
    run.same(y, 0, y, 1, 2);
  });
  expect(rows).toContain("rows 1 and 2 differ in their bits");
  const slopes = (factor: number) =>
    failure((run) => {
      const x = run.random.normal(15);
      const y = output(run);
      run.run(() => {
        for (let i = 0; i < 15; i++) poke(y, i, factor * x[i]!);
      });
      run.differences(
        y,
        (i) => x[i]!,
        (at) => x.reduce((sum, _, i) => sum + at(i) ** 2, 0),
        { absolute: 1e-3 },
      );
    });
  expect(slopes(2)).toBe("passed");
  expect(slopes(2.01)).toContain("by differences at");
});

test("a case that never runs, and one that compares too early", () => {
  expect(failure(() => {})).toContain("never ran");
  expect(failure((run) => run.check(output(run), [], {}))).toContain("compared before it ran");
});

test("a case prints what OPS_CASE takes", () => {
  const settings = { M: 33, N: 31, x: "bf16", bias: true, accumulate: false };
  expect(caseName(opCase("matmulForward", settings, () => {}))).toBe("matmulForward M=33 N=31 x=bf16 bias");
});

test.if(cpuPaths.length > 0)("the paths of this processor and the emulated ones are all present", () => {
  const supported = defaultDevice.library.paths.filter((p) => p.supported).map((p) => p.name);
  const expected = process.env.OPS_PATH ? [process.env.OPS_PATH] : [...supported, ...Object.keys(emulatedPaths)];
  expect(paths.map((p) => p.name)).toEqual(expected);
  const emulated = paths.find((p) => p.name in emulatedPaths);
  if (emulated)
    expect((emulated.device() as CpuDevice).library.paths).toEqual(
      ["portable", "avx512bf16", "amx"].map((name) => ({ name, supported: true, lanes: 16 })),
    );
});

test("the allowance for rounded operands applies only on paths that round them", () => {
  const off = (roundsOperands: boolean, tolerance: Tolerance) =>
    failure(
      (run) => {
        const y = output(run);
        filled(run, y, () => poke(y, 7, 1.01));
        run.check(y, new Array(15).fill(1), tolerance);
      },
      paths.slice(0, 1).map((path) => ({ ...path, roundsOperands })),
    );
  expect(off(true, { absolute: 0.001, operands: { relative: 0.01 } })).toBe("passed");
  expect(off(false, { absolute: 0.001, operands: { relative: 0.01 } })).toContain("1 of 15 elements are off");
  expect(off(true, { absolute: 0.001, operands: { relative: 0.001 } })).toContain("1 of 15 elements are off");
});

test("the allowance for tensor cores' truncation of long sums applies only on paths that use them", () => {
  const long = tables.matmul!.find((one) => caseName(one).startsWith("matmulForward M=3 N=9 K=16400"))!;
  const path = cpuPath("portable", defaultDevice, "portable");
  // The allowance relative to Σ|ab|, about (2/π)·16400, is 2⁻²¹, and there √(16400/1024) = 4 times that: 0.005 and 0.02.
  const off = (by: number, tensorCores: boolean) => {
    const device = () => ({
      ...defaultDevice,
      ops: {
        ...defaultDevice.ops,
        matmulForward(y: Tensor, ...rest: [Tensor, Weight, Weight | null, boolean?]) {
          defaultDevice.ops.matmulForward(y, ...rest);
          const values = new Float32Array(bytesAt(y.address, 3 * 9 * 4));
          for (const [i, value] of values.entries()) values[i] = value - by * Math.sign(value);
        },
      },
    });
    try {
      execute(long, [{ ...path, device, tensorCores }]);
    } catch (error) {
      return (error as Error).message;
    }
    return "passed";
  };
  expect(off(0, false)).toBe("passed");
  expect(off(0.012, true)).toBe("passed");
  expect(off(0.012, false)).toContain("27 of 27 elements are off");
  expect(off(0.03, true)).toContain("27 of 27 elements are off");
});

test("every draw from the largest vocabulary is checked, on a slow device too: a wrong random number is detected", () => {
  const large = tables.sample!.find((one) => caseName(one).startsWith("sample V=151936"))!;
  const path = cpuPath("portable", defaultDevice, "portable");
  const { ops } = defaultDevice;
  const wrong = (draw: number) => {
    const sample: typeof ops.sample = (ids, logprob, sampling, logits, logitRow, counters, seen, s) => {
      const prompt = new Int32Array(bytesAt(counters.address + (draw * 5 + 2) * 4, 4));
      prompt[0]! ^= 1;
      ops.sample(ids, logprob, sampling, logits, logitRow, counters, seen, s);
      prompt[0]! ^= 1;
    };
    const device = () => ({ ...defaultDevice, ops: { ...ops, sample } });
    try {
      execute(large, [{ ...path, device, backend: { ...path.backend, slow: true } }]);
    } catch (error) {
      return (error as Error).message;
    }
    return "passed";
  };
  for (let draw = 0; draw < 6; draw++)
    expect(wrong(draw)).toMatch(
      new RegExp(
        `, ids: element ${draw} is \\d+, wanted \\d+|1 of 6 elements are off; the worst, element ${draw}, is \\d+, wanted \\d+`,
      ),
    );
});

/** The CPU path with the buffers of cases outside the host's bytes, as on a device with its own memory. */
function apart(separate: boolean): Path {
  const device = () => defaultDevice;
  const backend: Backend = { device, slow: false, arena: deviceArena(device, separate), layoutOf: layoutsOf(device) };
  return { ...cpuPath("portable", defaultDevice, "portable"), backend };
}

test.each([true, false])("a device with its own memory; one allocation per buffer: %p", (separate) => {
  const path = apart(separate);
  for (const [table, cases] of Object.entries(tables)) {
    if (table === "sample") continue; // thousands of draws add nothing here
    const seen = new Set<string>();
    for (const one of cases) {
      if (one.only || seen.has(one.op)) continue;
      seen.add(one.op);
      execute(one, [path]);
    }
  }
  const w = (run: Run) => run.weight("w", "float32", [3, 5]);
  const saved = failure(
    (run) => {
      const [target, weight] = [output(run), w(run)];
      run.run((device) => device.saveParameter(target.address + 4, "float32", weight, 0, 3));
      run.check(target, new Float64Array(15), {});
    },
    [path],
  );
  expect(saved).toContain("wrote past the end of y");
  const missed = failure(
    (run) => {
      const y = output(run, 2);
      run.run(() => poke(y, 5, 7));
    },
    [path],
  );
  expect(missed).toContain("wrote in a gap of y");
});
