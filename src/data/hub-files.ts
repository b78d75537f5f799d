/**
 * Which files of a dataset on the hub are one configuration of it, by split, and these files in the shared cache. What the
 * dataset's card says (`configs` in README.md) overrides what folders and names say. Where the repository has no Parquet
 * itself, the copy that the hub makes of every dataset (branch refs/convert/parquet) is read. Leaves out programs.
 */
import { InputError } from "../errors.ts";
import { HubError, nameOf, type Repository } from "../hub/failures.ts";
import type { HubName } from "../hub/names.ts";
import type { TransferWatch } from "../hub/progress.ts";
import { hubSnapshot } from "../hub/snapshot.ts";
import { configNamed, configOf } from "./configurations.ts";
import { splitOf } from "./splits.ts";

export interface HubFilesRequest extends TransferWatch {
  /** Which of several configurations. null: the card's default, main, default, data, or the only one. */
  readonly config: string | null;
  /** The setting that chooses the configuration, for messages. */
  readonly configSetting: string;
  /** The split whose files are downloaded; null: all. */
  readonly split: string | null;
}

export interface HubFiles {
  /** The snapshot's folder, in which the paths are. */
  readonly folder: string;
  readonly commit: string;
  /** Paths by split, in the order of the rows; those of splits that were not asked for are not downloaded. */
  readonly splits: ReadonlyMap<string, readonly string[]>;
  /** From the card; null: it names none. */
  readonly licence: string | null;
}

/** A file with its place in the dataset. */
interface Part {
  readonly config: string;
  readonly split: string;
  readonly path: string;
}

/** Kinds of files that are read; the first that a dataset has counts. */
const parquet = /\.parquet$/;
const kinds = [parquet, /\.arrow$/, /\.(?:jsonl|ndjson)(?:\.gz|\.zst)?$/, /\.json(?:\.gz|\.zst)?$/];
const noData = /(?:^|\/)(?:dataset_infos?|dataset_dict|state|config|.*_config)\.json$/;

/** The branch of the hub's own copy: CONFIG/SPLIT/0000.parquet. */
const convertedBranch = "refs/convert/parquet";

/** @throws InputError where the dataset, the configuration or the files are missing; HubError as hubSnapshot does */
export async function hubFiles(name: HubName, request: HubFilesRequest): Promise<HubFiles> {
  const repo: Repository = { type: "dataset", ...name };
  let licence: string | null = null;
  let own: readonly string[] = [];
  const chosen = async (takesAll: boolean, from: Repository): Promise<HubFiles> => {
    let splits: HubFiles["splits"] = new Map();
    const snapshot = await hubSnapshot(
      from,
      async (paths, read) => {
        if (from === repo) {
          const card = paths.includes("README.md") ? frontMatter(await read("README.md")) : {};
          licence = licenceOf(card);
          own = dataFiles(paths);
          const parts = partsOf(own, card);
          // Anything but Parquet: the hub's copy first, which has the types.
          if (parts.length === 0 || !(takesAll || parquet.test(parts[0]!.path))) return [];
          splits = splitsOf(repo, parts, request, defaultOf(card));
        } else splits = splitsOf(repo, convertedParts(repo, paths), request, null);
        return request.split === null ? [...splits.values()].flat() : (splits.get(request.split) ?? []);
      },
      request,
    );
    return { folder: snapshot.folder, commit: snapshot.commit, splits, licence };
  };

  const first = await chosen(false, repo);
  if (first.splits.size > 0) return first;
  // The copy is of the default branch only.
  if (name.revision === null || name.revision === "main") {
    try {
      const converted = await chosen(true, { ...repo, revision: convertedBranch });
      return { ...converted, licence };
    } catch (error) {
      const isMissing = error instanceof HubError && ["revision", "missing", "unreachable"].includes(error.kind);
      if (!isMissing && !(error instanceof Partial)) throw error;
      if (own.length === 0 && error instanceof Partial) throw error;
    }
  }
  if (own.length === 0)
    throw new InputError(
      `${nameOf(repo)}: this dataset has no Parquet, Arrow or JSON files, and the hub no copy in Parquet`,
    );
  return chosen(true, repo);
}

/** The hub's copy ends after 5 GB. */
class Partial extends InputError {}

function convertedParts(repo: Repository, paths: readonly string[]): Part[] {
  return paths
    .filter((path) => parquet.test(path))
    .toSorted()
    .flatMap((path) => {
      const [config, split] = path.split("/");
      if (split?.startsWith("partial-"))
        throw new Partial(
          `${nameOf(repo)}: the hub has converted only its first 5 GB to Parquet (${config}/${split}); ` +
            "convert the dataset elsewhere, and give the folder",
        );
      return path.split("/").length === 3 ? [{ config: config!, split: split!, path }] : [];
    });
}

/** The data files of the first kind that there is. */
export function dataFiles(paths: readonly string[]): readonly string[] {
  const data = paths.filter((path) => !noData.test(path));
  const kind = kinds.find((pattern) => data.some((path) => pattern.test(path)));
  return kind === undefined ? [] : data.filter((path) => kind.test(path)).toSorted();
}

function splitsOf(
  repo: Repository,
  parts: readonly Part[],
  { config, configSetting }: HubFilesRequest,
  byDefault: string | null,
): HubFiles["splits"] {
  const configs = [...new Set(parts.map((part) => part.config))];
  const wanted = config ?? (byDefault !== null && configs.includes(byDefault) ? byDefault : null);
  const name = configNamed(repo.id, configs, wanted, configSetting);
  const ofConfig = parts.filter((part) => part.config === name);
  const splits = Map.groupBy(ofConfig, ({ split }) => split);
  return new Map([...splits].map(([split, files]) => [split, files.map(({ path }) => path)]));
}

type Card = Readonly<Record<string, unknown>>;

/** The YAML at the head of README.md; what cannot be read says nothing. */
function frontMatter(text: string): Card {
  const yaml = /^\uFEFF?---\r?\n([\s\S]*?)\r?\n---\s*(?:\n|$)/.exec(text)?.[1];
  try {
    const parsed: unknown = yaml === undefined ? {} : Bun.YAML.parse(yaml);
    return typeof parsed === "object" && parsed !== null ? (parsed as Card) : {};
  } catch {
    return {};
  }
}

function licenceOf({ license }: Card): string | null {
  const names = (Array.isArray(license) ? license : [license]).filter((name) => typeof name === "string");
  return names.length === 0 ? null : names.join(", ");
}

interface CardConfig {
  readonly config_name?: unknown;
  readonly default?: unknown;
  readonly data_files?: unknown;
}

const configsOf = ({ configs }: Card): readonly CardConfig[] => (Array.isArray(configs) ? configs : []);

function defaultOf(card: Card): string | null {
  const marked = configsOf(card).find((config) => config?.default === true)?.config_name;
  return typeof marked === "string" ? marked : null;
}

/** By the card where it names files that exist, else by folders and names. */
function partsOf(paths: readonly string[], card: Card): readonly Part[] {
  const byCard = configsOf(card).flatMap((config) => cardParts(config, paths));
  if (byCard.length > 0) return byCard;
  return paths.map((path) => ({ config: configOf(path), split: splitOf(path) ?? "train", path }));
}

/** `data_files` is a pattern, several, or a list of them by split. */
function cardParts({ config_name, data_files }: CardConfig, paths: readonly string[]): Part[] {
  const config = typeof config_name === "string" ? config_name : "default";
  const entries: unknown[] = Array.isArray(data_files) ? data_files : [data_files];
  return entries.flatMap((entry) => {
    const isPattern = typeof entry !== "object" || entry === null;
    const { split = "train", path } = (isPattern ? { path: entry } : entry) as { split?: unknown; path?: unknown };
    const patterns = (Array.isArray(path) ? path : [path]).filter((pattern) => typeof pattern === "string");
    if (typeof split !== "string") return [];
    const globs = patterns.map((pattern) => new Bun.Glob(pattern.replace(/^\.?\//, "")));
    return paths.filter((path) => globs.some((glob) => glob.match(path))).map((path) => ({ config, split, path }));
  });
}
