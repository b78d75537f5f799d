/** The systems that the executable is built for, and how the CPU kernels for each are built. */
import { type Compiler, compilerCalled, findCompiler } from "../ffi/compiler.ts";
import { InputError, RunError } from "../src/errors.ts";

export interface Target {
  readonly name: string;
  /** As in process.arch. */
  readonly architecture: string;
  /** e_machine of its ELF files: EM_X86_64, EM_AARCH64 (elf.h). */
  readonly elfMachine: number;
  /** GCC for this target on another machine. */
  readonly crossCompiler: string;
  /** Debian's package for that compiler. */
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

/** A machine's own builds are for its own system only, whatever the processor. */
export const isNative = ({ name }: Target, machine = `${process.platform}-${process.arch}`): boolean =>
  name === machine;

/** @param name null: the current system. @throws InputError for an unsupported one */
export function targetCalled(name: string | null): Target {
  const wanted = name ?? `${process.platform}-${process.arch}`;
  const found = targets.find((target) => target.name === wanted);
  if (found !== undefined) return found;
  throw new InputError(
    `--target ${wanted}: the executable is built for ${targets.map((target) => target.name).join(" and ")}`,
  );
}

/** @throws RunError if it is not installed */
export function compilerFor(target: Target, machine?: string): Compiler {
  if (isNative(target, machine)) return findCompiler("the CPU kernels");
  const { name, crossCompiler, compilerPackage } = target;
  const compiler = compilerCalled(crossCompiler);
  if (compiler !== null) return compiler;
  throw new RunError(
    `the CPU kernels for ${name} need ${crossCompiler}; install it (Debian, Ubuntu: apt-get install ${compilerPackage})`,
  );
}
