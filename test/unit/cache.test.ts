/** Where the cache is, by the environment, and for a user without a home folder. */
import { afterAll, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const folder = mkdtempSync(join(tmpdir(), "cache-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** `before` runs when the sources, which another user may not be able to read, have been read. */
const program = (
  before: string,
) => `const { cacheFolder } = await import(${JSON.stringify(join(import.meta.dir, "../../src/cache.ts"))});
  ${before}
  try { console.log(cacheFolder()); } catch (error) { console.log(error.name + ": " + error.message); }`;

/** Root may write anywhere: for it the process becomes another user's, who owns nothing. */
const NOBODY = 65534;
const asUser = `if (process.getuid() === 0) process.setuid(${NOBODY});`;

function cacheFolder(env: Record<string, string>, before = ""): string {
  const { stdout } = Bun.spawnSync([process.execPath, "-e", program(before)], {
    env: { PATH: "", ...beBun, ...env },
  });
  return stdout.toString().trim();
}

/** For a process that is Bun only where it is told to be. */
const beBun: Record<string, string> = process.env.BUN_BE_BUN ? { BUN_BE_BUN: "1" } : {};

test("by BUN_GRPO_CACHE, XDG_CACHE_HOME, the home folder", () => {
  const all = { BUN_GRPO_CACHE: "/a", XDG_CACHE_HOME: "/b", HOME: "/c" };
  expect(cacheFolder(all)).toBe("/a");
  expect(cacheFolder({ ...all, BUN_GRPO_CACHE: "" })).toBe("/b/bun-grpo");
  expect(cacheFolder({ HOME: folder })).toBe(join(folder, ".cache/bun-grpo"));
});

test("without a home folder: one of the user's own among the temporary files, never another's", () => {
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

test("a home folder that cannot be written is none, nor is / for a user other than root", () => {
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
