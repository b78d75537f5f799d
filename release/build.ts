/**
 * `bun run build`: the whole program as one executable, dist/grpo, with Bun, the packages, the CPU kernels for every
 * instruction path, the CUDA sources and the bundled model. It needs neither Bun nor a compiler to run.
 *
 *   bun run build                                        for this machine
 *   bun run build --target linux-arm64 --outfile FILE    for another
 *
 * For another architecture, Bun downloads its own binary of the same version from the npm registry, once.
 */
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import packageJson from "../package.json" with { type: "json" };
import { assetPath } from "../src/assets.ts";
import { InputError, RunError } from "../src/errors.ts";
import { commit } from "../src/program.ts";
import { layOut } from "./carry.ts";
import { isNative, type Target, targetCalled } from "./targets.ts";
import { flagsOf, runTool } from "./tool.ts";

/** In bytes: an acceptable download; Bun itself is 107 MB of it. */
export const MOST_BYTES = 130e6;

/** The default path of a target's executable. */
export function executableOf(target: Target, machine?: string): string {
  return assetPath(isNative(target, machine) ? "dist/grpo" : `dist/grpo-${target.name}`);
}

/**
 * Options of `bun build` besides names. Bytecode requires this format, since modules use top-level await. With the source map
 * (2 MB) the stack of a bug names files and lines. By default a compiled program reads the bunfig.toml and .env of the working
 * folder, which belong to someone else, and ignores package.json, so a reward module would find no packages.
 */
const options = [
  ...["--compile", "--bytecode", "--format=esm", "--minify", "--sourcemap=linked"],
  ...["--no-compile-autoload-dotenv", "--no-compile-autoload-bunfig", "--no-compile-autoload-tsconfig"],
  "--compile-autoload-package-json",
];

/** Builds the executable next to `outfile`, then renames it. @throws RunError if a part of it cannot be built */
export async function build(target: Target, outfile: string): Promise<void> {
  const pinned = packageJson.packageManager.replace("bun@", "");
  if (Bun.version !== pinned)
    throw new InputError(`this is Bun ${Bun.version} and ${pinned} is pinned; run: npx -y bun@${pinned} run build`);
  mkdirSync(dirname(outfile), { recursive: true });
  const folder = mkdtempSync(join(dirname(outfile), ".build-"));
  try {
    const carried = join(folder, "carried");
    const hash = await layOut(carried, target);
    const made = join(folder, "grpo");
    const child = Bun.spawn(
      [
        ...[process.execPath, "build", ...options, `--target=bun-${target.name}`, "--outfile", made],
        ...["--define", `GRPO_COMMIT=${JSON.stringify(commit() ?? "")}`, "--define", `GRPO_ASSETS="${hash}"`],
        ...readdirSync(carried).flatMap((name) => ["--asset", join(carried, name)]),
        assetPath("src/cli/main.ts"),
      ],
      { cwd: assetPath("."), stdout: "pipe", stderr: "pipe" },
    );
    const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
    if (code !== 0) throw new RunError(`bun build failed (exit status ${code}): ${`${out}\n${err}`.trim()}`);
    const { size } = statSync(made);
    if (size > MOST_BYTES)
      throw new RunError(`the executable is ${megabytes(size)}, over the limit of ${megabytes(MOST_BYTES)}`);
    renameSync(made, outfile);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** In file-size units of 10^6 bytes. */
export const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

if (import.meta.main)
  await runTool("build", async (argv) => {
    const { target: name = null, outfile } = flagsOf(argv, ["target", "outfile"]);
    const target = targetCalled(name);
    const path = outfile === undefined ? executableOf(target) : resolve(outfile);
    await build(target, path);
    process.stdout.write(`${path}: ${megabytes(statSync(path).size)}, ${target.name}\n`);
  });
