/**
 * Why the system's dynamic loader rejected the kernel library, in one line with the cure: the loader's own message names a
 * symbol's version but not what to do.
 */
import { errorText, RunError } from "../../src/errors.ts";

/** Symbol versions of the C and C++ libraries, and the message for each. */
const libraries: readonly { readonly versions: RegExp; readonly name: string; readonly of: string }[] = [
  { versions: /version `GLIBC_([\d.]+)' not found/, name: "glibc", of: "Debian 12, Ubuntu 22.04 and RHEL 9 have it" },
  {
    versions: /version `(GLIBCXX_[\d.]+|CXXABI_[\d.]+)' not found/,
    name: "libstdc++",
    of: "Debian 12 and Ubuntu 22.04 have it",
  },
];

/** @param error thrown by dlopen for the library at `path` */
export function loadFailure(path: string, error: unknown): RunError {
  const text = errorText(error).replace(/^Failed to open library "[^"]*": /, "");
  for (const { versions, name, of } of libraries) {
    const version = versions.exec(text)?.[1];
    if (version === undefined) continue;
    return new RunError(
      `the CPU kernels need ${name} ${version} or later and this system's is older; use a newer system (${of}), or install a C++20 compiler (GCC 11 or Clang 14), with which they are built here`,
    );
  }
  const absent = /(lib[\w+.-]+\.so[\w.]*): cannot open shared object file/.exec(text)?.[1];
  if (absent !== undefined && !path.endsWith(absent)) {
    const packages = /libstdc\+\+|libgcc_s/.test(absent)
      ? "install it (Debian, Ubuntu: apt-get install libstdc++6; Fedora: dnf install libstdc++)"
      : "install it";
    return new RunError(`the CPU kernels need ${absent}, which this system lacks; ${packages}`);
  }
  if (/failed to map segment|Operation not permitted/.test(text)) {
    return new RunError(
      `${path}: the system loads no library from there (${text}); its file system may be mounted noexec: set BUN_GRPO_CACHE to a folder elsewhere`,
    );
  }
  return new RunError(`${path}: the kernel library cannot be loaded (${text}); delete it to have it rebuilt`);
}
