/** The error for a kernel library that the system's loader rejects, with the messages of glibc 2.31 and 2.36. */
import { expect, test } from "bun:test";
import { loadFailure } from "../../ffi/bindings/load-failure.ts";

const path = "/home/a/.cache/bun-grpo/carried-0123456789abcdef/prebuilt/libgrpo-cpu-0123456789abcdef.so";
const opened = `Failed to open library "${path}": `;

test.each([
  [
    `/lib/x86_64-linux-gnu/libc.so.6: version \`GLIBC_2.34' not found (required by ${path})`,
    "the CPU kernels need glibc 2.34 or later and this system's is older; use a newer system (Debian 12",
  ],
  [
    `/lib/x86_64-linux-gnu/libstdc++.so.6: version \`GLIBCXX_3.4.30' not found (required by ${path})`,
    "the CPU kernels need libstdc++ GLIBCXX_3.4.30 or later and this system's is older; use a newer system",
  ],
  [
    "libstdc++.so.6: cannot open shared object file: No such file or directory",
    "the CPU kernels need libstdc++.so.6, which this system lacks; install it (Debian, Ubuntu: apt-get install libstdc++6",
  ],
  [
    `${path}: failed to map segment from shared object`,
    `${path}: the system loads no library from there (${path}: failed to map segment from shared object); its file system may be mounted noexec: set BUN_GRPO_CACHE`,
  ],
  [`${path}: file too short`, `${path}: the kernel library cannot be loaded (${path}: file too short); delete it`],
  [
    `${path}: cannot open shared object file: No such file or directory`,
    `${path}: the kernel library cannot be loaded (`,
  ],
])("%s", (words, said) => {
  const { name, exitCode, message } = loadFailure(path, new Error(opened + words));
  expect({ name, exitCode }).toEqual({ name: "RunError", exitCode: 1 });
  expect(message).toStartWith(said);
  expect(message).not.toContain("\n");
});
