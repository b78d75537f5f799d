/** Parts of a release: targets, flags of its programs, the newest required C library, every command's own name. */
import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { executableOf } from "../../release/build.ts";
import { isElfFor, MOST_GLIBC, newestGlibc } from "../../release/carry.ts";
import { compilerFor, isNative, type Target, targetCalled, targets } from "../../release/targets.ts";
import { flagsOf } from "../../release/tool.ts";
import { assetPath } from "../../src/assets.ts";
import { InputError } from "../../src/errors.ts";
import { callOf, commitOf } from "../../src/program.ts";

describe("flags", () => {
  const names = ["target", "outfile"] as const;

  test("are read in both spellings", () => {
    expect(flagsOf(["--target", "linux-x64", "--outfile=a=b"], names)).toEqual({ target: "linux-x64", outfile: "a=b" });
    expect(flagsOf([], names)).toEqual({});
  });

  test.each([
    [["--level", "1"], '"--level": unknown; there is --target, --outfile'],
    [["linux-x64"], '"linux-x64": unknown'],
    [["--target"], "--target: a value is missing"],
    [["--target="], "--target: a value is missing"],
  ])("%j is refused", (argv, message) => {
    expect(() => flagsOf(argv, names)).toThrow(InputError);
    expect(() => flagsOf(argv, names)).toThrow(message);
  });
});

test("a target is one of the supported ones", () => {
  expect(targetCalled("linux-arm64").architecture).toBe("arm64");
  expect(() => targetCalled("windows-x64")).toThrow("--target windows-x64: the executable is built for linux-x64 and");
});

describe("a target of this processor on another system", () => {
  const mac = "darwin-arm64";
  const linux = targetCalled("linux-arm64");

  test("is not the machine's own build", () => {
    expect(targets.filter((target) => isNative(target, mac))).toEqual([]);
    expect(isNative(linux, "linux-arm64")).toBe(true);
    expect(executableOf(linux, mac)).toEndWith("dist/grpo-linux-arm64");
    expect(executableOf(linux, "linux-arm64")).toEndWith("dist/grpo");
  });

  test("needs a compiler for that system", () => {
    const named: Target = { ...linux, crossCompiler: "no-such-compiler" };
    expect(() => compilerFor(named, mac)).toThrow("the CPU kernels for linux-arm64 need no-such-compiler; install it");
  });

  test("is not built from this one's libraries", () => {
    const elf = (machine: number) => {
      const head = Buffer.alloc(64);
      head.writeUInt32BE(0x7f454c46);
      head.writeUInt16LE(machine, 18);
      return head;
    };
    const machO = elf(linux.elfMachine);
    machO.writeUInt32LE(0xfeedfacf);
    expect(isElfFor(linux, elf(183))).toBe(true);
    expect(isElfFor(linux, elf(62))).toBe(false);
    expect(isElfFor(linux, machO)).toBe(false);
    expect(isElfFor(linux, Buffer.alloc(0))).toBe(false);
  });
});

// The program of a running process is an executable for this machine.
test.skipIf(process.platform !== "linux")("the header of this machine's own programs is recognised", () => {
  expect(isElfFor(targetCalled(null), readFileSync(process.execPath))).toBe(true);
});

test("the newest C library version that a library needs is found, and not confused with other versions", () => {
  expect(newestGlibc("\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.4\0GLIBCXX_3.4.40\0MYGLIBC_2.99\0")).toBe(34);
  expect(newestGlibc("")).toBe(0);
  expect(MOST_GLIBC).toBe(34);
});

test("a checkout's commands are called by bun run, and every message of the program gets their names from callOf", () => {
  expect(callOf("train")).toBe("bun run train");
  const files = [...new Bun.Glob("{src,bench,check}/**/*.ts").scanSync(assetPath("."))];
  const naming = files.filter((file) => /\bbun run\b/.test(readFileSync(assetPath(file), "utf8")));
  // Making a pack concerns only users with a checkout.
  expect(naming.sort()).toEqual(["check/main.ts", "src/cli/check-gpu.ts", "src/program.ts"]);
});

test("a folder inside another repository does not report that repository's commit", () => {
  expect(commitOf(join(assetPath("."), "src"))).toBeNull();
  expect(commitOf("/")).toBeNull();
});

test("the executable carries every file that the program requests by name", () => {
  const asked = [...new Bun.Glob("{src,ffi,bench,check}/**/*.ts").scanSync(assetPath("."))].flatMap((file) => {
    const source = readFileSync(assetPath(file), "utf8");
    return [...source.matchAll(/(?:assetPath|bundledPath)\((?:join\()?"([^"]+)"/g)].map((match) => match[1]!);
  });
  const carried = readFileSync(assetPath("release/carry.ts"), "utf8");
  const folders = [...carried.matchAll(/^ {2}"([a-z]+\/[a-z]+)": \//gm)].map((match) => match[1]!);
  expect(folders.length).toBe(4);
  expect(asked.length).toBeGreaterThan(5);
  // The executable itself: the checkout's own folder, and its program; the page, whose sources only a checkout bundles.
  const own = [".", "src/cli/main.ts", "src/dashboard/page", "page"];
  expect(carried).toContain('addPage(join(folder, "page"))');
  const left = asked.filter((path) => !own.includes(path) && !folders.some((folder) => path.startsWith(folder)));
  expect(left).toEqual([]);
  for (const folder of folders) expect(readdirSync(assetPath(folder)).length).toBeGreaterThan(0);
});
