/**
 * The CPU under test: every instruction path of this machine, and emulated ones (emulated.ts). Each runs a case with one thread
 * and twice with two. OPS_PATH selects one of them.
 */
import { cpuRounding } from "../../bench/ops/tolerance.ts";
import { type CpuDevice, openCpuDevice } from "../../src/device/cpu/device.ts";
import { bfloat16Paths } from "../../src/device/cpu/path.ts";
import { hostArena } from "./arena.ts";
import { emulatedLibrary } from "./emulated.ts";
import type { Backend, Path } from "./harness.ts";
import { layoutsOf } from "./layout.ts";

/** Paths of the emulated library: the portable one with the lanes of AVX-512, and those with emulated instructions. */
export const emulatedPaths: Readonly<Record<string, string>> = {
  portable16: "portable",
  "emulated-avx512bf16": "avx512bf16",
  "emulated-amx": "amx",
};

export const defaultDevice: CpuDevice = await openCpuDevice({ threads: 2, path: "portable" });

const arena = hostArena();

/** Layouts are the path's own, so it is selected before they are asked for. */
function backendOf(device: CpuDevice, selected: string): Backend {
  const onPath = () => {
    device.library.selectPath(selected);
    return device;
  };
  return { device: onPath, slow: false, arena, layoutOf: layoutsOf(onPath) };
}

const backends = new Map<string, Backend>();

/** Two layouts in all: panels are equally wide on every path, and those that multiply in bfloat16 store pairs. */
function sharedBackend(device: CpuDevice, selected: string): Backend {
  const layout = bfloat16Paths.includes(selected) ? "pairs" : "panels";
  const backend = backends.get(layout) ?? backendOf(device, selected);
  backends.set(layout, backend);
  return backend;
}

export function cpuPath(name: string, device: CpuDevice, selected: string): Path {
  const run = (what: string, threads: number) => ({
    what,
    select() {
      device.library.selectPath(selected); // the choice is global to the library, so select again before each run
      device.library.setThreads(threads);
    },
  });
  return {
    name,
    backend: sharedBackend(device, selected),
    device: () => device,
    ...cpuRounding({ path: selected }),
    equalBits: true,
    runs: [run("1 thread", 1), run("2 threads", 2), run("2 threads again", 2)],
  };
}

async function openPaths(): Promise<Path[]> {
  const asked = process.env.OPS_PATH;
  if (asked === "cuda") return [];
  const supported = defaultDevice.library.paths.filter((p) => p.supported);
  const open = (path: string, libraryFile?: string) => openCpuDevice({ threads: 2, path, libraryFile });
  const native = await Promise.all(supported.map(async ({ name }) => cpuPath(name, await open(name), name)));
  if (asked && !(asked in emulatedPaths)) {
    const chosen = native.filter((p) => p.name === asked);
    if (chosen.length > 0) return chosen;
    const names = [...native.map((p) => p.name), ...Object.keys(emulatedPaths), "cuda"];
    throw new Error(`OPS_PATH=${asked}: one of ${names.join(", ")}`);
  }
  const libraryFile = await emulatedLibrary();
  const emulated = await Promise.all(
    Object.entries(emulatedPaths).map(async ([name, path]) => cpuPath(name, await open(path, libraryFile), path)),
  );
  return asked ? emulated.filter((p) => p.name === asked) : [...native, ...emulated];
}

/** Empty if OPS_PATH selects the CUDA device. */
export const cpuPaths: readonly Path[] = await openPaths();

/** The same, never empty: for tests of the suite itself. */
export const someCpuPaths: readonly Path[] =
  cpuPaths.length > 0 ? cpuPaths : [cpuPath("portable", defaultDevice, "portable")];
