/** What a table holds under a name that a user wrote; `constructor` and the like are no entries of it. */
export const entryOf = <T>(table: Readonly<Record<string, T>>, name: string): T | undefined =>
  Object.hasOwn(table, name) ? table[name] : undefined;
