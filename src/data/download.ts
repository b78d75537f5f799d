/**
 * A dataset on the Hugging Face hub → a folder of Arrow files as `datasets` saves it (a DatasetDict), ready for
 * `--dataset` and `datasets.load_from_disk`. Leaves out datasets that are programs, and all files but Parquet, Arrow and
 * JSON.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { downloadFile, listFiles } from "@huggingface/hub";
import { errorText, InputError, RunError } from "../errors.ts";
import { temporaryBeside } from "../files/temporary.ts";
import { chooseConfig } from "./configurations.ts";
import { convertToArrow } from "./convert.ts";
import { splitOf } from "./splits.ts";

export interface DownloadOptions {
  /** Which of several configurations: the folder of its files. Default: main, default or data. */
  readonly config?: string | null;
  /** The setting that chooses the configuration, for messages. Default: --config. */
  readonly configSetting?: string;
  /** A branch, tag or commit. Default: main. */
  readonly revision?: string;
  /** Default: `$HF_ENDPOINT`, else the public hub. */
  readonly hubUrl?: string;
  readonly onProgress?: (text: string) => void;
}

export interface Downloaded {
  readonly folder: string;
  readonly splits: readonly { readonly name: string; readonly rows: number; readonly files: number }[];
}

/** Supported kinds of files; the first that a dataset has is read. */
const kinds = [/\.parquet$/, /\.arrow$/, /\.(?:jsonl|ndjson)(?:\.gz|\.zst)?$/, /\.json(?:\.gz|\.zst)?$/];
const noData = /(?:^|\/)(?:dataset_infos?|dataset_dict|state|config|.*_config)\.json$/;

/**
 * Downloads the hub's dataset `name` into `folder`, which appears complete or not at all.
 * @throws InputError for an unusable name, configuration or folder; RunError if the hub cannot be reached
 */
export async function downloadDataset(
  name: string,
  folder: string,
  options: DownloadOptions = {},
): Promise<Downloaded> {
  if (existsSync(folder) && readdirSync(folder).length > 0)
    throw new InputError(`${folder}: the folder is not empty; choose another with --output_dir, or remove it`);
  const paths = choosePaths(name, await listed(name, options), options.config ?? null, options.configSetting);
  const target = resolve(folder); // without the slash that would put what is beside it inside
  const beside = temporaryBeside(target);
  try {
    const splits = await saveSplits(name, paths, beside, options);
    rmSync(target, { recursive: true, force: true });
    renameSync(beside, target);
    return { folder, splits };
  } finally {
    rmSync(beside, { recursive: true, force: true });
  }
}

async function saveSplits(
  name: string,
  paths: readonly string[],
  folder: string,
  options: DownloadOptions,
): Promise<Downloaded["splits"]> {
  const bySplit = Map.groupBy(paths, (path) => splitOf(path) ?? "train");
  const splits: { name: string; rows: number; files: number }[] = [];
  for (const [split, files] of bySplit) {
    const target = join(folder, split);
    mkdirSync(target, { recursive: true });
    const shards: string[] = [];
    let rows = 0;
    for (const [i, path] of files.entries()) {
      options.onProgress?.(`${name}: ${path}`);
      const shard = `data-${number(i)}-of-${number(files.length)}.arrow`;
      rows += await saveShard(name, path, join(target, shard), options);
      shards.push(shard);
    }
    writeJson(join(target, "state.json"), savedState(split, shards));
    writeJson(join(target, "dataset_info.json"), {});
    splits.push({ name: split, rows, files: files.length });
  }
  writeJson(join(folder, "dataset_dict.json"), { splits: [...bySplit.keys()] });
  return splits;
}

async function saveShard(name: string, path: string, target: string, options: DownloadOptions): Promise<number> {
  const raw = `${target}.download`;
  const blob = await asking(name, () =>
    downloadFile({ repo: { type: "dataset", name }, path, revision: options.revision, ...access(options) }),
  );
  if (blob === null) throw new RunError(`${name}: the hub lists ${path} but does not have it; try again later`);
  await asking(name, () => Bun.write(raw, new Response(blob.stream())));
  const { rows } = await convertToArrow(raw, target);
  rmSync(raw);
  return rows;
}

/** As `save_to_disk` writes it: what `load_from_disk` needs to find. */
function savedState(split: string, shards: readonly string[]): object {
  return {
    _data_files: shards.map((filename) => ({ filename })),
    _fingerprint: new Bun.CryptoHasher("sha256").update(shards.join()).digest("hex").slice(0, 16),
    _format_columns: null,
    _format_kwargs: {},
    _format_type: null,
    _output_all_columns: false,
    _split: split,
  };
}

const number = (i: number) => String(i).padStart(5, "0");
const writeJson = (path: string, value: unknown) => writeFileSync(path, `${JSON.stringify(value, null, 2)}\n`);

async function listed(name: string, options: DownloadOptions): Promise<readonly string[]> {
  return asking(name, async () => {
    const repo = { type: "dataset", name } as const;
    const paths: string[] = [];
    for await (const entry of listFiles({ repo, recursive: true, revision: options.revision, ...access(options) }))
      if (entry.type === "file") paths.push(entry.path);
    return paths.sort();
  });
}

/** The data files of one configuration: those in its folder, of one kind. */
export function choosePaths(
  name: string,
  paths: readonly string[],
  config: string | null,
  setting = "--config",
): readonly string[] {
  const data = paths.filter((path) => !noData.test(path));
  const kind = kinds.find((pattern) => data.some((path) => pattern.test(path)));
  if (kind === undefined) throw new InputError(`${name}: this dataset has no Parquet, Arrow or JSON files`);
  return chooseConfig(
    name,
    data.filter((path) => kind.test(path)),
    config,
    setting,
  );
}

function access({ hubUrl }: DownloadOptions) {
  const { HF_TOKEN, HF_ENDPOINT } = process.env;
  const url = hubUrl || HF_ENDPOINT;
  return { ...(HF_TOKEN ? { accessToken: HF_TOKEN } : {}), ...(url ? { hubUrl: url } : {}) };
}

/** What the hub or the network says, as one line with the cure. */
async function asking<T>(name: string, ask: () => Promise<T>): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof InputError || error instanceof RunError) throw error;
    const status = (error as { statusCode?: number }).statusCode;
    if (status === 401 || status === 403 || status === 404)
      throw new InputError(`${name}: the hub has no public dataset of this name; check the name, or set HF_TOKEN`);
    const cure = "check the network, or download it elsewhere and give the folder";
    throw new RunError(`${name}: the hub cannot be reached (${errorText(error)}); ${cure}`);
  }
}
