/** 8-bit moments equal those of bitsandbytes on a CPU (test/golden/make_quantization.py), and take the planned bytes. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { type CpuDevice, openCpuDevice } from "../../src/device/cpu/device.ts";
import type { DeviceMemory, QuantizedMoment, Weight } from "../../src/device/device.ts";
import { loadScales } from "../../src/device/nf4.ts";
import { planOptimizer } from "../../src/optim/adamw.ts";
import { usualForm } from "../../src/optim/form.ts";
import { bfloat16ToNumber } from "../../src/tensor/dtype.ts";
import { dynamicMap, nearestCodes } from "../../src/tensor/dynamic-map.ts";
import { nf4Blocks, quantizeNf4, quantizeScales } from "../../src/tensor/nf4.ts";
import { planMemory } from "../../src/tensor/plan.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import golden from "../golden/quantization.json";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const bytes = (text: string) => new Uint8Array(Buffer.from(text, "base64"));
const floats = (text: string) => new Float32Array(bytes(text).buffer);

test.each([
  ["signed", true],
  ["unsigned", false],
] as const)("the %s map, and codes of numbers", (name, isSigned) => {
  const want = golden.blockwise[name];
  const map = dynamicMap(isSigned);
  expect(map).toEqual(floats(want.map));
  expect(map.indexOf(0)).toBe(isSigned ? 127 : 0);
  const nearest = nearestCodes(map);
  const [values, absmax] = [floats(want.values), floats(want.absmax)];
  const codes = Uint8Array.from(values, (x, i) => {
    const normed = Math.fround(x * Math.fround(1 / absmax[Math.floor(i / 256)]!));
    return nearest[Math.trunc(Math.fround(Math.fround(Math.fround(normed + 1) * 0.5) * 65_535 + 0.5))]!;
  });
  expect(codes).toEqual(bytes(want.codes));
  const decoded = Float32Array.from(codes, (code, i) => map[code]! * absmax[Math.floor(i / 256)]!);
  expect(decoded).toEqual(floats(want.decoded));
});

describe("steps of AdamW8bit", () => {
  let device: CpuDevice;
  let memory: DeviceMemory;
  beforeAll(async () => {
    device = await openCpuDevice();
    memory = device.allocate(2 ** 20, "a parameter with its optimizer");
  });
  afterAll(() => {
    memory.free();
    device.close();
  });

  test("on every instruction path of this machine", () => {
    const { settings, steps, start } = golden.adamw_8bit;
    const n = floats(start).length;
    let used = 0;
    const place = (name: string, dtype: Tensor["dtype"], count: number): Tensor => {
      const placed = tensor(name, memory.address + used, dtype, [count]);
      used += Math.ceil((count * 4) / 128) * 128;
      return placed;
    };
    const blocks = Math.ceil(n / 256);
    const [weight, g] = [place("w", "float32", n), place("g", "float32", n)];
    const moment = (name: string): QuantizedMoment => ({
      codes: place(`${name} codes`, "uint8", n),
      absmax: place(`${name} absmax`, "float32", blocks),
    });
    const [m, v] = [moment("m"), moment("v")];
    const maps = { numbers: place("numbers", "float32", 512), nearest: place("nearest", "uint8", 131_072) };
    const both = [dynamicMap(true), dynamicMap(false)];
    device.upload(maps.numbers, Float32Array.from(both.flatMap((map) => [...map])));
    device.upload(maps.nearest, Uint8Array.from(both.flatMap((map) => [...nearestCodes(map)])));
    const w: Weight = { name: "w", address: weight.address, dtype: "float32", shape: [n], elements: n };
    for (const { name, supported } of device.library.paths) {
      if (!supported) continue;
      device.library.selectPath(name);
      device.upload(weight, floats(start));
      for (const { codes, absmax } of [m, v]) {
        device.upload(codes, new Uint8Array(n));
        device.upload(absmax, new Float32Array(blocks));
      }
      for (const [i, want] of steps.entries()) {
        device.upload(g, floats(want.gradient));
        const { lr: learningRate, betas, eps: epsilon, weight_decay: weightDecay } = settings;
        const [beta1 = 0, beta2 = 0] = betas;
        const hyper = { learningRate, beta1, beta2, epsilon, weightDecay, step: i + 1, gradientScale: 1 };
        device.ops.adamw8bit(w, weight, m, v, maps, g, hyper);
        const [got, wanted] = [device.download(weight), floats(want.weight)];
        const far = got.findIndex((x, j) => Math.abs(x - wanted[j]!) > 2e-6);
        expect([name, i, far]).toEqual([name, i, -1]);
        for (const [held, codes, absmax] of [
          [m, bytes(want.m), floats(want.m_absmax)],
          [v, bytes(want.v), floats(want.v_absmax)],
        ] as const) {
          // Sums rounded in another order may lie on the other side of a boundary.
          const other = device.download(held.codes).filter((code, j) => code !== codes[j]).length;
          expect(other).toBeLessThanOrEqual(n / 1000);
          const scales = device.download(held.absmax);
          expect(scales.findIndex((x, j) => Math.abs(x / absmax[j]! - 1) > 2e-6)).toBe(-1);
        }
      }
    }
  });

  test("the plan has a byte for each moment, and four for each block", () => {
    const shapes = { big: [64, 128], small: [31, 128], vector: [5000], embedding: [100, 64] };
    const blocks = Object.entries(shapes).map(([name, shape]) => {
      return { name, parts: [{ name, shape, decays: true, trainable: true }] };
    });
    const bytesOf = (form: Partial<typeof usualForm>, dtype: "float32" | "bfloat16") => {
      const plan = planMemory();
      const embeddings = new Set(["embedding"]);
      planOptimizer(plan, device, blocks, dtype, undefined, null, { ...usualForm, embeddings, ...form });
      const groups: Record<string, number> = {};
      for (const { group, bytes } of plan.build().buffers) groups[group] = (groups[group] ?? 0) + bytes;
      return groups;
    };
    const elements = (shape: number[]) => device.parameterElements(shape, "bfloat16");
    const all = Object.values(shapes).reduce((sum, shape) => sum + elements(shape), 0);
    const [big, vector] = [elements(shapes.big), elements(shapes.vector)];
    const eight = 2 * (big + vector + 4 * (Math.ceil(big / 256) + Math.ceil(vector / 256)));
    const others = 8 * (elements(shapes.small) + elements(shapes.embedding));
    expect(bytesOf({ optim: "adamw_8bit" }, "bfloat16")["Adam moments"]).toBe(eight + others);
    expect(bytesOf({}, "bfloat16")).toMatchObject({ "Adam moments": 8 * all, "master weights": 2 * all });
    expect(bytesOf({ masterDtype: "bfloat16" }, "bfloat16")["master weights"]).toBeUndefined();
    expect(() => bytesOf({ masterDtype: "bfloat16" }, "float32")).toThrow("set dtype bfloat16");
  });
});

describe.each(golden.nf4.map((each) => [each.shape, each] as const))("NF4 of %p", (shape, want) => {
  const elements = shape[0]! * shape[1]!;
  const bits = new Uint16Array(bytes(want.values).buffer);
  const values = Float32Array.from(bits, bfloat16ToNumber);

  test("from bfloat16, the bytes of bitsandbytes", () => {
    const codes = new Uint8Array(Math.ceil(elements / 2));
    const absmax = new Float32Array(nf4Blocks(elements));
    quantizeNf4(codes, absmax, values);
    expect(codes).toEqual(bytes(want.weight));
    const scales = quantizeScales(absmax);
    expect(scales.codes).toEqual(bytes(want.absmax));
    expect(scales.nested).toEqual(floats(want.nested_absmax));
    expect(scales.numbers).toEqual(floats(want.quant_map));
    expect(scales.scaleNumbers).toEqual(floats(want.nested_quant_map));
    const state = JSON.parse(Buffer.from(bytes(want["quant_state.bitsandbytes__nf4"])).toString());
    expect(scales.offset).toBe(state.nested_offset);
  });
});

describe("products with NF4", () => {
  let device: CpuDevice;
  beforeAll(async () => {
    device = await openCpuDevice();
  });
  afterAll(() => device.close());

  test.each(golden.nf4.map((each) => [each.shape, each] as const))(
    "of %p from bitsandbytes' bytes are with its decoded numbers, to the bit, on every instruction path",
    (shape, want) => {
      const [n = 0, k = 0] = shape;
      const layout = device.nf4Layout(shape);
      const memory = device.allocate(layout.bytes + 4 * (k * k + k * n) + 512, "a product");
      const w: Weight = {
        ...{ name: "w", address: memory.address, dtype: "float32", shape, elements: layout.bytes, quantized: "nf4" },
      };
      device.loadCodes(w, bytes(want.weight), 0, n);
      loadScales(device, w, {
        numbers: floats(want.quant_map),
        codes: bytes(want.absmax),
        scaleNumbers: floats(want.nested_quant_map),
        nested: floats(want.nested_absmax),
        offset: JSON.parse(Buffer.from(bytes(want["quant_state.bitsandbytes__nf4"])).toString()).nested_offset,
      });
      const x = tensor("x", memory.address + Math.ceil(layout.bytes / 128) * 128, "float32", [k, k]);
      const y = tensor("y", x.address + 4 * k * k, "float32", [k, n]);
      device.upload(
        x,
        Float32Array.from({ length: k * k }, (_, i) => (i % (k + 1) === 0 ? 1 : 0)),
      );
      const decoded = floats(want.decoded);
      for (const { name, supported } of device.library.paths) {
        if (!supported) continue;
        device.library.selectPath(name);
        device.ops.matmulForward(y, x, w, null);
        const got = device.download(y);
        const far = decoded.findIndex((number, i) => got[(i % k) * n + Math.floor(i / k)] !== number);
        expect([name, far]).toEqual([name, -1]);
      }
      memory.free();
    },
  );
});
