/** The systems that the executable is built for, and what builds the CPU kernels for each. */
import { type Compiler, compilerCalled, findCompiler } from "../ffi/compiler.ts";
import { InputError, RunError } from "../src/errors.ts";

export interface Target {
  readonly name: string;
  /** As process.arch has it. */
  readonly architecture: string;
  /** GCC for it on another machine. */
  readonly crossCompiler: string;
  /** Debian's package of that compiler. */
  readonly compilerPackage: string;
  /** Instruction paths that the library must have. */
  readonly paths: readonly string[];
}

export const targets: readonly Target[] = [
  {
    name: "linux-x64",
    architecture: "x64",
    crossCompiler: "x86_64-linux-gnu-g++",
    compilerPackage: "g++-x86-64-linux-gnu",
    paths: ["portable", "avx2", "avx512", "avx512bf16", "amx"],
  },
  {
    name: "linux-arm64",
    architecture: "arm64",
    crossCompiler: "aarch64-linux-gnu-g++",
    compilerPackage: "g++-aarch64-linux-gnu",
    paths: ["portable"],
  },
];

/** @param name null: the one this runs on. @throws InputError for one that is not built for */
export function targetCalled(name: string | null): Target {
  const wanted = name ?? `${process.platform}-${process.arch}`;
  const found = targets.find((target) => target.name === wanted);
  if (found !== undefined) return found;
  throw new InputError(
    `--target ${wanted}: the executable is built for ${targets.map((target) => target.name).join(" and ")}`,
  );
}

/** @throws RunError where it is not installed */
export function compilerFor({ architecture, crossCompiler, compilerPackage }: Target): Compiler {
  if (architecture === process.arch) return findCompiler("the CPU kernels");
  const compiler = compilerCalled(crossCompiler);
  if (compiler !== null) return compiler;
  throw new RunError(
    `the CPU kernels for ${architecture} need ${crossCompiler}; install it (Debian, Ubuntu: apt-get install ${compilerPackage})`,
  );
}
