/**
 * Parses a normalized answer (normalize.ts) into a tree: numbers, expressions, tuples and intervals, sets, unions,
 * lists, matrices, equations and inequalities. A recursive-descent parser over characters, with a depth limit;
 * whatever it does not understand makes the whole parse null. It computes nothing (evaluate.ts).
 */
import { determinant } from "./matrices.ts";
import { type Rational, ratAdd, ratFromDecimal, rational, ratMul } from "./rational.ts";
import { closingBrace } from "./text-groups.ts";
import type { Expression } from "./tree.ts";

const MAX_DEPTH = 60;

/** Functions written as words or commands, by the name evaluate.ts knows. */
const FUNCTIONS: Readonly<Record<string, string>> = {
  sin: "sin",
  cos: "cos",
  tan: "tan",
  tg: "tan",
  sec: "sec",
  csc: "csc",
  cosec: "csc",
  cot: "cot",
  ctg: "cot",
  arcsin: "arcsin",
  arccos: "arccos",
  arctan: "arctan",
  sinh: "sinh",
  cosh: "cosh",
  tanh: "tanh",
  log: "log",
  lg: "log",
  cis: "cis",
  ln: "ln",
  exp: "exp",
};
const INVERSES: Readonly<Record<string, string>> = { sin: "arcsin", cos: "arccos", tan: "arctan" };
/** Functions that need their argument in brackets. */
const BRACKETED = new Set(["sqrt", "abs", "floor", "ceil", "cbrt"]);

/** How commas between digits are read: `thousands` joins `1,234`, `lists` separates 1 from 234. */
export type CommaReading = "thousands" | "lists";

/** The items of `1, 2`, or of `1; 2` without commas between the semicolons; null for anything else. */
function sequenceOf(x: Expression): readonly Expression[] | null {
  if (x.kind === "list") return x.items;
  return x.kind === "groups" && x.items.every((item) => item.kind !== "list") ? x.items : null;
}

class Parser {
  private readonly s: string;
  private readonly commas: CommaReading;
  private at = 0;
  private depth = 0;
  /** How many ( [ { are open: inside them, a comma always separates. */
  private brackets = 0;
  private bars = 0;
  /** A determinant's entries are computed many times over, so determinants may not nest. */
  private inDeterminant = false;
  private failed = false;

  constructor(text: string, commas: CommaReading) {
    this.s = text;
    this.commas = commas;
  }

  parse(): Expression | null {
    const result = this.groups();
    this.space();
    return this.failed || this.at < this.s.length ? null : result;
  }

  /** Ends the parse from anywhere: nothing is left to read, and `parse` returns null. */
  private fail(): Expression {
    this.failed = true;
    this.at = this.s.length;
    return { kind: "infinity" };
  }

  private space(): void {
    while (this.s[this.at] === " ") this.at++;
  }

  private peek(): string {
    this.space();
    return this.s[this.at] ?? "";
  }

  private take(c: string): boolean {
    if (this.peek() !== c) return false;
    this.at++;
    return true;
  }

  private expect(c: string): void {
    if (!this.take(c)) this.fail();
  }

  private match(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.s);
    if (found !== null) this.at = pattern.lastIndex;
    return found;
  }

  private nested(parse: () => Expression): Expression {
    if (++this.depth > MAX_DEPTH) return this.fail();
    const result = parse();
    this.depth--;
    return result;
  }

  private separated(kind: "groups" | "list", mark: string, item: () => Expression): Expression {
    const items = [item()];
    while (this.take(mark)) {
      if (!this.atEnd()) items.push(item());
      else if (this.brackets > 0) return this.fail();
    }
    return items.length === 1 ? items[0]! : { kind, items };
  }

  private atEnd(): boolean {
    return ["", ")", "]", "}", "⦄", ";", ","].includes(this.peek());
  }

  private groups(): Expression {
    return this.nested(() => this.separated("groups", ";", () => this.list()));
  }

  private list(): Expression {
    return this.separated("list", ",", () => this.relation());
  }

  private relation(): Expression {
    const parts = [this.ratio()];
    const operators: string[] = [];
    while ("=<>≤≥≠∈".includes(this.peek() || "\n")) {
      operators.push(this.s[this.at++]!);
      parts.push(this.ratio());
    }
    return operators.length === 0 ? parts[0]! : { kind: "relation", operators, parts };
  }

  private ratio(): Expression {
    const items = [this.union()];
    while (this.take(":")) items.push(this.union());
    return items.length === 1 ? items[0]! : { kind: "ratio", items };
  }

  private union(): Expression {
    const items = [this.intersection()];
    while (this.take("∪")) items.push(this.intersection());
    return items.length === 1 ? items[0]! : { kind: "union", items };
  }

  /** `A ∩ B` and `A ∖ B`, which bind more tightly than ∪ and from the left. */
  private intersection(): Expression {
    let result = this.sum();
    for (;;) {
      if (this.take("∩")) result = { kind: "intersection", items: [result, this.sum()] };
      else if (this.take("∖")) result = { kind: "difference", items: [result, this.sum()] };
      else return result;
    }
  }

  private sum(): Expression {
    const items: Expression[] = [];
    for (;;) {
      const sign = this.peek();
      if (sign !== "" && "+-±∓".includes(sign)) this.at++;
      else if (items.length > 0) break;
      const term = this.product();
      if (sign === "-") items.push({ kind: "negative", of: term });
      else if (sign === "±") items.push({ kind: "plusminus", sign: 1, of: term });
      else if (sign === "∓") items.push({ kind: "plusminus", sign: -1, of: term });
      else items.push(term);
    }
    return items.length === 1 ? items[0]! : { kind: "sum", items };
  }

  private product(): Expression {
    const items = [this.factor()];
    for (;;) {
      if (this.take("*")) items.push(this.factor());
      else if (this.take("/")) items.push({ kind: "inverse", of: this.factor() });
      else if (this.startsFactor(items.at(-1)!)) items.push(this.power());
      else break;
    }
    return items.length === 1 ? items[0]! : { kind: "product", items };
  }

  /** Whether what follows is a factor without a sign: `2x`, `3(a+b)`, never `2 3`. */
  private startsFactor(previous: Expression): boolean {
    const c = this.peek();
    if (c === "") return false;
    if (c === "|") return this.bars === 0;
    if (c === "\\" && this.s.startsWith("\\end", this.at)) return false;
    if (/[\d.]/.test(c)) return previous.kind !== "number" && previous.kind !== "inverse" && /\d/.test(c);
    return /[a-zA-Z(\\{π√∞⌊⌈\u0370-\u03ff]/.test(c);
  }

  private factor(): Expression {
    if (this.take("-")) return { kind: "negative", of: this.nested(() => this.factor()) };
    if (this.take("+")) return this.nested(() => this.factor());
    return this.power();
  }

  private power(): Expression {
    return this.nested(() => {
      const base = this.postfix();
      if (!this.take("^")) return base;
      const exponent = this.peek() === "-" || this.peek() === "+" ? this.factor() : this.power();
      return this.suffixes({ kind: "power", base, exponent });
    });
  }

  private postfix(): Expression {
    return this.suffixes(this.primary());
  }

  private suffixes(of: Expression): Expression {
    let result = of;
    for (;;) {
      if (this.take("!")) result = { kind: "call", name: "factorial", args: [result] };
      else if (this.take("°")) result = { kind: "degrees", of: result };
      else if (this.take("%")) result = result.kind === "percent" ? this.fail() : { kind: "percent", of: result };
      else return result;
    }
  }

  private primary(): Expression {
    const c = this.peek();
    if (/[\d.]/.test(c)) return this.number();
    if (c === "(" || c === "[") return this.bracketed();
    if (c === "{") return this.braced();
    if (c === "⦃") return this.set("⦄");
    if (c === "|") return this.bar();
    if (c === "⌊" || c === "⌈") return this.rounding(c);
    if (c === "\\") return this.command();
    this.at++;
    if (c === "π") return { kind: "symbol", name: "pi" };
    if (c === "∞") return { kind: "infinity" };
    if (c === "∅") return { kind: "set", items: [] };
    if (c === "√") return { kind: "call", name: "sqrt", args: [this.argument()] };
    this.at--;
    return /[a-zA-Z\u0370-\u03ff]/.test(c) ? this.letters() : this.fail();
  }

  private number(): Expression {
    const start = this.at;
    const grouped =
      (this.commas === "thousands" && this.brackets === 0 && this.match(/\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?/y)) ||
      this.match(/\d{1,3}(?: \d{3})+(?!\d| *[/\d])(?:\.\d+)?/y);
    const plain = grouped || this.match(/(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?/y);
    if (!plain) return this.fail();
    const digits = plain[0].replace(/[, ]/g, "");
    const value = ratFromDecimal(digits);
    if (value === null) return this.fail();
    const rounded = /[.eE]/.test(digits);
    const sub = this.match(/\s*_\s*(?:\{\s*(\w+)\s*\}|(\w))/y);
    // A number with a base is a separate name: 10_2 is neither 10 nor 2.
    if (sub !== null)
      return { kind: "symbol", name: `${this.s.slice(start, start + plain[0].length)}_${sub[1] ?? sub[2]}` };
    if (rounded) return this.repeating(digits, value);
    return { kind: "number", value: this.mixed(value), rounded: false };
  }

  /** The fraction of a mixed number, `3\frac{1}{2}` or `3 1/2`, added to its whole part. */
  private mixed(whole: Rational): Rational {
    const before = this.at;
    const found =
      this.match(/\s*\\frac\s*(?:\{\s*(\d{1,9})\s*\}|(\d))\s*(?:\{\s*(\d{1,9})\s*\}|(\d))/y) ??
      this.match(/\s+(\d{1,9})()\s*\/\s*(\d{1,9})()(?![\d.])/y);
    if (found === null) return whole;
    const [, n1, n2, d1, d2] = found;
    const n = BigInt(n1 || n2 || 0);
    const d = BigInt(d1 || d2 || 0);
    const part = n < d ? rational(n, d) : null;
    const sum = part && ratAdd(whole, part);
    if (sum === null) this.at = before;
    return sum ?? whole;
  }

  /** `0.1\overline{6}`: the repeating decimal as the fraction it is. */
  private repeating(digits: string, value: Rational): Expression {
    const period = this.match(/\s*\\overline\s*\{\s*(\d{1,40})\s*\}/y)?.[1];
    if (period === undefined) return { kind: "number", value, rounded: true };
    const places = digits.split(".")[1]?.length ?? 0;
    const shifted = rational(BigInt(period), 10n ** BigInt(period.length) - 1n);
    const scaled = shifted && ratMul(shifted, { n: 1n, d: 10n ** BigInt(places) });
    const sum = scaled && ratAdd(value, scaled);
    return sum === null ? this.fail() : { kind: "number", value: sum, rounded: false };
  }

  private inside(parse: () => Expression): Expression {
    const bars = this.bars;
    this.bars = 0;
    this.brackets++;
    const result = this.nested(parse);
    this.brackets--;
    this.bars = bars;
    return result;
  }

  private bracketed(): Expression {
    const open = this.s[this.at++]!;
    const inner = this.inside(() => this.groups());
    const close = this.peek();
    if (close !== ")" && close !== "]") return this.fail();
    this.at++;
    const items = sequenceOf(inner);
    return items === null ? inner : { kind: "tuple", open, close, items };
  }

  /** A TeX group; with commas in it, a set whose braces lost their backslashes. */
  private braced(): Expression {
    this.expect("{");
    if (this.take("}")) return this.fail();
    const inner = this.inside(() => this.groups());
    this.expect("}");
    const items = sequenceOf(inner);
    return items === null ? inner : { kind: "set", items };
  }

  private set(close: string): Expression {
    this.at++;
    if (this.take(close)) return { kind: "set", items: [] };
    const inner = this.inside(() => this.groups());
    this.expect(close);
    return { kind: "set", items: sequenceOf(inner) ?? [inner] };
  }

  private bar(): Expression {
    this.at++;
    this.bars++;
    const inner = this.nested(() => this.sum());
    this.bars--;
    this.expect("|");
    return { kind: "call", name: "abs", args: [inner] };
  }

  private rounding(open: string): Expression {
    this.at++;
    const inner = this.inside(() => this.sum());
    this.expect(open === "⌊" ? "⌋" : "⌉");
    return { kind: "call", name: open === "⌊" ? "floor" : "ceil", args: [inner] };
  }

  /** A TeX argument: a group, or else one digit, letter or command. */
  private argument(): Expression {
    const c = this.peek();
    const grouped = this.commas === "thousands" ? this.match(/\{\s*(\d{1,3}(?:,\d{3})+)\s*\}/y)?.[1] : undefined;
    const long = grouped === undefined ? null : ratFromDecimal(grouped.replaceAll(",", ""));
    if (long !== null) return { kind: "number", value: long, rounded: false };
    if (c === "{") return this.braced();
    const digit = this.match(/\d/y)?.[0];
    if (digit !== undefined) return { kind: "number", value: { n: BigInt(digit), d: 1n }, rounded: false };
    return this.nested(() => this.primary());
  }

  private command(): Expression {
    const name = this.match(/\\([a-zA-Z]+)/y)?.[1];
    if (name === undefined) return this.fail();
    if (name === "frac") {
      const top = this.argument();
      return { kind: "product", items: [top, { kind: "inverse", of: this.argument() }] };
    }
    if (name === "sqrt") return this.root();
    if (name === "binom") return { kind: "call", name: "binomial", args: [this.argument(), this.argument()] };
    if (name === "begin") return this.matrix();
    if (name === "overline" || name === "bar" || name === "hat" || name === "overrightarrow") return this.argument();
    if (FUNCTIONS[name] !== undefined) return this.called(FUNCTIONS[name]);
    if (["sum", "prod", "int", "lim", "pmod", "bmod", "mod", "end"].includes(name)) return this.fail();
    return this.named(name);
  }

  private root(): Expression {
    let index: Expression | null = null;
    if (this.take("[")) {
      index = this.inside(() => this.sum());
      this.expect("]");
    }
    // TeX sets \sqrt13 as √1·3, but nobody who writes it means that.
    const run = this.match(/\s*\d+(?:\.\d+)?/y)?.[0].trim();
    const value = run === undefined ? null : ratFromDecimal(run);
    const of: Expression = value === null ? this.argument() : { kind: "number", value, rounded: false };
    return { kind: "call", name: index === null ? "sqrt" : "root", args: index === null ? [of] : [of, index] };
  }

  /** A symbol with its subscript and primes, which are part of its name. */
  private named(name: string): Expression {
    let full = name;
    if (this.take("_")) {
      if (this.peek() === "{") {
        const close = closingBrace(this.s, this.at);
        if (close < 0) return this.fail();
        full += `_${this.s.slice(this.at + 1, close).replace(/\s+/g, "")}`;
        this.at = close + 1;
      } else full += `_${this.match(/\\?[a-zA-Z]+|\d+/y)?.[0] ?? ""}`;
    }
    full += this.match(/'+/y)?.[0] ?? "";
    return { kind: "symbol", name: full };
  }

  private letters(): Expression {
    const run = /[a-zA-Z]+/y;
    run.lastIndex = this.at;
    const word = run.exec(this.s)?.[0] ?? "";
    const name = FUNCTIONS[word];
    if (name !== undefined) {
      this.at += word.length;
      return this.called(name);
    }
    if (word === "pi" || word === "Pi") {
      this.at += 2;
      return { kind: "symbol", name: "pi" };
    }
    if (/^inf(?:ty|inity)?$/i.test(word)) {
      this.at += word.length;
      return { kind: "infinity" };
    }
    if (BRACKETED.has(word)) {
      this.at += word.length;
      return { kind: "call", name: word, args: [this.argument()] };
    }
    return this.named(this.s[this.at++]!);
  }

  /** sin x, sin(x), sin^2 x, log_2 x: the argument without brackets ends at a sign or at the next function. */
  private called(name: string): Expression {
    let base: Expression | null = null;
    let exponent: Expression | null = null;
    if (name === "log" && this.take("_")) base = this.argument();
    if (this.take("^")) exponent = this.peek() === "-" ? this.factor() : this.argument();
    const inverse = exponent?.kind === "negative" && exponent.of.kind === "number" ? INVERSES[name] : undefined;
    const arg = this.peek() === "(" || this.peek() === "{" ? this.nested(() => this.primary()) : this.bareArgument();
    const call: Expression = { kind: "call", name: inverse ?? name, args: base === null ? [arg] : [arg, base] };
    return exponent === null || inverse !== undefined ? call : { kind: "power", base: call, exponent };
  }

  private bareArgument(): Expression {
    const items = [this.factor()];
    while (this.startsFactor(items.at(-1)!) && !this.startsFunction()) items.push(this.power());
    return items.length === 1 ? items[0]! : { kind: "product", items };
  }

  private startsFunction(): boolean {
    const word = /\\?([a-zA-Z]+)/y;
    this.space();
    word.lastIndex = this.at;
    const name = word.exec(this.s)?.[1];
    return name !== undefined && FUNCTIONS[name] !== undefined;
  }

  private matrix(): Expression {
    const environment = this.match(/\s*\{([a-zA-Z]*(?:matrix|array))\*?\}(?:\s*\{[clr| ]*\})?/y)?.[1];
    if (environment === undefined || /^V/.test(environment)) return this.fail();
    const isDeterminant = environment.startsWith("v");
    if (isDeterminant && this.inDeterminant) return this.fail();
    this.inDeterminant ||= isDeterminant;
    const rows: Expression[][] = [[]];
    const end = /\s*\\end\s*\{[a-zA-Z*]+\}/y;
    while (!this.failed) {
      if (this.match(end) !== null) break;
      rows.at(-1)!.push(this.inside(() => this.relation()));
      if (this.take("&")) continue;
      if (this.take("⏎")) {
        if (this.match(end) !== null) break;
        rows.push([]);
      } else if (this.match(end) !== null) break;
      else return this.fail();
    }
    if (!isDeterminant) return { kind: "matrix", rows };
    this.inDeterminant = false;
    return determinant(rows) ?? this.fail();
  }
}

/** The tree of a normalized answer, or null if it is not one the parser understands. Never throws. */
export function parseExpression(text: string, commas: CommaReading): Expression | null {
  if (/^\d{1,15}$/.test(text)) return { kind: "number", value: { n: BigInt(text), d: 1n }, rounded: false };
  return text === "" ? null : new Parser(text, commas).parse();
}
