/** Instruction paths that a compiler does not support are left out of the kernel library; the others are built. */
import { afterAll, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { assetPath } from "../../src/assets.ts";

const folder = mkdtempSync(join(tmpdir(), "cpu-build-paths-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/**
 * Builds with a compiler that compiles nothing and fails on `refused`, in commands without `spared`.
 *
 * @returns its command lines.
 */
async function build(
  name: string,
  refused: string,
  spared = "-mnothing",
): Promise<{ commands: string[]; code: number; stderr: string }> {
  const [compiler, log] = [join(folder, name), join(folder, `${name}.log`)];
  const script = `#!/bin/sh
[ "$1" = --version ] && { echo "test compiler 1.0"; exit 0; }
echo "$*" >> '${log}'
case " $* " in *${spared}*) : ;; *" ${refused} "*) echo "error: unrecognized command-line option ${refused}" >&2; exit 1 ;; esac
for last; do :; done
case " $* " in *" -c "*) : ;; *) : > "$last" ;; esac
`;
  writeFileSync(compiler, script);
  chmodSync(compiler, 0o755);
  const program = `const { compileKernels } = await import(${JSON.stringify(assetPath("ffi/cpu/build.ts"))}); await compileKernels();`;
  const child = Bun.spawn([process.execPath, "-e", program], {
    env: { ...process.env, CXX: compiler, BUN_GRPO_CACHE: join(folder, `${name}-cache`) },
    stdout: "ignore",
    stderr: "pipe",
  });
  const [stderr, code] = await Promise.all([new Response(child.stderr).text(), child.exited]);
  return { commands: readFileSync(log, "utf8").trim().split("\n"), code, stderr };
}

/** The compiled paths, those that the dispatcher was given, and the linked objects. */
function built(commands: readonly string[]) {
  const dispatch = commands.find((command) => command.includes("/dispatch.cpp")) ?? "";
  const linked = commands.find((command) => command.startsWith("-shared")) ?? "";
  return {
    compiled: commands.flatMap((command) => /-DKERNEL_PATH=path_(\w+)/.exec(command)?.[1] ?? []).sort(),
    told: [...dispatch.matchAll(/-DHAVE_(\w+)/g)].map((match) => match[1]),
    linked: [...linked.matchAll(/\/(\w+)\.o\b/g)].map((match) => match[1]).sort(),
  };
}

const own = process.arch === "x64" ? ["avx2", "avx512", "portable"] : ["portable"];
const optional = process.arch === "x64" ? ["avx512bf16", "amx"] : [];

test.each([
  ["knows them all", "-mnothing", optional],
  ["lacks AMX", "-mamx-bf16", optional.filter((name) => name !== "amx")],
  ["lacks both", process.arch === "x64" ? "-mavx512vl" : "-mnothing", []],
])("a compiler that %s", async (name, refused, known) => {
  const { commands, code, stderr } = await build(name.replaceAll(" ", "-"), refused, "path.cpp");
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  expect(built(commands)).toEqual({
    compiled: [...own, ...known].sort(),
    told: known.map((name) => name.toUpperCase()),
    linked: [...own, ...known, "dispatch", "recording", "threads"].sort(),
  });
});

test("an unsupported flag of a path that every compiler must support still fails the build", async () => {
  const { commands, code, stderr } = await build("broken", process.arch === "x64" ? "-mavx2" : "-std=c++20");
  expect(code).not.toBe(0);
  expect(stderr).toContain("did not compile");
  expect(commands.some((command) => command.startsWith("-shared"))).toBe(false);
});
