/** The committed table of registers and memory: a line per kernel, variant and architecture. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Resources } from "./compiled.ts";

const file = join(import.meta.dir, "resources.tsv");
const columns = ["registers", "shared", "stack", "spillStores", "spillLoads"] as const;
const heading = ["file", "kernel", "defines", "arch", ...columns].join("\t");

/** By "file kernel defines arch", separated by tabs. */
export type Table = Map<string, Resources>;

export function rowKey(source: string, kernel: string, defines: string, architecture: number): string {
  return [source, kernel, defines, `sm_${architecture}`].join("\t");
}

export function readTable(): Table {
  if (!existsSync(file)) return new Map();
  const lines = readFileSync(file, "utf8").trim().split("\n").slice(1);
  return new Map(
    lines.map((line) => {
      const cells = line.split("\t");
      const numbers = cells.slice(4).map(Number);
      const resources = Object.fromEntries(columns.map((column, i) => [column, numbers[i]!]));
      return [cells.slice(0, 4).join("\t"), resources as unknown as Resources];
    }),
  );
}

export function writeTable(table: Table): void {
  const collator = new Intl.Collator("en", { numeric: true });
  const rows = [...table].sort(([a], [b]) => collator.compare(a, b));
  const lines = rows.map(([key, resources]) => [key, ...columns.map((column) => resources[column])].join("\t"));
  writeFileSync(file, `${[heading, ...lines].join("\n")}\n`);
}

/** Differences between the committed table and the current compilation, in words. */
export function differences(committed: Table, compiled: Table): string[] {
  const words = (key: string) => key.replaceAll("\t", " ");
  const faults: string[] = [];
  for (const [key, now] of compiled) {
    const before = committed.get(key);
    if (before === undefined) faults.push(`${words(key)}: not in resources.tsv`);
    else
      for (const column of columns) {
        if (before[column] !== now[column])
          faults.push(`${words(key)}: ${column} ${before[column]} in resources.tsv, ${now[column]} now`);
      }
  }
  for (const key of committed.keys())
    if (!compiled.has(key)) faults.push(`${words(key)}: in resources.tsv, but no longer compiled`);
  return faults;
}
