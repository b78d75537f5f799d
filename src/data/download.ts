/**
 * A dataset on the Hugging Face hub → a folder of Arrow files as `datasets` saves it (a DatasetDict), ready for
 * `--dataset` and `datasets.load_from_disk`. The files come through the cache that all tools of the hub share.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { InputError } from "../errors.ts";
import { writeFailure } from "../files/refusals.ts";
import { temporaryBeside } from "../files/temporary.ts";
import { pageOf } from "../hub/failures.ts";
import { datasetName } from "../hub/names.ts";
import { convertToArrow } from "./convert.ts";
import { type HubFiles, hubFiles } from "./hub-files.ts";

export interface DownloadOptions {
  /** Which of several configurations: by the card, or the folder of its files. Default: main, default or data. */
  readonly config?: string | null;
  /** The setting that chooses the configuration, for messages. Default: --config. */
  readonly configSetting?: string;
  /** A branch, tag or commit. Default: the one behind the name's @, else the default branch. */
  readonly revision?: string | null;
  readonly onProgress?: (text: string) => void;
}

export interface Downloaded {
  readonly folder: string;
  readonly splits: readonly { readonly name: string; readonly rows: number; readonly files: number }[];
  /** Where it is from: its page and commit. */
  readonly source: string;
  /** As its card names it; null: it names none. */
  readonly licence: string | null;
}

/**
 * Downloads the hub's dataset `name` into `folder`, which appears complete or not at all.
 * @throws InputError for an unusable name, configuration or folder, or a hub that cannot be reached
 */
export async function downloadDataset(
  name: string,
  folder: string,
  options: DownloadOptions = {},
): Promise<Downloaded> {
  const parsed = datasetName(name);
  if (parsed === null)
    throw new InputError(`${name}: not the name of a dataset on the hub (owner/name, owner/name@REV)`);
  if (existsSync(folder) && readdirSync(folder).length > 0)
    throw new InputError(`${folder}: the folder is not empty; choose another with --output_dir, or remove it`);
  const revision = options.revision ?? parsed.revision;
  const note = options.onProgress ?? (() => {});
  const files = await hubFiles(
    { ...parsed, revision },
    { config: options.config ?? null, configSetting: options.configSetting ?? "--config", split: null, note },
  );
  const target = resolve(folder); // without the slash that would put what is beside it inside
  const beside = temporaryBeside(target);
  try {
    const splits = await saveSplits(parsed.id, files, beside, note);
    rmSync(target, { recursive: true, force: true });
    renameSync(beside, target);
    const source = `${pageOf({ type: "dataset", ...parsed })} at ${files.commit.slice(0, 7)}`;
    return { folder, splits, source, licence: files.licence };
  } catch (error) {
    throw writeFailure(error, folder);
  } finally {
    rmSync(beside, { recursive: true, force: true });
  }
}

async function saveSplits(
  name: string,
  { folder, splits }: HubFiles,
  beside: string,
  note: (text: string) => void,
): Promise<Downloaded["splits"]> {
  const saved: { name: string; rows: number; files: number }[] = [];
  for (const [split, files] of splits) {
    const target = join(beside, split);
    mkdirSync(target, { recursive: true });
    const shards: string[] = [];
    let rows = 0;
    for (const [i, path] of files.entries()) {
      note(`${name}: ${path}`);
      const shard = `data-${number(i)}-of-${number(files.length)}.arrow`;
      rows += (await convertToArrow(join(folder, path), join(target, shard))).rows;
      shards.push(shard);
    }
    writeJson(join(target, "state.json"), savedState(split, shards));
    writeJson(join(target, "dataset_info.json"), {});
    saved.push({ name: split, rows, files: files.length });
  }
  writeJson(join(beside, "dataset_dict.json"), { splits: [...splits.keys()] });
  return saved;
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
