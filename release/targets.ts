/** The systems that the executable is built for, and what builds the CPU kernels for each. */
import { type Compiler, compilerCalled, findCompiler } from "../ffi/compiler.ts";
import { InputError, RunError } from "../src/errors.ts";

export interface Target {
  readonly name: string;
  /** As process.arch has it. */
  readonly architecture: string;
  /** e_machine of its ELF files: EM_X86_64, EM_AARCH64 (elf.h). */
  readonly elfMachine: number;
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
    elfMachine: 62,
    crossCompiler: "x86_64-linux-gnu-g++",
    compilerPackage: "g++-x86-64-linux-gnu",
    paths: ["portable", "avx2", "avx512", "avx512bf16", "amx"],
  },
  {
    name: "linux-arm64",
    architecture: "arm64",
    elfMachine: 183,
    crossCompiler: "aarch64-linux-gnu-g++",
    compilerPackage: "g++-aarch64-linux-gnu",
    paths: ["portable"],
  },
];

/** What a machine builds for itself: another system's libraries are of no use, whatever its processor. */
export const isNative = ({ name }: Target, machine = `${process.platform}-${process.arch}`): boolean =>
  name === machine;

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
export function compilerFor(target: Target, machine?: string): Compiler {
  if (isNative(target, machine)) return findCompiler("the CPU kernels");
  const { name, crossCompiler, compilerPackage } = target;
  const compiler = compilerCalled(crossCompiler);
  if (compiler !== null) return compiler;
  throw new RunError(
    `the CPU kernels for ${name} need ${crossCompiler}; install it (Debian, Ubuntu: apt-get install ${compilerPackage})`,
  );
}
