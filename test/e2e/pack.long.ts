/**
 * A pack for a machine without network: the unpacked folder runs tests from the sources with only the executable, and `unpack`
 * needs only what it states. Leaves out the compression of the real pack, which takes minutes.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { layOutTree, MOST_BYTES, putInPlace } from "../../release/pack.ts";
import { targetCalled } from "../../release/targets.ts";
import { root, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

async function run(command: readonly string[], cwd: string, env: Record<string, string>) {
  const child = Bun.spawn([...command], { cwd, env, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { out, err, code };
}

// It is made of the files that git tracks; an unpacked one has no repository.
describe.skipIf(!existsSync(join(root, ".git")))("the folder", () => {
  const tree = work.at("tree");
  beforeAll(async () => {
    mkdirSync(tree);
    await layOutTree(tree, targetCalled(null));
  });

  /** No PATH, no compiler, and only the folder's own packages. */
  const alone = { HOME: work.at("home"), PATH: "", NO_COLOR: "1" };

  test("has the program, what git tracks, and the packages without files for readers", () => {
    for (const name of [
      "grpo",
      "bun",
      "test/cuda/check.long.ts",
      "docs/log.md",
      "tsconfig.json",
      "node_modules/tinybench",
    ])
      expect({ name, there: existsSync(join(tree, name)) }).toEqual({ name, there: true });
    const names = readdirSync(join(tree, "node_modules"), { recursive: true }).map(String);
    expect(names.filter((name) => /\.d\.ts$|\.map$|^typescript|^@biomejs/.test(name))).toEqual([]);
  });

  test("runs its tests: units, ops on prebuilt kernels, commands in separate processes", async () => {
    const files = ["unit/loss.test.ts", "unit/imports.test.ts", "unit/data-command.test.ts", "ops/rope.test.ts"];
    const { err, code } = await run(
      [join(tree, "grpo"), "test", "--timeout", "120000", ...files.map((file) => `./test/${file}`)],
      tree,
      { ...alone, BUN_BE_BUN: "1", OPS_PATH: "portable" },
    );
    expect(err).toMatch(/\n 0 fail\n/);
    expect(code).toBe(0);
  });

  test("has its own bun, for scripts of package.json that call it", async () => {
    const env = { ...alone, PATH: "/usr/bin:/bin", CUDA_VISIBLE_DEVICES: "" };
    const version = await run([join(tree, "bun"), "--version"], tree, env);
    expect(version).toEqual({ out: `${Bun.version}\n`, err: "", code: 0 });
    const { err, code } = await run([join(tree, "bun"), "run", "check:gpu"], tree, env);
    expect(err).toContain("no GPU can be opened");
    expect(code).toBe(2);
  });

  test("check:gpu without a GPU: doctor's findings, and one line", async () => {
    // Even on a machine with a GPU: it is hidden.
    const env = { ...alone, CUDA_VISIBLE_DEVICES: "" };
    const { out, err, code } = await run([join(tree, "grpo"), "check:gpu"], work.path, env);
    expect(out).toMatch(/^== doctor$/m);
    expect(out).toMatch(/^\w+ +CUDA /m);
    expect(err).toMatch(/^grpo check:gpu: no GPU can be opened: .*\n$/);
    expect(code).toBe(2);
  });
});

test("a pack of more than 60 MiB is refused, and the previous one stays", () => {
  const [made, place] = [work.at("made"), work.at("place")];
  const lay = (folder: string, text: string, bytes: number) => {
    mkdirSync(folder);
    writeFileSync(join(folder, "unpack"), text);
    writeFileSync(join(folder, "grpo.tar.xz"), "");
    truncateSync(join(folder, "grpo.tar.xz"), bytes - text.length);
  };
  expect(MOST_BYTES).toBe(60 * 1024 * 1024);
  lay(place, "before", 1000);
  lay(made, "too large", MOST_BYTES + 1);
  expect(() => putInPlace(made, place)).toThrow("the pack is 60.0 MiB, over the limit of 60.0 MiB");
  expect(readFileSync(join(place, "unpack"), "utf8")).toBe("before");
  truncateSync(join(made, "grpo.tar.xz"), MOST_BYTES - "too large".length);
  putInPlace(made, place);
  expect(readFileSync(join(place, "unpack"), "utf8")).toBe("too large");
  expect(existsSync(made)).toBe(false);
});

// First a small archive is made with tar and xz.
describe.skipIf(!Bun.which("xz") || !Bun.which("tar"))("unpack", () => {
  const pack = work.at("pack");
  const program = '#!/bin/sh\necho "stands in for the program"\n';

  beforeAll(() => {
    mkdirSync(join(pack, "tree/below"), { recursive: true });
    writeFileSync(join(pack, "tree/grpo"), program);
    chmodSync(join(pack, "tree/grpo"), 0o755);
    writeFileSync(join(pack, "tree/below/a file"), "text");
    const made = Bun.spawnSync(["tar", "-cJf", join(pack, "grpo.tar.xz"), "-C", join(pack, "tree"), "."]);
    expect(made.success).toBe(true);
    cpSync(join(root, "release/unpack.sh"), join(pack, "unpack"));
  });

  /** A PATH with only these programs. */
  function pathOf(...names: string[]): string {
    const folder = work.at(`path-${names.join("-")}`);
    mkdirSync(folder, { recursive: true });
    for (const name of ["sh", "dirname", "mkdir", ...names]) {
      const found = Bun.which(name);
      if (found === null) throw new Error(`this test needs ${name}`);
      if (!existsSync(join(folder, name))) symlinkSync(found, join(folder, name));
    }
    return folder;
  }

  /** The interpreter itself, since the one on PATH may be a script with further needs. Empty if none has lzma. */
  const python = Bun.which("python3")
    ? Bun.spawnSync(["python3", "-c", "import lzma, sys; print(sys.executable)"]).stdout.toString().trim()
    : "";

  const ways = ["tar and xz", ...(python === "" ? [] : ["python3"])];
  function pathFor(tools: string): string {
    if (tools !== "python3") return pathOf("tar", "xz");
    const path = pathOf();
    writeFileSync(join(path, "python3"), `#!/bin/sh\nexec ${python} "$@"\n`, { mode: 0o755 });
    return path;
  }

  test.each(ways)("by %s", async (tools) => {
    const path = pathFor(tools);
    const to = work.at(`by ${tools}`);
    const { out, err, code } = await run(["/bin/sh", join(pack, "unpack"), to], work.path, { PATH: path });
    expect({ out, err, code }).toEqual({ out: `${to}: stands in for the program\n`, err: "", code: 0 });
    expect(readFileSync(join(to, "grpo"), "utf8")).toBe(program);
    expect(readFileSync(join(to, "below/a file"), "utf8")).toBe("text");
  });

  test.each(ways)("a damaged archive whose files can all be read is refused by %s", async (tools) => {
    const damaged = work.at(`damaged for ${tools}`);
    mkdirSync(damaged);
    cpSync(join(pack, "unpack"), join(damaged, "unpack"));
    const bytes = readFileSync(join(pack, "grpo.tar.xz"));
    bytes[bytes.length - 12]! ^= 1; // the footer's checksum
    writeFileSync(join(damaged, "grpo.tar.xz"), bytes);
    const to = work.at(`from damaged by ${tools}`);
    const { out, err, code } = await run(["/bin/sh", join(damaged, "unpack"), to], work.path, { PATH: pathFor(tools) });
    expect(err).toMatch(/corrupt/i);
    expect({ out, refused: code !== 0 }).toEqual({ out: "", refused: true });
    expect(readdirSync(to)).toEqual([]);
  });

  test("without either: one line", async () => {
    const empty = work.at("none");
    const { err, code } = await run(["/bin/sh", join(pack, "unpack"), empty], work.path, { PATH: pathOf("cat") });
    expect(err).toMatch(/^unpack: neither xz with tar nor python3 with lzma runs here; install one .*\n$/);
    expect(code).toBe(1);
  });
});
