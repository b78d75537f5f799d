/** Reads a configuration file (TOML, YAML or JSON) into flat keys, and recognizes other files that users name by mistake. */
import { InputError } from "../errors.ts";
import type { FileSetting } from "./file-setting.ts";
import { isTooDeep, readTextFile } from "./json-file.ts";
import { parseToml } from "./toml.ts";
import { parseJsonSettings, parseYaml } from "./yaml.ts";

export type FileSyntax = "toml" | "yaml" | "json";

export interface SettingsFile {
  readonly syntax: FileSyntax;
  readonly settings: readonly FileSetting[];
}

/** Files that lie beside recipes, by keys that only they have. */
const others: readonly (readonly [keys: readonly string[], what: string])[] = [
  [
    ["compute_environment", "distributed_type", "deepspeed_config", "main_training_function"],
    "a configuration of accelerate, which starts processes; here a single process computes: leave it out and give the recipe",
  ],
  [
    ["zero_optimization", "train_micro_batch_size_per_gpu", "zero_allow_untested_optimizer", "gradient_clipping"],
    "a configuration of DeepSpeed, which spreads a model over processes; here a single process computes: leave it out and give the recipe",
  ],
  [["architectures", "model_type"], "a model's config.json; give its folder with --model"],
];

/** @throws InputError where the file cannot be read, is broken (with the line), names a key twice, or is no recipe */
export function readSettingsFile(path: string): SettingsFile {
  const syntax: FileSyntax = /\.toml$/i.test(path) ? "toml" : /\.json$/i.test(path) ? "json" : "yaml";
  const text = readTextFile(path);
  const settings = { toml: parseToml, yaml: parseYaml, json: parseJsonSettings }[syntax](text, path);
  const deep = settings.find(({ value }) => isTooDeep(value));
  if (deep)
    throw new InputError(
      `${path}${deep.line === undefined ? "" : `:${deep.line}`}: ${deep.key}: nested without end; write its value out in a few levels`,
    );
  const keys = new Set(settings.map(({ key }) => key));
  const other = others.find(([marks]) => marks.some((mark) => keys.has(mark)));
  if (other) throw new InputError(`${path}: ${other[1]}`);
  return { syntax, settings };
}
