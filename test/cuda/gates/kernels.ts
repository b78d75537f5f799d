/** Every kernel that the operations launch, collected from the operations' own tables, and the compilations they need. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import type { Defines, KernelDefinition } from "../../../src/device/cuda/runtime.ts";

/** Architectures for the static gates; the recordings are for the first. */
export const architectures = [80, 86, 89, 90, 100, 120] as const;
export const recordedArchitecture = 80;

function isDefinition(value: unknown): value is KernelDefinition {
  const { file, name, parameters, threads, sizes, variants } = (value ?? {}) as Partial<KernelDefinition>;
  const texts = [file, name, parameters].every((text) => typeof text === "string");
  return texts && typeof threads === "number" && typeof sizes === "function" && Array.isArray(variants);
}

/** From every exported table of src/device/cuda/ops, so that none can be forgotten. */
export async function kernelDefinitions(): Promise<KernelDefinition[]> {
  const folder = join(import.meta.dir, "../../../src/device/cuda/ops");
  const found = new Map<string, KernelDefinition>();
  for (const name of readdirSync(folder)
    .filter((file) => file.endsWith(".ts"))
    .sort()) {
    const exported = Object.values((await import(join(folder, name))) as Record<string, unknown>);
    const tables = exported.filter((value): value is object => typeof value === "object" && value !== null);
    for (const value of [...exported, ...tables.flatMap((table) => Object.values(table))]) {
      if (isDefinition(value)) found.set(`${value.file} ${value.name}`, value);
    }
  }
  return [...found.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, definition]) => definition);
}

/** "X_TYPE=bf16 Y_TYPE=float", "-" for none. */
export function definesText(defines: Defines): string {
  const sorted = Object.entries(defines).map(([name, value]) => `${name}=${value}`);
  return sorted.sort().join(" ") || "-";
}

/** Whether the kernel runs on this architecture, and with instructions that only this one has. */
export function isFor({ only }: Pick<KernelDefinition, "only">, architecture: number): boolean {
  return only === undefined || only === architecture;
}

/** A source with one set of macros: several kernels come out of one compilation. */
export interface Unit {
  readonly file: string;
  /** The variant's macros, named in tables. */
  readonly defines: Defines;
  /** All macros, including the launcher's sizes. */
  readonly macros: Defines;
  readonly kernels: readonly KernelDefinition[];
  /** As in KernelDefinition, the same for all of them. */
  readonly only: number | undefined;
}

export function units(definitions: readonly KernelDefinition[]): Unit[] {
  const found = new Map<string, Unit & { readonly kernels: KernelDefinition[] }>();
  for (const definition of definitions) {
    for (const defines of definition.variants) {
      const key = `${definition.file} ${definesText(defines)}`;
      const macros = { ...defines, ...definition.sizes(defines) };
      const unit = found.get(key) ?? { file: definition.file, defines, macros, kernels: [], only: definition.only };
      if (definition.only !== unit.only)
        throw new Error(`${key}: ${definition.name} is for other GPUs than ${unit.kernels[0]?.name}`);
      if (definesText(macros) !== definesText(unit.macros))
        throw new Error(`${key}: ${definition.name} has other sizes than ${unit.kernels[0]?.name}`);
      found.set(key, unit);
      unit.kernels.push(definition);
    }
  }
  return [...found.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, unit]) => unit);
}
