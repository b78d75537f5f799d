/** What the executable writes into the cache: unchanged files, once; a folder in use is refreshed, an old one removed. */
import { afterAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { keepInUse, removeStale, STALE_MS } from "../../src/carried.ts";

const folder = mkdtempSync(join(tmpdir(), "carried-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A cache with folders of the given ages in milliseconds, each containing a file. */
function cacheOf(name: string, ages: Readonly<Record<string, number>>): string {
  const cache = join(folder, name);
  for (const [child, age] of Object.entries(ages)) {
    mkdirSync(join(cache, child, "data"), { recursive: true });
    writeFileSync(join(cache, child, "data/file"), "text");
    const time = new Date(Date.now() - age);
    utimesSync(join(cache, child), time, time);
  }
  return cache;
}

describe("folders of other builds", () => {
  const [a, b, c] = ["carried-aaaaaaaaaaaaaaaa", "carried-bbbbbbbbbbbbbbbb", "carried-cccccccccccccccc"];

  test("are removed once they expire, and nothing else is", () => {
    const old = STALE_MS + 1000;
    const cache = cacheOf("ages", {
      [a]: old,
      [b]: STALE_MS - 60_000,
      [c]: old,
      [`${b}.removed-1-abcdef01`]: old, // of a process that ended halfway
      datasets: old,
      "carried-notes": old,
    });
    removeStale(cache, join(cache, c), Date.now());
    expect(readdirSync(cache).sort()).toEqual([b, "carried-notes", c, "datasets"].sort());
    expect(readFileSync(join(cache, b, "data/file"), "utf8")).toBe("text");
  });

  test("a future time is not an age", () => {
    const cache = cacheOf("ahead", { [a]: -STALE_MS * 2 });
    removeStale(cache, join(cache, b), Date.now());
    expect(readdirSync(cache)).toEqual([a]);
  });

  test("stay while another user claims them; old claims are removed", () => {
    const old = STALE_MS + 1000;
    const cache = cacheOf("claimed", { [a]: old, [b]: old });
    const claim = (name: string, age: number) => {
      writeFileSync(join(cache, name), "");
      utimesSync(join(cache, name), (Date.now() - age) / 1000, (Date.now() - age) / 1000);
    };
    claim(`${a}.used-7-host`, 1000);
    claim(`${a}.used-8-host`, old);
    claim(`${b}.used-7-host`, old);
    removeStale(cache, join(cache, c), Date.now());
    expect(readdirSync(cache).sort()).toEqual([a, `${a}.used-7-host`]);
    expect(readFileSync(join(cache, a, "data/file"), "utf8")).toBe("text");
  });

  test("stay in an unlistable cache", () => {
    writeFileSync(join(folder, "no-folder"), "");
    removeStale(join(folder, "no-folder"), "", Date.now());
  });

  test("two processes can remove at once without harm", async () => {
    const cache = cacheOf("both", { [a]: STALE_MS * 2, [b]: STALE_MS * 2 });
    const program = `const { removeStale } = await import(${JSON.stringify(join(import.meta.dir, "../../src/carried.ts"))});
      removeStale(${JSON.stringify(cache)}, "", Date.now());`;
    const both = [0, 1].map(() => Bun.spawn([process.execPath, "-e", program], { stderr: "pipe" }));
    expect(await Promise.all(both.map(({ exited }) => exited))).toEqual([0, 0]);
    expect(readdirSync(cache)).toEqual([]);
  });
});

// Only root can give a folder to another user and switch to that user.
test.skipIf(process.getuid?.() !== 0)("another user's folder is claimed beside it, repeatedly", async () => {
  const [name, other, third] = ["carried-aaaaaaaaaaaaaaaa", 65533, 65534];
  const cache = cacheOf("shared", { [name]: STALE_MS * 2 });
  chmodSync(folder, 0o755);
  chmodSync(cache, 0o777);
  chownSync(join(cache, name), other, other);
  const program = `const { keepInUse } = await import(${JSON.stringify(join(import.meta.dir, "../../src/carried.ts"))});
    process.setuid(${third});
    keepInUse(${JSON.stringify(join(cache, name))}, 5);
    console.log("claimed");
    await Bun.sleep(60_000);`;
  const user = Bun.spawn([process.execPath, "-e", program], { stdout: "pipe", stderr: "inherit" });
  try {
    await user.stdout.getReader().read();
    for (let round = 0; round < 2; round++) {
      const [claim = "", ...more] = readdirSync(cache).filter((each) => each !== name);
      expect([claim, more]).toEqual([expect.stringMatching(new RegExp(`^${name}\\.used-${third}-[0-9a-f]+$`)), []]);
      expect(Date.now() - statSync(join(cache, claim)).mtimeMs).toBeLessThan(STALE_MS);
      removeStale(cache, "", Date.now());
      expect(readFileSync(join(cache, name, "data/file"), "utf8")).toBe("text");
      utimesSync(join(cache, claim), 0, 0);
      await Bun.sleep(200);
    }
  } finally {
    user.kill();
    await user.exited;
  }
});

test("a folder in use is refreshed repeatedly", async () => {
  const cache = cacheOf("used", { "carried-aaaaaaaaaaaaaaaa": STALE_MS * 2 });
  const used = join(cache, "carried-aaaaaaaaaaaaaaaa");
  const old = new Date(Date.now() - STALE_MS * 2);
  keepInUse(used, 5);
  for (let round = 0; round < 2; round++) {
    utimesSync(used, old, old);
    await Bun.sleep(200);
    expect(Date.now() - statSync(used).mtimeMs).toBeLessThan(STALE_MS);
  }
});
