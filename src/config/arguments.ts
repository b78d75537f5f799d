/**
 * The arguments after a command's name, taken apart: `--key value`, `--key=value`, `--switch`, `--no-switch`, and what
 * is left. Dashes inside names count as underscores. Knows no settings; values stay text here.
 */
import { InputError } from "../errors.ts";
import type { Kind } from "./allowed.ts";

export interface Arguments {
  readonly positionals: readonly string[];
  /** In the order given; the last of one key wins. `true` for a switch that stands alone. */
  readonly flags: readonly { readonly key: string; readonly label: string; readonly value: string | boolean }[];
}

const truthText = /^(true|false|True|False|0|1)$/;

/**
 * @param kind what a flag's key takes; undefined where the key is not known (it is kept, for the caller to refuse)
 * @throws InputError for a flag without its value
 */
export function splitArguments(argv: readonly string[], kind: (key: string) => Kind | undefined): Arguments {
  const positionals: string[] = [];
  const flags: { key: string; label: string; value: string | boolean }[] = [];
  let i = 0;
  while (i < argv.length) {
    const argument = argv[i++]!;
    if (argument === "--") {
      positionals.push(...argv.slice(i));
      break;
    }
    if (!argument.startsWith("-") || argument === "-" || /^-[\d.]/.test(argument)) {
      positionals.push(argument);
      continue;
    }
    const equals = argument.indexOf("=");
    const label = equals < 0 ? argument : argument.slice(0, equals);
    const key = label.replace(/^--?/, "").replaceAll("-", "_");
    if (!argument.startsWith("--")) throw new InputError(`${label}: settings are written with two dashes; try --help`);
    if (equals >= 0) {
      flags.push({ key, label, value: argument.slice(equals + 1) });
      continue;
    }
    const negated = key.replace(/^no_/, "");
    if (kind(key) === undefined && negated !== key && kind(negated) === "boolean") {
      flags.push({ key: negated, label, value: false });
      continue;
    }
    const next = argv[i];
    const expected = kind(key);
    if (expected === undefined) {
      flags.push({ key, label, value: true });
      if (next !== undefined && !next.startsWith("--")) i++;
    } else if (expected === "boolean") {
      const explicit = next !== undefined && truthText.test(next);
      flags.push({ key, label, value: explicit ? next : true });
      if (explicit) i++;
    } else if (expected === "switch-or-text" && (next === undefined || next.startsWith("--"))) {
      flags.push({ key, label, value: true });
    } else if (next === undefined || next.startsWith("--")) {
      const cure = next === undefined ? "" : ` (a value that begins with dashes: ${label}=${next})`;
      throw new InputError(`${label}: the value is missing${cure}`);
    } else {
      flags.push({ key, label, value: next });
      i++;
    }
  }
  return { positionals, flags };
}
