/**
 * Where Python environments have NVIDIA's libraries: `nvidia/NAME/lib` of the packages that pip and uv install. Environments
 * are found from the file system; no Python is run, and pyenv's shims, which are scripts, are resolved as pyenv does.
 */
import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";

export interface PythonSearch {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The user's home folder; null if there is none. */
  readonly home: string | null;
  /** Where the search for a project's environment starts. */
  readonly cwd: string;
  /** Replaces `/` in the fixed places. */
  readonly root: string;
}

/** Paths in `folder` whose names match, in descending alphanumeric order; none if the folder does not exist. */
export function entries(folder: string, pattern: RegExp): string[] {
  try {
    return readdirSync(folder)
      .filter((name) => pattern.test(name))
      .sort((a, b) => b.localeCompare(a, "en", { numeric: true }))
      .map((name) => join(folder, name));
  } catch {
    return [];
  }
}

/** A folder and all its parents. */
function upwards(folder: string): string[] {
  const found = [resolve(folder)];
  for (let next = dirname(found[0]!); next !== found.at(-1); next = dirname(next)) found.push(next);
  return found;
}

function lines(path: string): string[] {
  try {
    return readFileSync(path, "utf8").split("\n");
  } catch {
    return [];
  }
}

/**
 * Whether nobody else can put files into a folder: it belongs to the user or root, and is writable only by the owner, or by the
 * group with the owner's number, which is theirs alone. Libraries are loaded from it although nobody named it, and a parent of
 * the working folder may be writable by everyone.
 */
function isTrusted(folder: string): boolean {
  const user = process.getuid?.();
  if (user === undefined) return true;
  const { uid, gid, mode } = statSync(folder);
  return (uid === user || uid === 0) && (mode & 0o002) === 0 && ((mode & 0o020) === 0 || gid === uid);
}

/** The environment next to a project, as uv creates it: it need not be activated. */
function projectPrefix({ env, cwd }: PythonSearch): string[] {
  const named = env.UV_PROJECT_ENVIRONMENT;
  const places = upwards(cwd).flatMap((folder) => [...(named ? [resolve(folder, named)] : []), join(folder, ".venv")]);
  const found = places.find((prefix) => existsSync(join(prefix, "pyvenv.cfg")) && isTrusted(prefix));
  return found ? [found] : [];
}

/**
 * Prefixes of the versions that pyenv's shims select here: $PYENV_VERSION, else the nearest .python-version, else pyenv's own
 * file.
 */
function pyenvPrefixes(pyenv: string, { env, cwd }: PythonSearch): string[] {
  const files = [...upwards(cwd).map((folder) => join(folder, ".python-version")), join(pyenv, "version")];
  const asked = env.PYENV_VERSION
    ? env.PYENV_VERSION.split(":")
    : files.map(lines).find((all) => all.some((line) => line.trim() !== ""));
  return (asked ?? [])
    .map((line) => line.replace(/#.*/, "").trim())
    .filter((name) => /^\w[\w.+-]*$/.test(name))
    .flatMap((name) => {
      const exact = join(pyenv, "versions", name);
      // "3.12" means the newest installed 3.12.x
      const newest = entries(join(pyenv, "versions"), /./).filter((path) => path.startsWith(`${exact}.`));
      return existsSync(exact) ? [exact] : newest.slice(0, 1);
    });
}

/** Prefixes of the python3 on PATH: its own folder, and the target of its links. */
function pathPrefixes(search: PythonSearch): string[] {
  const { env, home } = search;
  const found = env.PATH ? Bun.which("python3", { PATH: env.PATH }) : null;
  if (!found) return [];
  const pyenv = env.PYENV_ROOT || (home && join(home, ".pyenv"));
  if (pyenv && dirname(found) === join(pyenv, "shims")) return pyenvPrefixes(pyenv, search);
  return [dirname(dirname(found)), dirname(dirname(realpathSync(found)))];
}

/** `nvidia/NAME/lib` below a prefix; without NVIDIA's packages, the folder where these would be, to be listed as searched. */
function foldersOf(prefix: string): string[] {
  return entries(join(prefix, "lib"), /^python3/)
    .flatMap((python) => [join(python, "site-packages"), join(python, "dist-packages")])
    .filter((packages) => existsSync(packages))
    .map((packages) => join(packages, "nvidia"))
    .flatMap((nvidia) => {
      const packages = entries(nvidia, /^[^_.]/).map((name) => join(name, "lib"));
      return packages.length > 0 ? packages : [nvidia];
    });
}

/**
 * Library folders in search order: the active environment, conda's, the project's, that of python3 on PATH, the user's
 * packages, the Pythons installed by uv, the system's.
 */
export function pythonFolders(search: PythonSearch): string[] {
  const { env, home, root } = search;
  const active = [env.VIRTUAL_ENV, env.CONDA_PREFIX].filter((prefix): prefix is string => !!prefix);
  const data = env.XDG_DATA_HOME || (home && join(home, ".local/share"));
  const uv = env.UV_PYTHON_INSTALL_DIR || (data && join(data, "uv/python"));
  const prefixes = [
    ...active,
    ...projectPrefix(search),
    ...pathPrefixes(search),
    ...(home ? [join(home, ".local")] : []),
    ...(uv ? entries(uv, /^\w+-3/) : []),
    join(root, "usr/local"),
    join(root, "usr"),
  ];
  return [...new Set([...new Set(prefixes)].flatMap(foldersOf))];
}
