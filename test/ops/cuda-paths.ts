/**
 * The CUDA device under test. On the emulator (test/emulator) a case runs in each of its four thread orders, which must agree
 * bit for bit. It also runs once with the results of approximate instructions disturbed by 2⁻²², as on another generation of
 * hardware, and once with the sums of tensor cores truncated rather than rounded, as on hardware; these two only have to stay
 * within the tolerance. Any report of the emulator fails the case.
 *
 * BUN_GRPO_CUDA=real uses this machine's own GPU: two runs, no orders.
 */
import { gpuRounding } from "../../bench/ops/tolerance.ts";
import { openCudaDevice } from "../../src/device/cuda/device.ts";
import type { Device } from "../../src/device/device.ts";
import { buildEmulator } from "../emulator/build.ts";
import { type Accumulation, openControl, type ThreadOrder } from "../emulator/control.ts";
import { deviceArena } from "./arena.ts";
import type { Backend, Path } from "./harness.ts";
import { layoutsOf } from "./layout.ts";

/** Findings about speed, which are irrelevant to results: cases use odd strides and sizes on purpose. */
const advisory: readonly string[] = ["bank-conflict", "uncoalesced"];

const orders: readonly (readonly [ThreadOrder, string])[] = [
  ["ascending", "threads ascending"],
  ["descending", "threads descending"],
  ["far-ahead", "one warp far ahead"],
  ["shuffled", "threads in a random order"],
];

export interface CudaUnderTest {
  readonly paths: readonly Path[];
  /** Reopens the device: an error inside a kernel has invalidated everything that was open. */
  reopen(): Promise<void>;
  /** Kernels that cases have launched so far; unknown on hardware. */
  launched(): readonly string[];
}

function backendOf(device: () => Device, emulated: boolean): Backend {
  return { device, slow: emulated, arena: deviceArena(device, emulated), layoutOf: layoutsOf(device) };
}

async function openEmulated(): Promise<CudaUnderTest> {
  const { folder: libraryFolder } = await buildEmulator();
  const control = openControl(libraryFolder);
  let opened = await openCudaDevice({ libraryFolder });
  const device = () => opened;
  const backend = backendOf(device, true);
  const launched = new Set<string>();
  /** @throws Error with the emulator's findings */
  const settle = () => {
    for (const name of Object.keys(control.launches())) launched.add(name);
    const found = control.reports().filter(({ kind }) => !advisory.includes(kind));
    control.clearReports();
    if (found.length > 0) throw new Error(found.map(({ text }) => text).join("\n"));
  };
  const run = (order: ThreadOrder, what: string, perturb: boolean, accumulation: Accumulation = "rounded") => ({
    what,
    select() {
      control.setOrder(order);
      control.setPerturb(perturb);
      control.setAccumulation(accumulation);
    },
    settle,
  });
  const ordered = orders.map(([order, what]) => run(order, what, false));
  const disturbed = [run("ascending", "disturbed results", true)];
  // Less exact than any GPU: more steps than an H100, and each step loses more bits than on an A100.
  const truncating = [run("ascending", "truncated sums", false, { products: 8, extraBits: 2 })];
  return {
    paths: [
      { name: "cuda", backend, device, ...gpuRounding, equalBits: true, runs: ordered },
      { name: "cuda disturbed", backend, device, ...gpuRounding, equalBits: false, runs: disturbed },
      { name: "cuda truncating", backend, device, ...gpuRounding, equalBits: true, runs: truncating },
    ],
    async reopen() {
      control.reset();
      opened = await openCudaDevice({ libraryFolder });
    },
    launched: () => [...launched],
  };
}

async function openReal(): Promise<CudaUnderTest> {
  const opened = await openCudaDevice();
  const device = () => opened;
  const runs = ["the first run", "the second run"].map((what) => ({ what, select() {} }));
  return {
    paths: [{ name: "cuda", backend: backendOf(device, false), device, ...gpuRounding, equalBits: true, runs }],
    async reopen() {}, // a lost context ends with the process that holds it (cuda-workers.ts)
    launched: () => [],
  };
}

/** Whether this machine's own GPU was requested. */
export const onHardware = process.env.BUN_GRPO_CUDA === "real";

export const openCudaUnderTest = (): Promise<CudaUnderTest> => (onHardware ? openReal() : openEmulated());
