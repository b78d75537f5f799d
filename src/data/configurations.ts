/** Which files of a dataset belong to which configuration (GSM8K's `main` and `socratic`), by their folders. */
import { InputError } from "../errors.ts";
import { isSplitName } from "./splits.ts";

/** The default if there are several. */
const usual = ["main", "default", "data", ""];

/**
 * The files of one configuration.
 * @param name the dataset, for messages
 * @param setting the setting that chooses one, for messages
 * @throws InputError if there is none of this name, or several and no default
 */
export function chooseConfig(
  name: string,
  paths: readonly string[],
  config: string | null,
  setting: string,
): readonly string[] {
  const byConfig = Map.groupBy(paths, configOf);
  return byConfig.get(configNamed(name, [...byConfig.keys()], config, setting))!;
}

/**
 * Which of several configurations: the one asked for, the usual one, or the only one.
 * @throws InputError like `chooseConfig`
 */
export function configNamed(name: string, configs: readonly string[], config: string | null, setting: string): string {
  const known = usual.find((known) => configs.includes(known));
  const chosen = config ?? known ?? (configs.length === 1 ? configs[0]! : null);
  if (chosen !== null && configs.includes(chosen)) return chosen;
  const why = config === null ? "several configurations" : `no configuration "${config}"`;
  throw new InputError(`${name}: ${why}; choose with ${setting}: ${configs.filter(Boolean).join(", ") || "(none)"}`);
}

/** Version and fingerprint, as in the folder names of `datasets`' own cache: `main/0.0.0/1505…/gsm8k-train.arrow`. */
const cacheFolder = /^(?:\d+\.\d+\.\d+|[0-9a-f]{40}|[0-9a-f]{64})$/;

/** The configuration that a path belongs to: `main/train-0.parquet` → main; a folder that only names the split belongs to the one above it. */
export function configOf(path: string): string {
  const folders = path.split("/").slice(0, -1);
  while (cacheFolder.test(folders.at(-1) ?? "")) folders.pop();
  if (folders.length > 0 && isSplitName(folders.at(-1)!)) folders.pop();
  while (cacheFolder.test(folders.at(-1) ?? "")) folders.pop();
  return folders.filter((part) => part !== ".").join("/");
}
