/**
 * Damage to JSON that keeps its form (values of another size or type, keys missing, renamed or duplicated), and damage to its
 * form.
 */
import type { Random } from "../random.ts";
import { type Mutation, ofText } from "./mutation.ts";

/** JSON with keys and leaves kept as written, which can represent what no parsed value can. */
export type Node =
  | { readonly entries: [key: string, node: Node][] }
  | { readonly items: Node[] }
  | { readonly raw: string };

export function nodeOf(value: unknown): Node {
  if (Array.isArray(value)) return { items: value.map(nodeOf) };
  if (typeof value === "object" && value !== null)
    return { entries: Object.entries(value).map(([key, entry]) => [key, nodeOf(entry)]) };
  return { raw: JSON.stringify(value) };
}

export function printed(node: Node): string {
  if ("raw" in node) return node.raw;
  if ("items" in node) return `[${node.items.map(printed).join(",")}]`;
  return `{${node.entries.map(([key, entry]) => `${JSON.stringify(key)}:${printed(entry)}`).join(",")}}`;
}

const deep = (open: string, close: string, levels: number, core = "1") =>
  open.repeat(levels) + core + close.repeat(levels);

const texts = ["", "a", "1", "true", "null", "../../x", "/etc/hostname", "\u0000", "\u001b[2J\nx", "é🦆", "__proto__"];
const numbers = "0 -1 1 2 3 0.5 -0.0 7 255 65536 1000000000 2147483647 2147483648 4294967296 9007199254740993".split(
  " ",
);
const wild: readonly string[] = [
  ...numbers,
  ..."1e308 -1e308 1e400 -1e400 1e-320 1e9 123456789012345678901234567890 NaN Infinity -Infinity".split(" "),
  ...texts.map((text) => JSON.stringify(text)),
  '"\\ud800"',
  JSON.stringify("a".repeat(100_000)),
  ...'null true false [] {} [null] [[]] [0,0] {"a":1} {"__proto__":{"a":1}} {"constructor":1}'.split(" "),
  deep("[", "]", 40),
  deep("[", "]", 100_000),
  deep('{"a":', "}", 3000),
  `[${"0,".repeat(100_000)}0]`,
  // not JSON
  "'a'",
  "tru",
  "{",
  '"abc',
  "0x10",
  "01",
];
const names = [
  "",
  "__proto__",
  "constructor",
  "toString",
  "hasOwnProperty",
  "length",
  "a\u0000b",
  "é",
  "../x",
  "model",
];

/** A value related to the old one: plus one, doubled, negated, as text, in a list. */
function related(raw: string, random: Random): string {
  const value = Number(raw);
  const ways: string[] = [`[${raw}]`, `{"a":${raw}}`, `[${raw},${raw}]`, JSON.stringify(raw.slice(0, 200))];
  if (raw !== "" && Number.isFinite(value))
    ways.push(...[value + 1, value - 1, value * 2, -value, value / 2, value * 1e9, value + 0.5].map(String));
  else if (raw.startsWith('"')) ways.push(raw.toUpperCase(), '""', `${raw.slice(0, -1)}x"`, `${raw.slice(0, -1)}\\n"`);
  return random.pick(ways);
}

/** A container on a walk from the root that descends three times out of four, and a child of it. */
function somewhere(root: Node, random: Random): { list: Node[] | [string, Node][]; at: number } | null {
  let found: { list: Node[] | [string, Node][]; at: number } | null = null;
  for (let node = root; !("raw" in node); ) {
    const list = "items" in node ? node.items : node.entries;
    if (list.length === 0) break;
    const at = random.below(list.length);
    found = { list, at };
    if (random.chance(0.25)) break;
    const child = list[at]!;
    node = Array.isArray(child) ? child[1] : child;
  }
  return found;
}

type Edit = (list: Node[] | [string, Node][], at: number, random: Random) => void;

function put(list: Node[] | [string, Node][], at: number, node: Node): void {
  const child = list[at]!;
  if (Array.isArray(child)) child[1] = node;
  else list[at] = node;
}

const valueAt = (list: Node[] | [string, Node][], at: number): Node => {
  const child = list[at]!;
  return Array.isArray(child) ? child[1] : child;
};

const edits: Readonly<Record<string, Edit>> = {
  "a wild value": (list, at, random) => put(list, at, { raw: random.pick(wild) }),
  "a huge number": (list, at, random) => put(list, at, { raw: random.pick(numbers.slice(-6)) }),
  "a related value": (list, at, random) => put(list, at, { raw: related(printed(valueAt(list, at)), random) }),
  "a key or item missing": (list, at) => void list.splice(at, 1),
  "a key or item twice": (list, at, random) => void list.splice(random.below(list.length + 1), 0, list[at] as never),
  "a key twice, with a wild value": (list, at, random) => {
    const child = list[at]!;
    const node: Node = { raw: random.pick(wild) };
    list.splice(random.below(list.length + 1), 0, (Array.isArray(child) ? [child[0], node] : node) as never);
  },
  "a key of another name": (list, at, random) => {
    const child = list[at]!;
    if (Array.isArray(child)) child[0] = random.chance(0.5) ? random.pick(names) : `${child[0]}_`;
  },
  "two values swapped": (list, at, random) => {
    const other = random.below(list.length);
    const [a, b] = [valueAt(list, at), valueAt(list, other)];
    put(list, at, b);
    put(list, other, a);
  },
  "an item many times": (list, at) => {
    for (let left = 2000; left > 0; left--) list.push(list[at] as never);
  },
};

/** One edit of a JSON text; null if it is not JSON, or has nothing to edit. */
export function editJson(text: string, edit: Edit, random: Random): string | null {
  let root: Node;
  try {
    root = nodeOf(JSON.parse(text));
  } catch {
    return null;
  }
  const place = somewhere(root, random);
  if (place === null) return null;
  edit(place.list, place.at, random);
  return printed(root);
}

/** An object's top-level keys in another order. */
function reordered(text: string): string | null {
  const value: unknown = JSON.parse(text);
  if (typeof value !== "object" || value === null || Array.isArray(value)) return null;
  return JSON.stringify(Object.fromEntries(Object.entries(value).reverse()));
}

const attempt = (edit: (text: string) => string | null) => (text: string) => {
  try {
    return edit(text);
  } catch {
    return null;
  }
};

export const jsonDamage: readonly Mutation[] = [
  ...Object.entries(edits).map(([name, edit]) => ofText(name, (text, random) => editJson(text, edit, random))),
  ofText("another value at the top", (_, random) => random.pick(wild)),
  ofText("a mark before it", (text) => `\ufeff${text}`),
  ofText("text behind it", (text, random) => text + random.pick(["}", "]", "x", ",", "{}", "\u0000"])),
];

/** Changes that keep a JSON file's meaning. */
export const jsonNeutral: readonly Mutation[] = [
  ofText("its keys in another order", attempt(reordered), true),
  ofText(
    "indented",
    attempt((text) => JSON.stringify(JSON.parse(text), null, 7)),
    true,
  ),
  ofText(
    "without blanks",
    attempt((text) => JSON.stringify(JSON.parse(text))),
    true,
  ),
  ofText("blanks around it", (text) => `\n\t ${text} \r\n\n`, true),
];

/** An unknown key. */
export const unknownKey = ofText(
  "a key nobody knows",
  attempt((text) => JSON.stringify({ ...(JSON.parse(text) as object), nobody_knows_this: { a: [1, "b"] } })),
  true,
);

/** Damage to one line of JSON Lines, and to the line structure. */
export const jsonLinesDamage: readonly Mutation[] = [
  ...Object.entries(edits).map(([name, edit]) =>
    ofText(`a line with ${name}`, (text, random) => {
      const lines = text.split("\n").filter(Boolean);
      const at = random.below(lines.length);
      const edited = editJson(lines[at] ?? "", edit, random);
      return edited === null ? null : lines.with(at, edited).join("\n");
    }),
  ),
  ...Object.entries({
    "a line missing": (lines, at) => lines.toSpliced(at, 1),
    "a line twice": (lines, at) => lines.toSpliced(at, 0, lines[at]!),
    "two lines swapped": (lines, at, random) => {
      const other = random.below(lines.length);
      return lines.with(at, lines[other]!).with(other, lines[at]!);
    },
    "a line cut off": (lines, at, random) => lines.with(at, lines[at]!.slice(0, random.below(lines[at]!.length))),
    "two lines in one": (lines, at) => lines.toSpliced(at, 2, `${lines[at]}${lines[at + 1] ?? ""}`),
    "a wild line": (lines, at, random) => lines.with(at, random.pick(wild)),
    "a line of blanks and nulls": (lines, at) => lines.toSpliced(at, 0, " \u0000 "),
  } satisfies Record<string, (lines: string[], at: number, random: Random) => string[]>).map(([name, edit]) =>
    ofText(name, (text, random) => {
      const lines = text.split("\n").filter(Boolean);
      return lines.length === 0 ? null : `${edit(lines, random.below(lines.length), random).join("\n")}\n`;
    }),
  ),
];

export const jsonLinesNeutral: readonly Mutation[] = [
  ofText("lines that end in CR LF", (text) => text.replaceAll("\n", "\r\n"), true),
  ofText("blank lines", (text) => text.replaceAll("\n", "\n\n  \n"), true),
  ofText("no newline at its end", (text) => text.trimEnd(), true),
];
