/**
 * Building the kernels at first use: two processes at once, no compiler, a bad cache folder. And the choice of instruction path
 * for a processor.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildKernels } from "../../ffi/bindings/cpu.ts";
import { runAll } from "../../ffi/compiler.ts";
import { prebuiltKernels } from "../../ffi/cpu/build.ts";
import { assetPath } from "../../src/assets.ts";
import { openCpuDevice } from "../../src/device/cpu/device.ts";
import { choosePath } from "../../src/device/cpu/path.ts";
import { InputError, RunError } from "../../src/errors.ts";

/** The sources in a pack come with built kernels: nothing is compiled there. */
const builds = test.skipIf(prebuiltKernels() !== null);

let folder = "";
let compiler = "";

/**
 * A compiler that compiles nothing: it takes a moment, leaves an empty object, and links by copying the real library. The test
 * is of what happens around the compiler.
 */
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "cpu-build-"));
  compiler = join(folder, "c++");
  const { library } = await buildKernels();
  const script = `#!/bin/sh
[ "$1" = --version ] && { echo "test compiler 1.0"; exit 0; }
for last; do :; done
case " $* " in
  *" -shared "*) sleep 0.2; cp '${library}' "$last" ;;
  *) sleep 0.1; : > "$last" ;;
esac
`;
  writeFileSync(compiler, script);
  chmodSync(compiler, 0o755);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Opens the device in a separate process and prints the outcome. */
const program = `
  const { openCpuDevice } = await import(${JSON.stringify(assetPath("src/device/cpu/device.ts"))});
  let built = 0;
  try {
    const device = await openCpuDevice({ threads: 1, onBuild: () => built++ });
    console.log(JSON.stringify({ path: device.path, built }));
  } catch (error) {
    console.log(JSON.stringify({ name: error.name, message: error.message, exitCode: error.exitCode }));
  }
`;

function start(env: Record<string, string>) {
  const { BUN_GRPO_CPU_PATH: _path, BUN_GRPO_CACHE: _cache, CXX: _cxx, ...inherited } = process.env;
  return Bun.spawn([process.execPath, "-e", program], {
    env: { ...inherited, ...env },
    stdout: "pipe",
    stderr: "pipe",
  });
}

async function outcome(child: ReturnType<typeof start>) {
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  expect(err).toBe("");
  return JSON.parse(out) as { path?: string; built?: number; name?: string; message?: string; exitCode?: number };
}

const open = (env: Record<string, string>) => outcome(start(env));

builds("two processes that build at once into an empty folder both get a library, and leave nothing else", async () => {
  const cache = join(folder, "cache", "new");
  const both = [start({ BUN_GRPO_CACHE: cache, CXX: compiler }), start({ BUN_GRPO_CACHE: cache, CXX: compiler })];
  for (const result of await Promise.all(both.map(outcome))) expect(result).toMatchObject({ built: 1 });
  expect(readdirSync(cache)).toEqual([expect.stringMatching(/^libgrpo-cpu-[0-9a-f]{16}\.so$/)]);
  expect(await open({ BUN_GRPO_CACHE: cache, CXX: compiler })).toMatchObject({ built: 0 });
});

builds("without a compiler: one line that names what was tried and the cure", async () => {
  const result = await open({ BUN_GRPO_CACHE: join(folder, "none"), PATH: "", CXX: "/nonexistent" });
  expect(result).toMatchObject({ name: "RunError", exitCode: 1 });
  expect(result.message).toContain("/nonexistent, c++, g++, clang++");
  expect(result.message).toContain("apt-get install g++");
  expect(result.message).not.toContain("\n");
});

builds("a compiler that fails: its own words, and nothing is left in the cache", async () => {
  const failing = join(folder, "failing");
  writeFileSync(
    failing,
    '#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "path.cpp:1: error: this is too old" >&2\nexit 1\n',
  );
  chmodSync(failing, 0o755);
  const cache = join(folder, "failed");
  const result = await open({ BUN_GRPO_CACHE: cache, CXX: failing });
  expect(result).toMatchObject({ name: "RunError", exitCode: 1 });
  expect(result.message).toContain("this is too old");
  expect(result.message).toContain("GCC 11 or Clang 14");
  expect(result.message).not.toContain("\n");
  expect(readdirSync(cache)).toEqual([]);
});

test("after a job fails no further one is started, and running ones are waited for", async () => {
  const events: string[] = [];
  const job = (name: string, ms: number, fails: boolean) => async () => {
    events.push(`${name} begins`);
    await Bun.sleep(ms);
    events.push(`${name} ends`);
    if (fails) throw new Error(name);
  };
  const jobs = [job("a", 10, true), job("b", 100, false), job("c", 0, false), job("d", 0, false)];
  expect((await runAll(jobs, 2).catch((error: Error) => error))?.message).toBe("a");
  expect(events).toEqual(["a begins", "b begins", "a ends", "b ends"]);
  await Bun.sleep(20);
  expect(events.length).toBe(4);
  const all: number[] = [];
  await runAll(
    [...Array(5).keys()].map((i) => async () => void all.push(i)),
    2,
  );
  expect(all.sort()).toEqual([0, 1, 2, 3, 4]);
});

builds("a cache folder that cannot be created: its name and the setting", async () => {
  const file = join(folder, "a-file");
  writeFileSync(file, "");
  const result = await open({ BUN_GRPO_CACHE: join(file, "cache"), CXX: compiler });
  expect(result).toMatchObject({ name: "RunError", exitCode: 1 });
  expect(result.message).toContain(join(file, "cache"));
  expect(result.message).toContain("BUN_GRPO_CACHE");
});

builds("a damaged library: which file, and that deleting it helps", async () => {
  const cache = join(folder, "damaged");
  mkdirSync(cache);
  await open({ BUN_GRPO_CACHE: cache, CXX: compiler });
  const library = join(cache, readdirSync(cache)[0]!);
  writeFileSync(library, "not a library");
  const result = await open({ BUN_GRPO_CACHE: cache, CXX: compiler });
  expect(result).toMatchObject({ name: "RunError", exitCode: 1 });
  expect(result.message).toContain(library);
  expect(result.message).toContain("delete it");
});

describe("the instruction path", () => {
  /** Slowest first, as in dispatch.cpp. */
  const compiled = ["portable", "avx2", "avx512", "avx512bf16", "amx"];

  /** A library on a processor with `supported` paths, under a system that refuses `refused`; `selected` is the path in use. */
  function libraryOf(supported: readonly string[], refused: readonly string[] = [], names = compiled) {
    const library = {
      paths: names.map((name) => ({ name, supported: supported.includes(name), lanes: 16 })),
      selected: "none",
      selectPath(name: string) {
        if (!supported.includes(name) || refused.includes(name)) throw new RunError(`${name} is not to be had`);
        library.selected = name;
      },
    };
    return library;
  }

  const before = (name: string) => compiled.slice(0, compiled.indexOf(name) + 1);

  test("in this library are in the order that the choice relies on", async () => {
    const { library } = await openCpuDevice();
    const names = library.paths.map(({ name }) => name);
    expect(names).toEqual(compiled.filter((name) => names.includes(name)));
    expect(names[0]).toBe("portable");
  });

  test.each([
    ["a processor with AMX", before("amx"), "amx"],
    ["one with AMX but without AVX512-BF16", [...before("avx512"), "amx"], "amx"],
    ["one with AVX512-BF16", before("avx512bf16"), "avx512bf16"],
    ["one with AVX-512", before("avx512"), "avx512"],
    ["one with AVX2", before("avx2"), "avx2"],
    ["one with none of them", before("portable"), "portable"],
  ])("by default: the fastest that is proven, on %s", (_, supported, wanted) => {
    for (const asked of [undefined, ""]) {
      const library = libraryOf(supported);
      expect(choosePath(library, asked)).toBe(wanted);
      expect(library.selected).toBe(wanted);
    }
  });

  test("by default: the next one if the system does not grant the tile registers", () => {
    const library = libraryOf(before("amx"), ["amx"]);
    expect(choosePath(library, undefined)).toBe("avx512bf16");
    expect(library.selected).toBe("avx512bf16");
    expect(choosePath(libraryOf([...before("avx512"), "amx"], ["amx"]), undefined)).toBe("avx512");
  });

  test("by default: none that never ran on real hardware, however fast", () => {
    expect(choosePath(libraryOf([...compiled, "avx99"], [], [...compiled, "avx99"]), undefined)).toBe("amx");
  });

  test("by request: used, or an error that lists the available ones", () => {
    const library = libraryOf(before("avx2"));
    expect(choosePath(library, "portable")).toBe("portable");
    expect(library.selected).toBe("portable");
    expect(() => choosePath(library, "avx512")).toThrow(InputError);
    expect(() => choosePath(library, "avx512")).toThrow("this processor has no such instructions");
    expect(() => choosePath(library, "AVX2")).toThrow("one of portable, avx2, avx512");
    const refusing = libraryOf(before("amx"), ["amx"]);
    expect(() => choosePath(refusing, "amx")).toThrow(InputError);
    expect(() => choosePath(refusing, "amx")).toThrow("BUN_GRPO_CPU_PATH=amx: the system does not let");
    expect(refusing.selected).toBe("none");
  });

  test("by BUN_GRPO_CPU_PATH", async () => {
    expect(await open({ BUN_GRPO_CPU_PATH: "portable", ...cached() })).toMatchObject({ path: "portable" });
    const result = await open({ BUN_GRPO_CPU_PATH: "sse9", ...cached() });
    expect(result).toMatchObject({ name: "InputError", exitCode: 2 });
    expect(result.message).toContain("BUN_GRPO_CPU_PATH=sse9");
  });
});

/** This process's cache and compiler, so that nothing is built. */
function cached(): Record<string, string> {
  const { BUN_GRPO_CACHE, CXX } = process.env;
  return { ...(BUN_GRPO_CACHE ? { BUN_GRPO_CACHE } : {}), ...(CXX ? { CXX } : {}) };
}
