/**
 * `bun run pack`: the executable, the sources and the tests with the packages they need, as two files in dist/pack, for a
 * machine without network, Bun, Node or compiler. There, `sh unpack FOLDER` restores them (unpack.sh).
 *
 *   bun run pack                                      for this machine, about two minutes of one core
 *   bun run pack --target linux-arm64 --level 9       for another; the level is xz's
 *
 * The sources are the files that git tracks, in their current state: the same ones the executable is built from.
 */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { assetPath } from "../src/assets.ts";
import { InputError, RunError } from "../src/errors.ts";
import { build, megabytes } from "./build.ts";
import { addKernels } from "./carry.ts";
import { isNative, type Target, targetCalled } from "./targets.ts";
import { flagsOf, runTool } from "./tool.ts";

/** In bytes: 60 MiB. */
export const MOST_BYTES = 60 * 2 ** 20;

/** Package files that only people read. */
const forReaders = /\.(map|md|flow)$|\.d\.[cm]?ts$/;
const typePackages = ["@types", "undici-types", ".bin"];

export interface PackOptions {
  readonly target: Target;
  /** Destination of the two files; recreated. */
  readonly folder: string;
  /** xz's preset; default 6. */
  readonly level: string;
}

/** @throws RunError if the executable, the packages or the archive cannot be made, or are too large together */
export async function pack({ target, folder, level }: PackOptions): Promise<void> {
  mkdirSync(dirname(folder), { recursive: true });
  // Outside the project, so that a test run started meanwhile does not find the tests twice.
  const tree = mkdtempSync(join(tmpdir(), "grpo-pack-"));
  const result = mkdtempSync(join(dirname(folder), ".pack-"));
  try {
    chmodSync(result, 0o755);
    await layOutTree(tree, target);
    await archive(tree, join(result, "grpo.tar.xz"), target, level);
    copyFileSync(assetPath("release/unpack.sh"), join(result, "unpack"));
    chmodSync(join(result, "unpack"), 0o755);
    putInPlace(result, folder);
  } finally {
    for (const path of [tree, result]) rmSync(path, { recursive: true, force: true });
  }
}

/** Replaces the last pack with the finished one. @throws RunError if it is too large; the last pack then stays */
export function putInPlace(result: string, folder: string, most = MOST_BYTES): void {
  const sum = bytesOf(result);
  if (sum > most) throw new RunError(`the pack is ${mebibytes(sum)}, over the limit of ${mebibytes(most)}`);
  rmSync(folder, { recursive: true, force: true });
  renameSync(result, folder);
}

const bytesOf = (folder: string): number =>
  readdirSync(folder).reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);

/** The folder that `unpack` will restore. @throws RunError if a part of it cannot be made */
export async function layOutTree(tree: string, target: Target): Promise<void> {
  await build(target, join(tree, "grpo"));
  // The tests run from the sources, which look for their kernels next to themselves.
  await addKernels(join(tree, "prebuilt"), target);
  await copySources(tree);
  copyFileSync(assetPath("release/bun.sh"), join(tree, "bun"));
  chmodSync(join(tree, "bun"), 0o755);
  await installPackages(tree);
}

/** @throws RunError if the project is not a git repository */
async function copySources(tree: string): Promise<void> {
  const names = (await output(["git", "-C", assetPath("."), "ls-files", "-z"]))
    .split("\0")
    .filter((name) => name !== "" && existsSync(assetPath(name))); // deleted files are still tracked
  for (const name of names) {
    mkdirSync(dirname(join(tree, name)), { recursive: true });
    copyFileSync(assetPath(name), join(tree, name));
  }
}

/** The packages of package.json except development ones, as `bun.lock` pins them. */
async function installPackages(tree: string): Promise<void> {
  await output([process.execPath, "install", "--production", "--frozen-lockfile", "--silent", "--cwd", tree]);
  const modules = join(tree, "node_modules");
  for (const name of typePackages) rmSync(join(modules, name), { recursive: true, force: true });
  for (const entry of readdirSync(modules, { recursive: true, withFileTypes: true }))
    if (entry.isFile() && forReaders.test(entry.name)) rmSync(join(entry.parentPath, entry.name));
}

/** The executable first; the same tree always gives the same archive. */
async function archive(tree: string, file: string, { architecture }: Target, level: string): Promise<void> {
  const tar = ["tar", "-c", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "--sort=name", "-C", tree];
  const names = readdirSync(tree).filter((name) => name !== "grpo");
  // xz's x86 filter makes call targets more compressible; two blocks keep two cores busy.
  const filters = [...(architecture === "x64" ? ["--x86"] : []), `--lzma2=preset=${level},dict=64MiB`];
  const xz = ["xz", "-c", "-T0", "--block-size=72MiB", "--check=sha256", ...filters];
  const packed = Bun.spawn([...tar, "grpo", ...names.sort()], { stdout: "pipe", stderr: "inherit" });
  const small = Bun.spawn(xz, { stdin: packed.stdout, stdout: Bun.file(file), stderr: "inherit" });
  const [tarCode, xzCode] = await Promise.all([packed.exited, small.exited]);
  if (tarCode !== 0 || xzCode !== 0) throw new RunError(`tar or xz failed (exit statuses ${tarCode} and ${xzCode})`);
}

async function output(command: readonly string[]): Promise<string> {
  if (!Bun.which(command[0]!)) throw new RunError(`${command[0]} is needed to make a pack; install it`);
  const child = Bun.spawn([...command], { stdout: "pipe", stderr: "pipe" });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  if (code !== 0) throw new RunError(`${command.slice(0, 3).join(" ")} failed (exit status ${code}): ${err.trim()}`);
  return out;
}

const mebibytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

if (import.meta.main)
  await runTool("pack", async (argv) => {
    const { target: name = null, level = "6" } = flagsOf(argv, ["target", "level"]);
    const target = targetCalled(name);
    if (!/^[0-9]e?$/.test(level)) throw new InputError(`--level ${level}: must be 0 to 9`);
    for (const tool of ["tar", "xz", "git"])
      if (!Bun.which(tool)) throw new RunError(`${tool} is needed to make a pack; install it`);
    const folder = assetPath(isNative(target) ? "dist/pack" : `dist/pack-${target.name}`);
    await pack({ target, folder, level });
    for (const file of readdirSync(folder))
      process.stdout.write(`${join(folder, file)}: ${megabytes(statSync(join(folder, file)).size)}\n`);
    const size = mebibytes(bytesOf(folder));
    process.stdout.write(`${size} for ${target.name}; there: sh unpack FOLDER, then FOLDER/grpo …\n`);
  });
