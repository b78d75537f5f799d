/**
 * `types/`: the declarations that the package ships for its users' compilers, so that these do not check the sources. The
 * settings are written out as interfaces, each with the text that `--help` shows, where the compiler infers them from the
 * schema: an editor shows no text of an inferred property. Run by `npm pack` and `bun pm pack`.
 */
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { allowed, unwrap } from "../src/config/allowed.ts";
import { toCamel } from "../src/config/names.ts";
import { type CommandName, commandSections, settingsOf } from "../src/config/schema.ts";
import { RunError } from "../src/errors.ts";

const root = join(import.meta.dir, "..");

/** A zod type as TypeScript writes it, as input or as output. */
export function typeText(type: z.ZodType): string {
  if (type instanceof z.ZodBoolean) return "boolean";
  if (type instanceof z.ZodNumber) return "number";
  if (type instanceof z.ZodString) return "string";
  if (type instanceof z.ZodNullable) return `${typeText(type.unwrap() as z.ZodType)} | null`;
  if (type instanceof z.ZodEnum) return type.options.map((option) => JSON.stringify(option)).join(" | ");
  if (type instanceof z.ZodLiteral) return [...type.values].map((value) => JSON.stringify(value)).join(" | ");
  if (type instanceof z.ZodArray) return `readonly (${typeText(type.element as z.ZodType)})[]`;
  if (type instanceof z.ZodRecord) return "Readonly<Record<string, unknown>>";
  if (type instanceof z.ZodUnion) return type.options.map((option) => typeText(option as z.ZodType)).join(" | ");
  throw new RunError(`release/types.ts has no text for a setting of type ${type.def.type}`);
}

const settingType = (setting: z.ZodType): string => {
  const { type, nullable } = unwrap(setting);
  return `${typeText(type)}${nullable ? " | null" : ""}`;
};

function property(key: string, setting: z.ZodType, isInput: boolean): string {
  const { fallback, required } = unwrap(setting);
  const byDefault = required ? "" : ` Default: ${JSON.stringify(fallback)}.`;
  const text = `${setting.description ?? ""} (${allowed(setting)}.${byDefault})`.replaceAll("*/", "*\\/");
  const type = settingType(setting);
  return `  /** ${text} */\n  readonly ${toCamel(key)}${isInput ? `?: ${type} | undefined` : `: ${type}`};`;
}

/** The declarations of src/config/schema.ts that programs see. */
export function schemaDeclarations(): string {
  const commands = Object.keys(commandSections) as CommandName[];
  const interfaces = commands.flatMap((command) =>
    (["Input", "Config"] as const).map((which) => {
      const lines = Object.entries(settingsOf(command)).map(([key, setting]) =>
        property(key, setting, which === "Input"),
      );
      return `export interface ${nameOf(command)}${which} {\n${lines.join("\n")}\n}`;
    }),
  );
  const map = (which: string) => commands.map((command) => `  ${command}: ${nameOf(command)}${which};`).join("\n");
  const part = (section: "Adapters" | "Optimizer") => {
    const keys = Object.keys(commandSections.sft[section]).map((key) => JSON.stringify(toCamel(key)));
    return `Pick<SftConfig, ${keys.join(" | ")}>`;
  };
  return `${interfaces.join("\n")}
interface Inputs {
${map("Input")}
}
interface Configs {
${map("Config")}
}
export type CommandName = keyof Inputs;
/** The settings of one command, checked and complete, in camelCase. */
export type ConfigOf<C extends CommandName> = Configs[C];
/** What a caller of the TypeScript API may leave out: anything that has a default. */
export type ConfigInput<C extends CommandName> = Inputs[C];
export type AdapterConfigSettings = ${part("Adapters")};
export type OptimizerConfig = ${part("Optimizer")};
export type SettingTypes = Readonly<Record<string, unknown>>;
`;
}

const nameOf = (command: string): string => command[0]!.toUpperCase() + command.slice(1);

/** Local modules that a declaration file imports. */
const importsIn = (source: string): string[] =>
  [...source.matchAll(/(?:from|import\()\s*"(\.[^"]+)"/g)].map((match) => match[1]!);

/** @throws RunError where the compiler refuses the sources */
export function writeTypes(): void {
  const folder = join(root, "types");
  rmSync(folder, { recursive: true, force: true });
  const tsc = join(root, "node_modules/.bin/tsc");
  const { exitCode, stdout } = Bun.spawnSync([process.execPath, "--bun", tsc, "-p", join(root, "release/types.json")]);
  if (exitCode !== 0) throw new RunError(`tsc: ${stdout}`);
  writeFileSync(join(folder, "src/config/schema.d.ts"), schemaDeclarations());
  // Only what the entry needs is kept.
  const needed = new Set<string>();
  const visit = (path: string): void => {
    if (needed.has(path) || !existsSync(path)) return;
    needed.add(path);
    for (const specifier of importsIn(readFileSync(path, "utf8")))
      visit(join(path, "..", specifier.replace(/\.ts$/, ".d.ts")));
  };
  visit(join(folder, "src/index.d.ts"));
  for (const path of new Bun.Glob("**/*.d.ts").scanSync({ cwd: folder, absolute: true }))
    if (!needed.has(path)) rmSync(path);
}

if (import.meta.main) writeTypes();
