/** Bfloat16 attention does at least 95 % of its operations in `mma`, on Hopper in `wgmma`, in prefill and in training. */
import { afterEach, beforeAll, expect, test } from "bun:test";
import { type CudaDevice, openCudaDevice } from "../../src/device/cuda/device.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { buildEmulator } from "../emulator/build.ts";
import { type EmulatorControl, openControl } from "../emulator/control.ts";

let folder: string;
let control: EmulatorControl;
let device: CudaDevice | undefined;

beforeAll(async () => {
  ({ folder } = await buildEmulator());
  control = openControl(folder);
});
afterEach(() => {
  device?.close();
  control.setComputeCapability(80);
});

/** A prompt of 150 tokens followed by two completions. */
const segments = Int32Array.of(0, 150, 0, 0, 150, 70, 0, 150, 220, 36, 0, 150);
const T = 256;

/** Share of the operations that attention's kernels have done in `mma` since the counters were cleared. */
function share(): number {
  const attention = control.counters().filter(({ kernel }) => kernel.startsWith("attention"));
  const products = attention.reduce((sum, { mmaFlops }) => sum + mmaFlops, 0);
  const others = attention.reduce((sum, { flops }) => sum + flops, 0);
  expect(products).toBeGreaterThan(0);
  return products / (products + others);
}

for (const [capability, headDim] of [
  [80, 64],
  [80, 128],
  [90, 64],
  [90, 128],
] as const)
  test(`heads of ${headDim} on sm_${capability}`, async () => {
    control.setComputeCapability(capability);
    const opened = await openCudaDevice({ libraryFolder: folder });
    device = opened;
    const { ops } = opened;
    const shape = { heads: 2, kvHeads: 1, headDim, scale: headDim ** -0.5 };
    const width = (shape.heads + 2 * shape.kvHeads) * headDim;
    const place = (name: string, dtype: Tensor["dtype"], sizes: number[], bytes: number): Tensor => {
      const t = tensor(name, opened.allocate(sizes.reduce((a, b) => a * b) * bytes, name).address, dtype, sizes);
      const floats = { ...t, dtype: "float32" as const, shape: [(sizes.reduce((a, b) => a * b) * bytes) / 4] };
      if (dtype !== "int32") ops.fill({ ...floats, rowStride: 1 }, 0);
      return t;
    };
    const table = place("segments", "int32", [3, 4], 4);
    opened.upload(table, segments);
    const [qkv, dqkv] = [place("qkv", "bfloat16", [T, width], 2), place("dqkv", "bfloat16", [T, width], 2)];
    const [out, dout] = ["out", "dout"].map((name) => place(name, "bfloat16", [T, 2 * headDim], 2));
    const lse = place("lse", "float32", [T, 2], 4);
    const scratch = place("scratch", "float32", [T, opened.attentionScratchElements(shape)], 4);

    control.clearCounters();
    ops.attentionForward(out!, lse, qkv, table, shape);
    const forward = share();
    control.clearCounters();
    ops.attentionBackward(dqkv, dout!, qkv, out!, lse, table, scratch, shape);
    const backward = share();
    const ending = capability === 90 ? "_warpgroup" : "";
    const sums = ["keys", "queries"].map((sum) => `attention_backward_${sum}${ending}`);
    expect(Object.keys(control.launches()).sort()).toEqual(
      ["attention_backward_prepare", "attention_backward_sum", ...sums].sort(),
    );
    expect(forward).toBeGreaterThanOrEqual(0.95);
    expect(backward).toBeGreaterThanOrEqual(0.95);
  });
