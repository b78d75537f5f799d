/** Which names are hub ids rather than paths. */

/** `owner/name` or `name`, as the hub spells them; nothing that looks like a path or a file. */
export function isHubId(name: string): boolean {
  return (
    /^(?:[\w-][\w.-]*\/)?[\w-][\w.-]*$/.test(name) && !/\.(?:arrow|feather|parquet|jsonl?|gz|zst|toml)$/i.test(name)
  );
}
