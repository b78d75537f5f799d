/**
 * The arguments after a command's name, taken apart: `--key value`, `--key=value`, `--switch`, `--no-switch`, Hydra's
 * `key=value`, lists of several words, and what is left. Dashes inside names count as underscores. Knows no settings; values
 * stay text here.
 */
import { InputError } from "../errors.ts";
import type { Kind } from "./allowed.ts";

export interface Flag {
  readonly key: string;
  /** As it was written, for messages. */
  readonly label: string;
  /** `true` for a bare switch; several words for a list or an unknown flag. */
  readonly value: string | boolean | readonly string[];
}

export interface Arguments {
  readonly positionals: readonly string[];
  /** In the order given. */
  readonly flags: readonly Flag[];
}

export interface SplitOptions {
  /** Take several words for a list (`--reward_funcs a b`) and for an unknown flag, and `key=value` for a flag. */
  readonly words?: boolean;
  /** Called with each thing that is wrong; left out, the first one is thrown. */
  readonly fault?: (message: string) => void;
}

/** Empty text is transformers' way to say that debug is off. */
const truthText = /^(true|false|yes|no|on|off|0|1|)$/i;
const configName = /\.(toml|ya?ml|json)$/i;
const hydra = /^\+{0,2}([A-Za-z_][\w.-]*)=(.*)$/s;

/** Kinds of settings that `--no_NAME` turns off. */
const negatable: ReadonlySet<Kind | undefined> = new Set(["boolean", "switch-or-text"]);

/** Whether an argument is the name of a configuration file. */
export const isConfigName = (argument: string): boolean => configName.test(argument);

/**
 * @param kind what a flag's key takes; undefined where the key is not known (it is kept, for the caller to refuse)
 * @throws InputError for a flag without its value, where no `fault` is given
 */
export function splitArguments(
  argv: readonly string[],
  kind: (key: string) => Kind | undefined,
  { words = false, fault = throwIt }: SplitOptions = {},
): Arguments {
  const positionals: string[] = [];
  const flags: Flag[] = [];
  const followsAsWord = (argument: string | undefined): argument is string =>
    argument !== undefined && !argument.startsWith("--") && !isConfigName(argument) && !hydra.test(argument);
  let i = 0;
  const takeWords = (): readonly string[] => {
    const start = i;
    while (followsAsWord(argv[i])) i++;
    return argv.slice(start, i);
  };
  while (i < argv.length) {
    const argument = argv[i++]!;
    if (argument === "--") {
      positionals.push(...argv.slice(i));
      break;
    }
    if (!argument.startsWith("-") || argument === "-" || /^-[\d.]/.test(argument)) {
      const [, name, value] = (words && hydra.exec(argument)) || [];
      if (name === undefined) positionals.push(argument);
      else flags.push({ key: name.replaceAll("-", "_"), label: name, value: value! });
      continue;
    }
    const equals = argument.indexOf("=");
    const label = equals < 0 ? argument : argument.slice(0, equals);
    const key = label.replace(/^--?/, "").replaceAll("-", "_");
    if (!argument.startsWith("--")) {
      fault(`${label}: settings take two dashes; try --help`);
      if (equals < 0) takeWords();
      continue;
    }
    if (equals >= 0) {
      flags.push({ key, label, value: argument.slice(equals + 1) });
      continue;
    }
    const negated = key.replace(/^no_/, "");
    if (kind(key) === undefined && negated !== key && negatable.has(kind(negated))) {
      flags.push({ key: negated, label, value: false });
      continue;
    }
    const next = argv[i];
    const expected = kind(key);
    if (expected === undefined) {
      if (words) {
        const values = takeWords();
        flags.push({ key, label, value: values.length === 0 ? true : values.length === 1 ? values[0]! : values });
      } else {
        flags.push({ key, label, value: true });
        if (next !== undefined && !next.startsWith("--")) i++;
      }
    } else if (expected === "boolean") {
      const explicit = next !== undefined && truthText.test(next);
      flags.push({ key, label, value: explicit ? next : true });
      if (explicit) i++;
    } else if (expected === "switch-or-text" && (next === undefined || next.startsWith("--") || isConfigName(next))) {
      flags.push({ key, label, value: true });
    } else if (next === undefined || next.startsWith("--")) {
      const cure = next === undefined ? "" : ` (if the value begins with dashes, write ${label}=${next})`;
      fault(`${label}: the value is missing${cure}`);
    } else if (expected === "list" && words) {
      i++;
      const more = takeWords();
      flags.push({ key, label, value: more.length === 0 ? next : [next, ...more] });
    } else {
      flags.push({ key, label, value: next });
      i++;
    }
  }
  return { positionals, flags };
}

function throwIt(message: string): never {
  throw new InputError(message);
}
