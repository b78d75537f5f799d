/** Atomic writes: failures, full disks, and leftovers of dead processes. */
import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InputError, RunError } from "../../src/errors.ts";
import { recoverFolder, writeFileAtomic, writeFolderAtomic } from "../../src/files/atomic.ts";

const root = mkdtempSync(join(tmpdir(), "atomic-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(root, "case-"));
});

const read = (...path: string[]) => readFileSync(join(folder, ...path), "utf8");
/** The id of a process that has ended. */
const deadPid = Bun.spawnSync(["true"]).pid;

describe("a file", () => {
  test("is replaced atomically, without leftovers", () => {
    const path = join(folder, "a.json");
    writeFileAtomic(path, "old");
    writeFileAtomic(path, new TextEncoder().encode("new, ä"));
    expect(read("a.json")).toBe("new, ä");
    expect(readdirSync(folder)).toEqual(["a.json"]);
  });

  test("behind a link is written to the link's target", () => {
    mkdirSync(join(folder, "disk"));
    writeFileSync(join(folder, "disk", "a"), "old");
    symlinkSync(join("disk", "a"), join(folder, "a"));
    writeFileAtomic(join(folder, "a"), "new");
    expect(read("disk", "a")).toBe("new");
  });

  test("removes leftovers of a dead process, not files that a living one is writing", () => {
    writeFileSync(join(folder, `.a.tmp-${deadPid}`), "half");
    writeFileSync(join(folder, `.a.tmp-${process.ppid}`), "half");
    writeFileSync(join(folder, `.b.tmp-${deadPid}`), "half");
    writeFileAtomic(join(folder, "a"), "whole");
    expect(readdirSync(folder).sort()).toEqual([`.a.tmp-${process.ppid}`, `.b.tmp-${deadPid}`, "a"].sort());
  });

  test.each(["missing/a", "file/a", "dir"])("that cannot be at %s is one clear line", (path) => {
    writeFileSync(join(folder, "file"), "");
    mkdirSync(join(folder, "dir"));
    writeFileSync(join(folder, "dir", "b"), "");
    const before = readdirSync(folder).sort();
    expect(() => writeFileAtomic(join(folder, path), "x")).toThrow(RunError);
    expect(() => writeFileAtomic(join(folder, path), "x")).toThrow(/cannot be written: .+ \(E[A-Z]+\)/);
    expect(readdirSync(folder).sort()).toEqual(before);
  });
});

describe("a file on a full disk", () => {
  // A file size limit makes a write fail midway, like a full disk. The accompanying signal is ignored, so that the write
  // returns an error.
  function underLimit(kibibytes: number, script: string) {
    const source = join(import.meta.dir, "../../src");
    const file = join(folder, "script.ts");
    writeFileSync(file, script.replaceAll("$src", source).replaceAll("$folder", folder));
    const command = `trap '' XFSZ; ulimit -f ${kibibytes}; exec "${process.execPath}" "${file}"`;
    const run = Bun.spawnSync(["bash", "-c", command], { env: { ...process.env, TMPDIR: root } });
    return { exitCode: run.exitCode, output: run.stdout.toString() + run.stderr.toString() };
  }

  test("small: RunError with the cure, the old file intact, the temporary one gone", () => {
    writeFileSync(join(folder, "a"), "old");
    const { output } = underLimit(
      64,
      `import { writeFileAtomic } from "$src/files/atomic.ts";
       try { writeFileAtomic("$folder/a", new Uint8Array(300_000)); console.log("written"); }
       catch (error) { console.log(error.name, error.message); }`,
    );
    expect(output).toContain("RunError");
    expect(output).toContain("ulimit -f");
    expect(read("a")).toBe("old");
    expect(readdirSync(folder).sort()).toEqual(["a", "script.ts"]);
  });

  test("safetensors: likewise, in the middle of a tensor", () => {
    writeFileSync(join(folder, "model.safetensors"), "old");
    const { output } = underLimit(
      64,
      `import { writeSafetensors } from "$src/checkpoint/safetensors-write.ts";
       const chunk = new Uint8Array(50_000);
       const chunks = () => [chunk, chunk, chunk];
       try { await writeSafetensors("$folder/model.safetensors", [{ name: "a", dtype: "U8", shape: [150_000], chunks }]); }
       catch (error) { console.log(error.name, error.message); }`,
    );
    expect(output).toContain("RunError");
    expect(output).toContain("what was there before is untouched");
    expect(read("model.safetensors")).toBe("old");
    expect(readdirSync(folder).sort()).toEqual(["model.safetensors", "script.ts"]);
  });
});

describe("a folder", () => {
  const fill = (text: string) => (temporary: string) => writeFileSync(join(temporary, "a"), text);

  test("appears complete, and is replaced as a whole", async () => {
    const target = join(folder, "deep", "checkpoint-1");
    await writeFolderAtomic(target, async (temporary) => {
      await Bun.sleep(0);
      expect(existsSync(target)).toBe(false);
      mkdirSync(join(temporary, "sub"));
      writeFileSync(join(temporary, "sub", "b"), "b");
      fill("first")(temporary);
    });
    expect(read("deep", "checkpoint-1", "sub", "b")).toBe("b");
    await writeFolderAtomic(target, fill("second"));
    expect(read("deep", "checkpoint-1", "a")).toBe("second");
    expect(readdirSync(target)).toEqual(["a"]);
    expect(readdirSync(join(folder, "deep"))).toEqual(["checkpoint-1"]);
  });

  test("stays unchanged if filling fails", async () => {
    const target = join(folder, "c");
    await writeFolderAtomic(target, fill("old"));
    const failure = new RunError("no");
    const failing = writeFolderAtomic(target, (temporary) => {
      fill("new")(temporary);
      throw failure;
    });
    await expect(failing).rejects.toBe(failure);
    expect(read("c", "a")).toBe("old");
    expect(readdirSync(folder)).toEqual(["c"]);
  });

  test("is not written over a file", async () => {
    writeFileSync(join(folder, "c"), "file");
    await expect(writeFolderAtomic(join(folder, "c"), fill("x"))).rejects.toThrow(InputError);
    expect(read("c")).toBe("file");
  });

  test("moved aside by a crash is restored; half-written files are removed", () => {
    mkdirSync(join(folder, `c.old-${deadPid}`));
    writeFileSync(join(folder, `c.old-${deadPid}`, "a"), "old");
    mkdirSync(join(folder, `c.tmp-${deadPid}`));
    mkdirSync(join(folder, `c.tmp-${process.ppid}`));
    recoverFolder(join(folder, "c"));
    expect(read("c", "a")).toBe("old");
    expect(readdirSync(folder).sort()).toEqual(["c", `c.tmp-${process.ppid}`].sort());
  });

  test("left twice by a crash keeps the new one", async () => {
    mkdirSync(join(folder, `c.old-${deadPid}`));
    await writeFolderAtomic(join(folder, "d"), fill("other"));
    mkdirSync(join(folder, "c"));
    writeFileSync(join(folder, "c", "a"), "new");
    recoverFolder(join(folder, "c"));
    expect(read("c", "a")).toBe("new");
    expect(readdirSync(folder).sort()).toEqual(["c", "d"]);
  });
});
