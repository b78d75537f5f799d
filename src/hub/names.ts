/** How a repository of the hub is named: `org/name`, with `@revision` behind it if it is not the default branch. */

export interface HubName {
  readonly id: string;
  /** A branch, tag or commit; null: none is named. */
  readonly revision: string | null;
}

const part = "[\\w-][\\w.-]*";
const named = new RegExp(`^(${part}/${part})(?:@([\\w][\\w./+-]*))?$`);
const plain = new RegExp(`^(${part})(?:@([\\w][\\w./+-]*))?$`);
/** Endings of files, which no repository has. */
const file = /\.(?:arrow|feather|parquet|jsonl?|gz|zst|toml|safetensors|gguf)$/i;

/** Taken apart, or null: it looks like a path or a file. */
export function hubName(text: string): HubName | null {
  return parsed(named, text);
}

/** The same for datasets, of which old ones have no owner (`squad`). */
export function datasetName(text: string): HubName | null {
  return parsed(named, text) ?? parsed(plain, text);
}

function parsed(pattern: RegExp, text: string): HubName | null {
  const [, id, revision] = pattern.exec(text) ?? [];
  if (id === undefined || file.test(id) || id.includes("..") || id.includes("--") || revision?.includes(".."))
    return null;
  return { id, revision: revision ?? null };
}
