/** Where NVIDIA's libraries are searched, in which order, and the message if they are missing. */
import { afterAll, describe, expect, test } from "bun:test";
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { bindLibrary } from "../../ffi/bindings/bind.ts";
import { openCublas } from "../../ffi/bindings/cublas.ts";
import { openDriver } from "../../ffi/bindings/cuda.ts";
import {
  driverFolders,
  findLibrary,
  libraryFolders,
  loadedFile,
  MissingLibraryError,
  type SearchOptions,
} from "../../ffi/bindings/nvidia-libraries.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-nvidia-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

let trees = 0;
/** A file system with empty files at `paths`. */
function tree(...paths: readonly string[]): { readonly root: string; at(path: string): string } {
  const folder = join(root, String(trees++));
  for (const path of [".", ...paths]) mkdirSync(dirname(join(folder, path, ".")), { recursive: true });
  for (const path of paths) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    rmSync(join(folder, path), { recursive: true, force: true });
    writeFileSync(join(folder, path), "");
  }
  return { root: folder, at: (path) => join(folder, path) };
}

// A name unknown to every loader, so that the machine's own libraries play no part.
const NAME = "libgrpo-nothing";
const find = (options: SearchOptions, versions = [13, 12], beside: readonly string[] = []) =>
  findLibrary(
    NAME,
    versions,
    libraryFolders(options),
    options,
    (major) => beside.map((b) => `${b}.so.${major}`),
    "cure",
  );

const target = process.arch === "arm64" ? "sbsa-linux" : "x86_64-linux";

describe("places", () => {
  test("a toolkit in $CUDA_HOME, then under /usr/local, the newest first", () => {
    const { root, at } = tree(
      `opt/cuda/lib64/${NAME}.so.12`,
      `usr/local/cuda-12.4/lib64/${NAME}.so.12`,
      `usr/local/cuda-12.8/targets/${target}/lib/${NAME}.so.12`,
    );
    const home = { root, env: { CUDA_HOME: at("opt/cuda") } };
    expect(find(home)).toEqual({ path: at(`opt/cuda/lib64/${NAME}.so.12`), major: 12 });
    expect(find({ root, env: {} }).path).toBe(at(`usr/local/cuda-12.8/targets/${target}/lib/${NAME}.so.12`));
  });

  test("conda's folder, and the packages that pip puts into it", () => {
    const conda = tree(`env/lib/${NAME}.so.13`);
    const env = { CONDA_PREFIX: conda.at("env") };
    expect(find({ root: conda.root, env }).path).toBe(conda.at(`env/lib/${NAME}.so.13`));
    const pip = tree(`env/lib/python3.11/site-packages/nvidia/cu13/lib/${NAME}.so.13`);
    expect(find({ root: pip.root, env: { CONDA_PREFIX: pip.at("env") } }).major).toBe(13);
  });

  test("nvidia/*/lib of a virtual environment, of python3 on PATH, of the user, of the system", () => {
    const package12 = (prefix: string) => `${prefix}/lib/python3.12/site-packages/nvidia/cublas/lib/${NAME}.so.12`;
    const { root, at } = tree(
      package12("venv"),
      package12("pyenv"),
      "pyenv/bin/python3",
      package12("home/.local"),
      `usr/lib/python3/dist-packages/nvidia/cublas/lib/${NAME}.so.12`,
    );
    expect(find({ root, env: { VIRTUAL_ENV: at("venv") } }).path).toBe(at(package12("venv")));
    Bun.spawnSync(["chmod", "+x", at("pyenv/bin/python3")]);
    expect(find({ root, env: { PATH: at("pyenv/bin") } }).path).toBe(at(package12("pyenv")));
    mkdirSync(at("bin"));
    symlinkSync(at("pyenv/bin/python3"), at("bin/python3"));
    expect(find({ root, env: { PATH: at("bin") } }).path).toBe(at(package12("pyenv")));
    expect(find({ root, env: { HOME: at("home") } }).path).toBe(at(package12("home/.local")));
    expect(find({ root, env: { HOME: at("nobody") } }).path).toContain("/usr/lib/python3/dist-packages/");
  });

  test("the environment of the project, in the working folder or above it, without being activated", () => {
    const packages = "lib/python3.12/site-packages/nvidia/cu13/lib";
    const { root, at } = tree(
      `work/.venv/${packages}/${NAME}.so.13`,
      "work/.venv/pyvenv.cfg",
      `work/other/.venv/${packages}/${NAME}.so.13`, // created halfway: no pyvenv.cfg
      `work/named/${packages}/${NAME}.so.13`,
      "work/named/pyvenv.cfg",
      "work/other/deep/file",
    );
    const own = at(`work/.venv/${packages}/${NAME}.so.13`);
    expect(find({ root, env: {}, cwd: at("work") }).path).toBe(own);
    expect(find({ root, env: {}, cwd: at("work/other/deep") }).path).toBe(own);
    const env = { UV_PROJECT_ENVIRONMENT: "named" };
    expect(find({ root, env, cwd: at("work/other") }).path).toBe(at(`work/named/${packages}/${NAME}.so.13`));
    expect(() => find({ root, env: { HOME: at("nobody") }, cwd: root })).toThrow(MissingLibraryError);
  });

  test("an environment above the working folder that others can write to is skipped", () => {
    const packages = "lib/python3.12/site-packages/nvidia/cu13/lib";
    const files = (folder: string) => [`${folder}/.venv/${packages}/${NAME}.so.13`, `${folder}/.venv/pyvenv.cfg`];
    const { root, at } = tree(...files("work"), ...files("work/inner"), "work/inner/deep/file");
    const found = () => find({ root, env: { HOME: at("nobody") }, cwd: at("work/inner/deep") }).path;
    const [own, inner] = [at(`work/.venv/${packages}/${NAME}.so.13`), at(`work/inner/.venv/${packages}/${NAME}.so.13`)];
    expect(found()).toBe(inner);
    chmodSync(at("work/inner/.venv"), 0o757);
    expect(found()).toBe(own);
    if (process.getuid?.() !== 0) return; // only root can give files away
    chmodSync(at("work/inner/.venv"), 0o775);
    chownSync(at("work/inner/.venv"), 0, 65534);
    expect(found()).toBe(own);
    chmodSync(at("work/inner/.venv"), 0o755);
    expect(found()).toBe(inner);
    chownSync(at("work/inner/.venv"), 65534, 65534);
    expect(found()).toBe(own);
  });

  test("the Python behind pyenv's shim, and those that uv installed", () => {
    const version = (name: string) => `pyenv/versions/${name}/lib/python3.12/site-packages/nvidia/cublas/lib`;
    const managed =
      "home/.local/share/uv/python/cpython-3.13.1-linux-x86_64-gnu/lib/python3.13/site-packages/nvidia/cu13";
    const { root, at } = tree(
      ...["3.12.9", "3.12.10", "3.11.2", "mine"].map((name) => `${version(name)}/${NAME}.so.12`),
      "pyenv/shims/python3",
      `${managed}/lib/${NAME}.so.13`,
      "work/deep/file",
    );
    Bun.spawnSync(["chmod", "+x", at("pyenv/shims/python3")]);
    const env = { PATH: at("pyenv/shims"), PYENV_ROOT: at("pyenv"), HOME: at("nobody") };
    const found = (more: Record<string, string> = {}) =>
      dirname(find({ root, env: { ...env, ...more }, cwd: at("work/deep") }).path);
    expect(found).toThrow(MissingLibraryError);
    writeFileSync(at("pyenv/version"), "3.11.2\n");
    expect(found()).toBe(at(version("3.11.2")));
    writeFileSync(at("work/.python-version"), "# ours\n3.12\n");
    expect(found()).toBe(at(version("3.12.10")));
    expect(found({ PYENV_VERSION: "" })).toBe(at(version("3.12.10")));
    expect(found({ PYENV_VERSION: "mine:3.11.2" })).toBe(at(version("mine")));
    expect(() => found({ PYENV_VERSION: "../versions/mine" })).toThrow(MissingLibraryError);
    expect(found({ PYENV_VERSION: "system", HOME: at("home") })).toBe(at(`${managed}/lib`));
  });

  test("a named folder comes first, whatever its version; else a newer version beats any order of places", () => {
    const { root, at } = tree(
      `named/${NAME}.so.12`,
      `usr/local/cuda/lib64/${NAME}.so.12`,
      `usr/local/cuda-13.0/lib64/${NAME}.so.13`,
    );
    const options = { root, env: {}, folder: at("named") };
    expect(find(options, [12]).path).toBe(at(`named/${NAME}.so.12`));
    expect(find(options)).toEqual({ path: at(`named/${NAME}.so.12`), major: 12 });
    expect(find({ root, env: {} }).path).toBe(at(`usr/local/cuda-13.0/lib64/${NAME}.so.13`));
    expect(find({ root, env: {} }, [12]).path).toBe(at(`usr/local/cuda/lib64/${NAME}.so.12`));
  });

  test("a named folder comes before a newer version that the loader finds on its own", () => {
    // the C library is on every loader's path, as version 6
    const { root, at } = tree("named/libc.so.5");
    const found = (folder: string | null) =>
      findLibrary("libc", [6, 5], [], { root, env: {}, folder }, () => [], "cure").path;
    expect(found(at("named"))).toBe(at("named/libc.so.5"));
    expect(found(null)).toBe("libc.so.6");
  });

  test("a folder without the required companion is skipped", () => {
    const { root, at } = tree(
      `usr/local/cuda-13.1/lib64/${NAME}.so.13`,
      `usr/local/cuda-13.0/lib64/${NAME}.so.13`,
      "usr/local/cuda-13.0/lib64/libbeside.so.13",
    );
    expect(find({ root, env: {} }).path).toStartWith(at("usr/local/cuda-13.1/"));
    expect(find({ root, env: {} }, [13], ["libbeside"]).path).toStartWith(at("usr/local/cuda-13.0/"));
  });
});

describe("absence", () => {
  test("names every version and every place, and the cure", () => {
    const { root, at } = tree(
      "usr/local/cuda/lib64/other.so",
      "work/.venv/pyvenv.cfg",
      "work/.venv/lib/python3.12/site-packages/numpy/file",
    );
    let error: unknown;
    try {
      find({ root, env: { CONDA_PREFIX: at("conda"), HOME: at("home") }, folder: at("named"), cwd: at("work") });
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(MissingLibraryError);
    const { message, searched, exitCode } = error as MissingLibraryError;
    expect(exitCode).toBe(1);
    expect(message).toStartWith(
      `${NAME}.so.13 or ${NAME}.so.12: not found; looked in ${at("named")}, the loader's path`,
    );
    expect(message).toEndWith("; cure");
    const project = at("work/.venv/lib/python3.12/site-packages/nvidia");
    for (const path of [at("usr/local/cuda/lib64"), at("conda/lib"), project]) expect(searched).toContain(path);
  });

  test("the driver: where containers and WSL put it, and what to install", () => {
    const { root, at } = tree();
    for (const folder of ["usr/lib/wsl/lib", "usr/local/nvidia/lib", "usr/local/nvidia/lib64"])
      expect(driverFolders({ root })).toContain(at(folder));
    // An invalid file is not taken for a driver, whatever the machine has.
    const broken = tree("driver/libcuda.so.1");
    expect(() => openDriver({ root, folder: broken.at("driver") })).toThrow(
      /libcuda\.so\.1: cannot be used .*file too short/,
    );
  });

  test("cuBLAS without cuBLASLt beside it does not count", () => {
    const { root, at } = tree("usr/local/cuda/lib64/libcublas.so.99");
    expect(() => openCublas({ root, env: { HOME: at("home") } }, [99])).toThrow(
      /libcublas\.so\.99: not found; looked in .*; install it: pip install nvidia-cublas/,
    );
  });
});

describe("loading", () => {
  test("an error about a missing symbol names the library", () =>
    expect(() => bindLibrary("libc.so.6", { no_such_function: "x:i32" }, [], null)).toThrow(
      /libc\.so\.6: cannot be used/,
    ));

  test("calls and seconds are counted per symbol if tracing is on", () => {
    const trace = new Map();
    const { abs } = bindLibrary("libc.so.6", { abs: "j:i32", getpid: "" }, [], trace);
    expect([abs(-3), abs(4)]).toEqual([3, 4]);
    expect(trace.get("abs")).toMatchObject({ calls: 2 });
    expect(trace.get("abs").seconds).toBeGreaterThan(0);
    expect(trace.get("getpid")).toEqual({ calls: 0, seconds: 0 });
  });

  test("the file behind a bare name is found", () => {
    bindLibrary("libc.so.6", { getpid: "" }, [], null);
    expect(loadedFile("libc.so.6")).toMatch(/^\/.*libc\.so\.6$/);
    expect(loadedFile("/some/file.so")).toBe("/some/file.so");
  });
});
