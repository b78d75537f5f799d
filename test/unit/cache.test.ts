/** Where the cache is, by the environment, and for a user without a home folder. */
import { afterAll, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync, statSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const folder = mkdtempSync(join(tmpdir(), "cache-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const program = `const { cacheFolder } = await import(${JSON.stringify(join(import.meta.dir, "../../src/cache.ts"))});
  try { console.log(cacheFolder()); } catch (error) { console.log(error.name + ": " + error.message); }`;

function cacheFolder(env: Record<string, string>): string {
  const { stdout } = Bun.spawnSync([process.execPath, "-e", program], { env: { PATH: "", ...beBun, ...env } });
  return stdout.toString().trim();
}

/** For a process that is Bun only where it is told to be. */
const beBun: Record<string, string> = process.env.BUN_BE_BUN ? { BUN_BE_BUN: "1" } : {};

test("by BUN_GRPO_CACHE, XDG_CACHE_HOME, the home folder", () => {
  const all = { BUN_GRPO_CACHE: "/a", XDG_CACHE_HOME: "/b", HOME: "/c" };
  expect(cacheFolder(all)).toBe("/a");
  expect(cacheFolder({ ...all, BUN_GRPO_CACHE: "" })).toBe("/b/bun-grpo");
  expect(cacheFolder({ HOME: "/c" })).toBe("/c/.cache/bun-grpo");
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
