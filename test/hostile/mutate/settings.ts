/** Damage to settings files, TOML and YAML, by their lines and values. */
import type { Random } from "../random.ts";
import { type Mutation, ofText } from "./mutation.ts";

const values: readonly string[] = [
  ..."0 -1 1 2 1e9 2147483648 9223372036854775807 9223372036854775808 1e308 1e400 nan inf -inf 0x10 0b1 1_000".split(
    " ",
  ),
  ...'true false [] {} [1,2] ["a"] [[[[]]]] {a=1} \'\' "" \'a\' "null" "true" "1" "\\u0000" 1979-05-27'.split(" "),
  `"${"a".repeat(100_000)}"`,
  "[".repeat(5000),
  `${"[".repeat(5000)}${"]".repeat(5000)}`,
  '"../../x"',
  "'''never closed",
  "",
];

/** A value with as few delimiters as TOML or YAML allows. */
function editValue(text: string, random: Random, separator: "=" | ":", values: readonly string[]): string | null {
  return editLine(text, random, (lines, at) => {
    lines[at] = `${lines[at]!.split(separator)[0]}${separator} ${random.pick(values)}`;
  });
}

function editLine(text: string, random: Random, edit: (lines: string[], at: number) => void): string | null {
  const lines = text.split("\n").filter(Boolean);
  if (lines.length === 0) return null;
  edit(lines, random.below(lines.length));
  return `${lines.join("\n")}\n`;
}

/** Damage that applies to both syntaxes. */
const lineDamage: readonly Mutation[] = [
  ofText("a line missing", (text, random) => editLine(text, random, (lines, at) => lines.splice(at, 1))),
  ofText("a line twice", (text, random) => editLine(text, random, (lines, at) => lines.splice(at, 0, lines[at]!))),
  ofText("a line cut off", (text, random) =>
    editLine(text, random, (lines, at) => {
      lines[at] = lines[at]!.slice(0, random.below(lines[at]!.length));
    }),
  ),
];

export const settingsDamage: readonly Mutation[] = [
  ...lineDamage,
  ofText("another value", (text, random) => editValue(text, random, "=", values)),
  ofText("an unknown key", (text, random) =>
    editLine(text, random, (lines, at) =>
      lines.splice(at, 0, `${random.pick(["nobody", "__proto__", "a.b", '""', '"é"', "model.x", "betta"])} = 1`),
    ),
  ),
  ofText("a table", (text, random) =>
    editLine(text, random, (lines, at) =>
      lines.splice(at, 0, random.pick(["[a]", "[[a]]", "[a.b.c]", "[", "[]", "[__proto__]"])),
    ),
  ),
];

export const settingsNeutral: readonly Mutation[] = [
  ofText("comments", (text) => `# a remark = 1\n${text.replaceAll("\n", " # [x]\n")}`, true),
  ofText("lines that end in CR LF", (text) => text.replaceAll("\n", "\r\n"), true),
  ofText("lines in another order", (text) => `${text.split("\n").filter(Boolean).reverse().join("\n")}\n`, true),
];

/** Anchors that refer to themselves or grow with every line, blocks, tags, documents: features of YAML that nothing here needs. */
const yamlValues: readonly string[] = [
  ..."0 -1 1 1e9 1e-6 .5 .inf -.inf .NaN 0x10 0o17 1_000 1:30 ~ null yes no on off true 2024-01-01 <<".split(" "),
  ...["[]", "{}", "[1, 2]", "[a, b]", "{a: 1}", "'a", '"a', "[1, 2", "{a: 1", '"\\u0000"', "a: b", "- a", "@a", "%a"],
  ...[
    "&x [*x]",
    "&x {y: *x}",
    "*nobody",
    "&x 1",
    "!!int 3",
    "!!binary aGk=",
    "!nobody 1",
    "|",
    "> a",
    "|\n  text",
    "? a",
  ],
  `&a [x,x,x]\nb1: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc1: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd1: [*c,*c,*c,*c,*c,*c,*c,*c]`,
  "[".repeat(5000),
  `${"[".repeat(5000)}${"]".repeat(5000)}`,
  `${"{a: ".repeat(3000)}1${"}".repeat(3000)}`,
  "a".repeat(100_000),
  "",
];

export const yamlDamage: readonly Mutation[] = [
  ...lineDamage,
  ofText("another value", (text, random) => editValue(text, random, ":", yamlValues)),
  ofText("a line further in", (text, random) =>
    editLine(text, random, (lines, at) => {
      lines[at] = `${random.pick([" ", "  ", "\t", "- ", "? "])}${lines[at]}`;
    }),
  ),
  ofText("an unknown key", (text, random) =>
    editLine(text, random, (lines, at) =>
      lines.splice(
        at,
        0,
        `${random.pick(["nobody", "__proto__", "a.b", '""', "é", "1", "null", "[a]", "<<", "betta"])}: 1`,
      ),
    ),
  ),
  ofText("another document", (text, random) =>
    editLine(text, random, (lines, at) => lines.splice(at, 0, random.pick(["---", "...", "--- a", "%YAML 9.9"]))),
  ),
];

export const yamlNeutral: readonly Mutation[] = [
  ofText("comments", (text) => `# a remark: 1\n${text.replaceAll("\n", " # x: y\n")}`, true),
  ofText("lines that end in CR LF", (text) => text.replaceAll("\n", "\r\n"), true),
  ofText("lines in another order", (text) => `${text.split("\n").filter(Boolean).reverse().join("\n")}\n`, true),
  ofText("a document's marks", (text) => `---\n${text}...\n`, true),
  ofText(
    "an anchor and its alias",
    (text) => text.replace(/: 2\n/, ": &two 2\n").replace(/: 8\n/, ": &eight 8\n"),
    true,
  ),
];
