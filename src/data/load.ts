/**
 * Opens a dataset by the user's name for it: an Arrow file or folder is opened in place; Parquet and JSON are converted
 * once into the cache; of a hub id, the files of the split are downloaded once into the cache that all tools of the hub share. Leaves out reading rows (dataset.ts).
 */
import { existsSync, readdirSync, realpathSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { cacheFolder, madeInCache } from "../cache.ts";
import { errorText, InputError } from "../errors.ts";
import { requireFile } from "../files/paths.ts";
import { datasetName } from "../hub/names.ts";
import { looksLikeArrow } from "./arrow/messages.ts";
import { chooseConfig } from "./configurations.ts";
import { type Dataset, type DatasetOptions, isLeftover, noSplit, openDataset, openFiles } from "./dataset.ts";
import { hubFiles } from "./hub-files.ts";
import { chooseSplit } from "./splits.ts";

export interface LoadOptions extends DatasetOptions {
  /** Which of several configurations. Default: main, default, or the only one. */
  readonly config?: string | null;
  /** Called before something slow: "converting train.parquet", "downloading openai/gsm8k". */
  readonly onProgress?: (text: string) => void;
}

/**
 * Opens the dataset called `name`: a path, or a hub id (`openai/gsm8k`, `openai/gsm8k@REVISION`) if there is no such path.
 * @throws InputError if there is none, it is damaged or cannot be downloaded; RunError if writing the cache fails
 */
export async function loadDataset(name: string, options: LoadOptions = {}): Promise<Dataset> {
  requireFile(name);
  if (existsSync(name)) return statSync(name).isDirectory() ? loadFolder(name, options) : loadFile(name, options);
  const hub = datasetName(name);
  if (hub === null) throw new InputError(`${name}: no such file or folder; check the path`);
  const { config = null, split = "train", onProgress: note = () => {} } = options;
  const { folder, splits } = await notAPath(name, () =>
    hubFiles(hub, { config, configSetting: "--dataset_config", split, note }),
  );
  const files = splits.get(split);
  if (files === undefined) throw noSplit(name, split, [...splits.keys()]);
  const tables: string[] = [];
  for (const file of files) {
    const path = join(folder, file);
    tables.push((await isArrow(path)) ? path : await converted(path, options));
  }
  return openFiles(name, tables);
}

/** A user who mistyped a path should read about the path, not only about the hub. */
async function notAPath<T>(name: string, download: () => Promise<T>): Promise<T> {
  try {
    return await download();
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    throw new InputError(`no file or folder ${name} here, and as a dataset on the hub: ${errorText(error)}`);
  }
}

async function loadFile(path: string, options: LoadOptions): Promise<Dataset> {
  return (await isArrow(path)) ? openDataset(path, options) : openFiles(path, [await converted(path, options)]);
}

/** A damaged file keeps its name, and its own reader says what is wrong with it. */
async function isArrow(path: string): Promise<boolean> {
  return path.endsWith(".arrow") || looksLikeArrow(Buffer.from(await Bun.file(path).slice(0, 8).arrayBuffer()));
}

/**
 * A folder as `save_to_disk` writes it, or one of data files: a clone of the hub's, or `datasets`' own cache. Parquet and JSON
 * Lines are read if there are no Arrow files.
 */
async function loadFolder(folder: string, options: LoadOptions): Promise<Dataset> {
  const { split = "train", config = null } = options;
  const names = namesIn(folder).sort();
  const savedIn = (path: string) =>
    ["dataset_dict.json", "state.json"].some((name) => names.includes(join(path, name)));
  if (config !== null && savedIn(config)) return openDataset(join(folder, config), options);
  const arrows = names.filter((name) => name.endsWith(".arrow"));
  const others = names.filter((name) => /\.(?:parquet|jsonl|ndjson)(?:\.gz|\.zst)?$/.test(name));
  const none = arrows.length === 0 && others.length === 0;
  if (none || savedIn("")) {
    if (config === null) return openDataset(folder, options);
    throw new InputError(`${folder}: no configuration "${config}" in it (dataset_config)`);
  }
  const here = arrows.some((name) => dirname(name) === ".") || (arrows.length > 0 && names.includes(split));
  if (config === null && here) return openDataset(folder, options);
  const data = arrows.length > 0 ? arrows.filter((name) => !isLeftover(name)) : others;
  const ofConfig = chooseConfig(folder, data, config, "--dataset_config");
  const { files, splits } = chooseSplit(ofConfig, split);
  if (files.length === 0) throw noSplit(folder, split, splits);
  const tables: string[] = [];
  for (const file of files)
    tables.push(arrows.length > 0 ? join(folder, file) : await converted(join(folder, file), options));
  return openFiles(folder, tables);
}

/** All files below a folder. */
function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder, { recursive: true, encoding: "utf8" });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new InputError(
      `${folder}: a folder in it cannot be read (${code ?? errorText(error)}); check its permissions`,
    );
  }
}

/** Increased when the output of `convertToArrow` changes, so that files cached by older versions are not used. */
const CONVERSION = 2;

/** The Arrow file made from `path`: the cached one if the input has not changed, else a new one. */
async function converted(path: string, { onProgress }: LoadOptions): Promise<string> {
  const { size, mtimeMs } = statSync(path);
  const key = new Bun.CryptoHasher("sha256").update(JSON.stringify([CONVERSION, realpathSync(path), size, mtimeMs]));
  const target = join(cacheFolder(), "converted", `${key.digest("hex").slice(0, 32)}.arrow`);
  if (existsSync(target)) return target;
  madeInCache("converted");
  onProgress?.(`converting ${path}`);
  const { convertToArrow } = await import("./convert.ts"); // it and its libraries are seldom needed
  await convertToArrow(path, target, { keepAll: true });
  return target;
}
