/** The location of the cache, from the environment or for a user without a home folder; and writing a file into it. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Nvrtc } from "../../ffi/bindings/nvrtc.ts";
import { writeInCache } from "../../src/cache.ts";
import { kernelCompiler } from "../../src/device/cuda/compile.ts";

const folder = mkdtempSync(join(tmpdir(), "cache-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** `before` runs once the sources, which another user may be unable to read, have been read. */
const program = (
  before: string,
) => `const { cacheFolder } = await import(${JSON.stringify(join(import.meta.dir, "../../src/cache.ts"))});
  ${before}
  try { console.log(cacheFolder()); } catch (error) { console.log(error.name + ": " + error.message); }`;

/** Root may write anywhere, so the process switches to another user, who owns nothing. */
const NOBODY = 65534;
const asUser = `if (process.getuid() === 0) process.setuid(${NOBODY});`;

function cacheFolder(env: Record<string, string>, before = ""): string {
  const { stdout } = Bun.spawnSync([process.execPath, "-e", program(before)], {
    cwd: folder, // Bun itself writes below it if the home folder is relative
    env: { PATH: "", ...beBun, ...env },
  });
  return stdout.toString().trim();
}

/** For a process that acts as Bun only on request. */
const beBun: Record<string, string> = process.env.BUN_BE_BUN ? { BUN_BE_BUN: "1" } : {};

test("by BUN_GRPO_CACHE, XDG_CACHE_HOME, the home folder", () => {
  const all = { BUN_GRPO_CACHE: "/a", XDG_CACHE_HOME: "/b", HOME: "/c" };
  expect(cacheFolder(all)).toBe("/a");
  expect(cacheFolder({ ...all, BUN_GRPO_CACHE: "" })).toBe("/b/bun-grpo");
  expect(cacheFolder({ HOME: folder })).toBe(join(folder, ".cache/bun-grpo"));
});

test("without a home folder: the user's own folder among the temporary files, never another user's", () => {
  const own = join(folder, `bun-grpo-${process.getuid?.()}`);
  const homeless = { HOME: "relative", TMPDIR: folder };
  expect(cacheFolder(homeless)).toBe(own);
  expect(statSync(own).mode & 0o777).toBe(0o700);
  expect(cacheFolder(homeless)).toBe(own);
  chmodSync(own, 0o777);
  expect(cacheFolder(homeless)).toMatch(/^RunError: .*others can write into it; .*set BUN_GRPO_CACHE/);
  rmSync(own, { recursive: true });
  symlinkSync("/", own);
  expect(cacheFolder(homeless)).toMatch(/^RunError: .*set BUN_GRPO_CACHE/);
});

test("an unwritable home folder is not used, nor is / except for root", () => {
  const user = process.getuid?.() || NOBODY;
  const temporary = join(folder, "temporary");
  mkdirSync(temporary);
  chmodSync(temporary, 0o1777);
  chmodSync(folder, 0o755);
  const env = { TMPDIR: temporary };
  const home = join(folder, "home");
  mkdirSync(home);
  chmodSync(home, 0o777);
  expect(cacheFolder({ ...env, HOME: home }, asUser)).toBe(join(home, ".cache/bun-grpo"));
  mkdirSync(join(home, ".cache"));
  chmodSync(join(home, ".cache"), 0o555);
  const own = join(temporary, `bun-grpo-${user}`);
  expect(cacheFolder({ ...env, HOME: home }, asUser)).toBe(own);
  expect(cacheFolder({ ...env, HOME: "/" }, asUser)).toBe(own);
});

describe("a file of the cache", () => {
  const { BUN_GRPO_CACHE } = process.env;
  const cache = join(folder, "files");
  beforeAll(() => {
    process.env.BUN_GRPO_CACHE = cache;
  });
  afterAll(() => {
    if (BUN_GRPO_CACHE === undefined) delete process.env.BUN_GRPO_CACHE;
    else process.env.BUN_GRPO_CACHE = BUN_GRPO_CACHE;
  });

  test("appears complete, in folders created for it, without leftovers", () => {
    writeInCache(join(cache, "a/b"), "text");
    writeInCache(join(cache, "a/b"), new Uint8Array([65]));
    expect(readFileSync(join(cache, "a/b"), "utf8")).toBe("A");
    expect(readdirSync(join(cache, "a"))).toEqual(["b"]);
    expect(() => writeInCache(join(cache, "a/b/c"), "text")).toThrow("cannot be written");
    expect(() => writeInCache(join(cache, "a"), "text")).toThrow("set BUN_GRPO_CACHE");
    expect(readdirSync(cache)).toEqual(["a"]);
    rmSync(cache, { recursive: true });
  });

  test("has a unique name while it is written: a compiled kernel", () => {
    const cubin = new Uint8Array([1, 2, 3]);
    const nvrtc = { path: "/none", version: "13.0", architectures: [80], compile: () => ({ cubin, ptx: "", log: "" }) };
    const compiled = () => kernelCompiler(nvrtc as unknown as Nvrtc, 80).module("rope.cu", {}, false);
    expect(compiled()).toEqual(cubin);
    const [name = "", ...more] = readdirSync(cache);
    expect([name, more]).toEqual([expect.stringMatching(/^cuda-[0-9a-f]{24}\.cubin$/), []]);
    // another container's process with the same id is writing the same kernel
    rmSync(join(cache, name));
    mkdirSync(join(cache, `${name}.${process.pid}`));
    expect(compiled()).toEqual(cubin);
    expect([...readFileSync(join(cache, name))]).toEqual([1, 2, 3]);
  });
});
