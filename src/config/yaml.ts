/**
 * Reads YAML and JSON text into keys with values and lines. Bun's parser takes the last of two equal keys and does not say
 * where it stopped, so the keys are looked for in the text as well. What they mean is checked by the caller.
 */
import { errorText, InputError } from "../errors.ts";
import { errorPlace } from "./error-line.ts";
import type { FileSetting } from "./file-setting.ts";

/** @throws InputError where the text is not one map, or names a key twice */
export function parseYaml(text: string, path: string): FileSetting[] {
  let parsed: unknown;
  try {
    parsed = Bun.YAML.parse(text);
  } catch (error) {
    const what = errorText(error).replace(/^YAML Parse error: /, "");
    throw new InputError(`${path}${errorPlace(text, Bun.YAML.parse)}: ${what}`);
  }
  // Several documents come as a list of them.
  const next = Array.isArray(parsed) ? /^(?=\s*[^\s#-]).*\n(?:.*\n)*?---(\s|$)/m.exec(text) : null;
  if (next) {
    const line = text.slice(0, next.index + next[0].trimEnd().length).split("\n").length;
    throw new InputError(`${path}:${line}: a second document begins here (---); keep one`);
  }
  const keys = blockKeys(text);
  const twice = keys.find(({ first }) => first !== undefined);
  if (twice) throw new InputError(`${path}:${twice.line}: ${twice.key}: also on line ${twice.first}; keep one of them`);
  const places = new Map(keys.map((each) => [each.path, each.line]));
  return settingsOf(parsed, path, (key) => places.get(key));
}

/** @throws InputError where the text is not one object, or names a key twice */
export function parseJsonSettings(text: string, path: string): FileSetting[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw new InputError(`${path}: not JSON (${errorText(error).replace(/^JSON Parse error: /, "")})`);
  }
  const lines = new Map<string, number>();
  for (const { key, at, twice } of jsonKeys(text)) {
    const line = text.slice(0, at).split("\n").length;
    if (twice) throw new InputError(`${path}:${line}: ${key}: appears twice in the file; keep one of them`);
    lines.set(key, line);
  }
  return settingsOf(parsed, path, (key) => lines.get(key));
}

function settingsOf(parsed: unknown, path: string, lineOf: (key: string) => number | undefined): FileSetting[] {
  if (parsed === null || parsed === undefined) return [];
  if (typeof parsed !== "object" || Array.isArray(parsed))
    throw new InputError(`${path}: has no settings; write "name: value", one setting per line, in one document`);
  return Object.entries(parsed).map(([key, value]) => ({ key, value: value as unknown, line: lineOf(key), lineOf }));
}

interface BlockKey {
  readonly key: string;
  readonly line: number;
  /** With the keys of the maps around it, and dots between. */
  readonly path: string;
  /** The line where the same map has this key already. */
  readonly first: number | undefined;
}

const keyLine =
  /^(?:"((?:[^"\\]|\\.)*)"|'((?:[^']|'')*)'|([^\s#"'&*!|>%@`{}[\],?:-][^#]*?|-[^\s#][^#]*?))\s*:(?:\s+(.*))?$/;

/** The keys of maps in block style (one a line), which is how settings are written. */
function blockKeys(text: string): BlockKey[] {
  const found: BlockKey[] = [];
  const open: { readonly indent: number; readonly path: string; readonly keys: Map<string, number> }[] = [];
  let last = "";
  /** Lines further in than this are a text (`|`, `>`) or go on with a value in quotes or brackets. */
  let within: number | null = null;
  for (const [i, raw] of text.split("\n").entries()) {
    const lineText = raw.replace(/\r$/, "").replace(/^\uFEFF/, "");
    if (/^\s*(#|$)/.test(lineText)) continue;
    let indent = lineText.search(/\S/);
    if (within !== null && indent > within) continue;
    within = null;
    if (/^(---|\.\.\.)(\s|$)/.test(lineText)) {
      open.length = 0;
      continue;
    }
    let rest = lineText.slice(indent);
    for (let dash = /^-\s+/.exec(rest); dash; dash = /^-\s+/.exec(rest)) {
      while (open.length > 0 && open.at(-1)!.indent > indent) open.pop();
      indent += dash[0].length;
      rest = rest.slice(dash[0].length);
      if (open.at(-1)?.indent === indent) open.pop();
    }
    const match = keyLine.exec(rest);
    if (!match) continue;
    while (open.length > 0 && open.at(-1)!.indent > indent) open.pop();
    if (open.length === 0 || open.at(-1)!.indent < indent)
      open.push({ indent, path: open.length === 0 ? "" : `${last}.`, keys: new Map() });
    const key = match[1] ?? match[2] ?? match[3]!;
    const { keys, path } = open.at(-1)!;
    last = path + key;
    found.push({ key, line: i + 1, path: last, first: keys.get(key) });
    keys.set(key, i + 1);
    if (goesOn(match[4] ?? "")) within = indent;
  }
  return found;
}

/** Whether a value is a block of text, or is not closed on its line. */
function goesOn(value: string): boolean {
  if (/^([|>][+-]?\d*[+-]?)(\s+#.*)?$/.test(value)) return true;
  if (value.startsWith('"')) return !/^"(?:[^"\\]|\\.)*"/.test(value);
  if (value.startsWith("'")) return !/^'(?:[^']|'')*'/.test(value);
  return /^[[{]/.test(value);
}

/** The keys of a JSON text's outermost object, and any inner one that appears twice. */
function* jsonKeys(text: string): Generator<{ key: string; at: number; twice: boolean }> {
  const open: (Set<string> | null)[] = [];
  for (const match of text.matchAll(/"(?:[^"\\]|\\.)*"(\s*:)?|[{}[\]]/g)) {
    const [token] = match;
    if (token === "{") open.push(new Set());
    else if (token === "[") open.push(null);
    else if (token === "}" || token === "]") open.pop();
    else if (match[1] !== undefined) {
      const key = JSON.parse(token.slice(0, -match[1].length)) as string;
      const keys = open.at(-1);
      const twice = keys?.has(key) ?? false;
      keys?.add(key);
      if (twice || open.length === 1) yield { key, at: match.index, twice };
    }
  }
}
