/**
 * A chat template's text as tokens, by the rules of Python's jinja2 with `trim_blocks` and `lstrip_blocks`, as set by
 * transformers. Leaves out line statements and other delimiters, which it does not enable.
 */
import { TemplateFault } from "./fault.ts";
import { rstrip, whitespace } from "./text.ts";

export type TokenType =
  | "data"
  | "block_begin"
  | "block_end"
  | "variable_begin"
  | "variable_end"
  | "name"
  | "string"
  | "integer"
  | "float"
  | "operator"
  | "end";

export interface Token {
  readonly type: TokenType;
  /** As written; for a string, its value. */
  readonly value: string;
  readonly line: number;
}

const space = `[${whitespace}]`;
/** `[S]` stands for Python's white space. */
function pattern(source: string, flags: string): RegExp {
  return new RegExp(source.replaceAll("[S]", space), flags);
}
const opening = pattern("\\{(?:%(?<raw>[-+]?[S]*raw[S]*(?:-%\\}[S]*|%\\}))|(?<kind>[%{#]))(?<sign>[-+]?)", "g");
const commentEnd = pattern("\\+#\\}|-#\\}[S]*|#\\}\\n?", "g");
const rawEnd = pattern("\\{%(?<sign>[-+]?)[S]*endraw[S]*(?:\\+%\\}|-%\\}[S]*|%\\}\\n?)", "g");
const blockEnd = pattern("\\+%\\}|-%\\}[S]*|%\\}\\n?", "y");
const variableEnd = pattern("-\\}\\}[S]*|\\}\\}", "y");
const spaces = pattern("[S]+", "y");
const parts: readonly (readonly [TokenType, RegExp])[] = [
  ["float", /(?<!\.)(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?e[+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/iy],
  ["integer", /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*/iy],
  ["name", /[\p{L}\p{M}\p{N}\p{Pc}]+/uy],
  ["string", /'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*"/sy],
  ["operator", /\/\/|\*\*|==|!=|>=|<=|[-+/*%~[\](){}><=.:|,;]/y],
];
const closing: Readonly<Record<string, string>> = { "(": ")", "[": "]", "{": "}" };

/** @throws TemplateFault for text that is not a valid template */
export function tokenize(template: string): Token[] {
  const source = template.replace(/\r\n|\r/g, "\n").replace(/\n$/, "");
  const tokens: Token[] = [];
  let at = 0;
  let line = 1;
  let lineStarting = true;

  const push = (type: TokenType, value: string) => tokens.push({ type, value, line });
  const advance = (end: number) => {
    const passed = source.slice(at, end);
    line += passed.split("\n").length - 1;
    lineStarting = passed.endsWith("\n");
    at = end;
  };
  const matchAt = (expression: RegExp): string | null => {
    expression.lastIndex = at;
    return expression.exec(source)?.[0] ?? null;
  };
  const searchFrom = (expression: RegExp, missing: string): RegExpExecArray => {
    expression.lastIndex = at;
    const found = expression.exec(source);
    if (found === null) throw new TemplateFault(`line ${line}: ${missing}`);
    return found;
  };
  /** Text before a tag, without what the tag's sign or `lstrip_blocks` takes from its end. */
  const trimmed = (text: string, sign: string, isVariable: boolean): string => {
    if (sign === "-") return rstrip(text);
    if (sign === "+" || isVariable) return text;
    const start = text.lastIndexOf("\n") + 1;
    return (start > 0 || lineStarting) && rstrip(text.slice(start)) === "" ? text.slice(0, start) : text;
  };
  const pushData = (text: string) => {
    if (text !== "") push("data", text);
  };

  while (at < source.length) {
    opening.lastIndex = at;
    const found = opening.exec(source);
    if (found === null) {
      pushData(source.slice(at));
      break;
    }
    const { raw, kind = "%", sign = "" } = found.groups as { raw?: string; kind?: string; sign?: string };
    const signOfTag = raw === undefined ? sign : /^[-+]?/.exec(raw)![0];
    pushData(trimmed(source.slice(at, found.index), signOfTag, raw === undefined && kind === "{"));
    if (raw !== undefined) {
      // Everything after `raw %}` is text, including a sign.
      advance(found.index + found[0].length - sign.length);
      const end = searchFrom(rawEnd, "a {% raw %} without {% endraw %}");
      pushData(trimmed(source.slice(at, end.index), end.groups?.sign ?? "", false));
      advance(end.index + end[0].length);
      continue;
    }
    advance(found.index + found[0].length);
    if (kind === "#") {
      const end = searchFrom(commentEnd, "an unclosed comment");
      advance(end.index + end[0].length);
      continue;
    }
    tag(kind === "{");
  }
  push("end", "");
  return tokens;

  function tag(isVariable: boolean): void {
    const brackets: string[] = [];
    push(isVariable ? "variable_begin" : "block_begin", "");
    for (;;) {
      const end = brackets.length === 0 ? matchAt(isVariable ? variableEnd : blockEnd) : null;
      if (end !== null) {
        push(isVariable ? "variable_end" : "block_end", "");
        advance(at + end.length);
        return;
      }
      const blank = matchAt(spaces);
      if (blank !== null) {
        advance(at + blank.length);
        continue;
      }
      const part = parts.map(([type, expression]) => [type, matchAt(expression)] as const).find(([, text]) => text);
      if (part === undefined) {
        const what = at < source.length ? `unexpected character ${JSON.stringify(source[at])}` : "an unclosed tag";
        throw new TemplateFault(`line ${line}: ${what}`);
      }
      const [type, text] = part as readonly [TokenType, string];
      if (type === "operator") balance(brackets, text);
      push(type, type === "string" ? unescaped(text.slice(1, -1), line) : text);
      advance(at + text.length);
    }
  }

  function balance(brackets: string[], text: string): void {
    const close = closing[text];
    if (close !== undefined) brackets.push(close);
    if (!")]}".includes(text)) return;
    const expected = brackets.pop();
    if (expected !== text)
      throw new TemplateFault(
        `line ${line}: unexpected '${text}'${expected === undefined ? "" : `, expected '${expected}'`}`,
      );
  }
}

const escapes: Readonly<Record<string, string>> = {
  "\n": "",
  "\\": "\\",
  "'": "'",
  '"': '"',
  a: "\x07",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
  v: "\v",
};

/** Python's escapes; a backslash before any other character is kept. */
function unescaped(text: string, line: number): string {
  const expression = /\\(?:([0-7]{1,3})|x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([xuUN])|([\s\S]))/g;
  return text.replace(expression, (whole, octal, x, u, long, torn, single) => {
    if (torn !== undefined)
      throw new TemplateFault(`line ${line}: the escape \\${torn} is incomplete or not supported`);
    if (single !== undefined) return escapes[single] ?? whole;
    const code = octal === undefined ? Number.parseInt(x ?? u ?? long, 16) : Number.parseInt(octal, 8);
    if (code > 0x10ffff) throw new TemplateFault(`line ${line}: the escape ${whole} is not a character`);
    return String.fromCodePoint(code);
  });
}
