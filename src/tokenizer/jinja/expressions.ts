/** Expressions of a template: precedence and corner cases are jinja2's, which differ from Python's (`**` is left-associative). */
import { type Arguments, type Expr, noArguments } from "./ast.ts";
import { readFloat, readInt } from "./numbers.ts";
import type { TokenStream } from "./token-stream.ts";

export const constants: ReadonlyMap<string, boolean | null> = new Map<string, boolean | null>([
  ["true", true],
  ["True", true],
  ["false", false],
  ["False", false],
  ["none", null],
  ["None", null],
]);

interface TupleOptions {
  /** Whether `a if b` is allowed; in a loop, the loop's own `if` follows instead. */
  readonly choice?: boolean;
  readonly parentheses?: boolean;
}

/** One expression, or a tuple without parentheses if commas follow. */
export function parseTuple(stream: TokenStream, { choice = true, parentheses = false }: TupleOptions = {}): Expr {
  const items: Expr[] = [];
  let isTuple = false;
  for (;;) {
    if (items.length > 0) stream.expect("operator", ",");
    const isEnd = stream.is("variable_end") || stream.is("block_end") || stream.isOperator(")");
    if (isEnd || (!choice && stream.isName("recursive"))) break;
    items.push(choice ? parseExpression(stream) : parseOr(stream));
    if (!stream.isOperator(",")) break;
    isTuple = true;
  }
  if (isTuple) return { type: "tuple", items };
  const [only] = items;
  if (only !== undefined) return only;
  if (!parentheses) stream.fail(`expected an expression, found ${stream.found()}`);
  return { type: "tuple", items };
}

export function parseExpression(stream: TokenStream): Expr {
  let value = parseOr(stream);
  while (stream.accept("name", "if")) {
    const test = parseOr(stream);
    value = { type: "choice", test, yes: value, no: stream.accept("name", "else") ? parseExpression(stream) : null };
  }
  return value;
}

function parseOr(stream: TokenStream): Expr {
  let left = parseAnd(stream);
  while (stream.accept("name", "or")) left = { type: "or", left, right: parseAnd(stream) };
  return left;
}

function parseAnd(stream: TokenStream): Expr {
  let left = parseNot(stream);
  while (stream.accept("name", "and")) left = { type: "and", left, right: parseNot(stream) };
  return left;
}

function parseNot(stream: TokenStream): Expr {
  return stream.accept("name", "not") ? { type: "not", operand: parseNot(stream) } : parseCompare(stream);
}

function parseCompare(stream: TokenStream): Expr {
  const first = parseSum(stream);
  const rest: [string, Expr][] = [];
  for (;;) {
    if (stream.isOperator("==", "!=", "<", "<=", ">", ">=")) {
      const operator = stream.next().value;
      rest.push([operator, parseSum(stream)]);
    } else if (stream.accept("name", "in")) rest.push(["in", parseSum(stream)]);
    else if (stream.isName("not") && stream.ahead.type === "name" && stream.ahead.value === "in") {
      stream.next();
      stream.next();
      rest.push(["not in", parseSum(stream)]);
    } else break;
  }
  return rest.length === 0 ? first : { type: "compare", first, rest };
}

function binary(operators: readonly string[], operand: (stream: TokenStream) => Expr): (stream: TokenStream) => Expr {
  return (stream) => {
    let left = operand(stream);
    while (stream.isOperator(...operators)) {
      const operator = stream.next().value;
      left = { type: "binary", operator, left, right: operand(stream) };
    }
    return left;
  };
}

const parsePower = binary(["**"], (stream) => parseUnary(stream, true));
const parseProduct = binary(["*", "/", "//", "%"], parsePower);
const parseSum = binary(["+", "-"], parseConcat);

function parseConcat(stream: TokenStream): Expr {
  const items = [parseProduct(stream)];
  while (stream.accept("operator", "~")) items.push(parseProduct(stream));
  return items.length === 1 ? items[0]! : { type: "concat", items };
}

function parseUnary(stream: TokenStream, withFilter: boolean): Expr {
  let node: Expr;
  if (stream.accept("operator", "-")) node = { type: "negative", operand: parseUnary(stream, false) };
  else if (stream.accept("operator", "+")) node = { type: "positive", operand: parseUnary(stream, false) };
  else node = parsePrimary(stream);
  node = parsePostfix(stream, node);
  return withFilter ? parseFilters(stream, node) : node;
}

function parsePrimary(stream: TokenStream): Expr {
  const token = stream.next();
  if (token.type === "name") {
    const value = constants.get(token.value);
    return value === undefined ? { type: "name", name: token.value } : { type: "const", value };
  }
  if (token.type === "string") {
    let value = token.value;
    while (stream.is("string")) value += stream.next().value;
    return { type: "const", value };
  }
  if (token.type === "integer") return { type: "const", value: readInt(token.value, 0) ?? 0n };
  if (token.type === "float") return { type: "const", value: readFloat(token.value) ?? 0 };
  if (token.type === "operator" && token.value === "(") {
    const inner = parseTuple(stream, { parentheses: true });
    stream.expect("operator", ")");
    return inner;
  }
  if (token.type === "operator" && token.value === "[")
    return { type: "list", items: parseSeparated(stream, "]", () => parseExpression(stream)) };
  if (token.type === "operator" && token.value === "{") {
    const entries = parseSeparated(stream, "}", (): readonly [Expr, Expr] => {
      const key = parseExpression(stream);
      stream.expect("operator", ":");
      return [key, parseExpression(stream)];
    });
    return { type: "dict", entries };
  }
  return stream.fail(`unexpected ${token.value === "" ? token.type.replace("_", " ") : `'${token.value}'`}`);
}

function parseSeparated<T>(stream: TokenStream, end: string, parse: () => T): T[] {
  const items: T[] = [];
  while (!stream.isOperator(end)) {
    if (items.length > 0) stream.expect("operator", ",");
    if (stream.isOperator(end)) break;
    items.push(parse());
  }
  stream.expect("operator", end);
  return items;
}

function parsePostfix(stream: TokenStream, start: Expr): Expr {
  let node = start;
  for (;;) {
    if (stream.isOperator(".", "[")) node = parseSubscript(stream, node);
    else if (stream.isOperator("(")) node = { type: "call", callee: node, args: parseArguments(stream) };
    else return node;
  }
}

function parseSubscript(stream: TokenStream, object: Expr): Expr {
  if (stream.next().value === ".") {
    if (stream.is("integer")) return { type: "item", object, key: parsePrimary(stream) };
    return { type: "attribute", object, name: stream.expect("name").value };
  }
  const keys = [parseKey(stream)];
  while (stream.accept("operator", ",")) keys.push(parseKey(stream));
  stream.expect("operator", "]");
  return { type: "item", object, key: keys.length === 1 ? keys[0]! : { type: "tuple", items: keys } };
}

/** An index, or a slice `start:stop:step`. */
function parseKey(stream: TokenStream): Expr {
  const bounds: (Expr | null)[] = [null];
  let isSlice = false;
  for (;;) {
    if (stream.isOperator(":") && bounds.length < 3) {
      stream.next();
      isSlice = true;
      bounds.push(null);
    } else if (stream.isOperator("]", ",")) break;
    else if (bounds.at(-1) === null) bounds[bounds.length - 1] = parseExpression(stream);
    else break;
  }
  if (isSlice) return { type: "slice", bounds };
  return bounds[0] ?? stream.fail("expected an index");
}

export function parseArguments(stream: TokenStream): Arguments {
  stream.expect("operator", "(");
  const positional: Expr[] = [];
  const named: [string, Expr][] = [];
  let spread: Expr | null = null;
  let spreadNamed: Expr | null = null;
  const require = (isAllowed: boolean) => isAllowed || stream.fail("an argument is not allowed here");
  for (let isFirst = true; !stream.isOperator(")"); isFirst = false) {
    if (!isFirst) stream.expect("operator", ",");
    if (stream.isOperator(")")) break;
    if (stream.accept("operator", "*")) {
      require(spread === null && spreadNamed === null);
      spread = parseExpression(stream);
    } else if (stream.accept("operator", "**")) {
      require(spreadNamed === null);
      spreadNamed = parseExpression(stream);
    } else if (stream.is("name") && stream.ahead.type === "operator" && stream.ahead.value === "=") {
      require(spreadNamed === null);
      const name = stream.next().value;
      stream.next();
      named.push([name, parseExpression(stream)]);
    } else {
      require(spread === null && spreadNamed === null && named.length === 0);
      positional.push(parseExpression(stream));
    }
  }
  stream.expect("operator", ")");
  return { positional, named, spread, spreadNamed };
}

function parseFilters(stream: TokenStream, start: Expr): Expr {
  let node = start;
  for (;;) {
    if (stream.accept("operator", "|")) node = parseFilter(stream, node);
    else if (stream.accept("name", "is")) node = parseTest(stream, node);
    else if (stream.isOperator("(")) node = { type: "call", callee: node, args: parseArguments(stream) };
    else return node;
  }
}

/** A filter after its `|`. */
export function parseFilter(stream: TokenStream, operand: Expr | null): Expr {
  const name = parseDotted(stream);
  return { type: "filter", name, operand, args: stream.isOperator("(") ? parseArguments(stream) : noArguments };
}

function parseDotted(stream: TokenStream): string {
  let name = stream.expect("name").value;
  while (stream.accept("operator", ".")) name += `.${stream.expect("name").value}`;
  return name;
}

function parseTest(stream: TokenStream, operand: Expr): Expr {
  const isNegated = stream.accept("name", "not");
  const name = parseDotted(stream);
  let args = noArguments;
  const { type, value } = stream.current;
  if (stream.isOperator("(")) args = parseArguments(stream);
  else if (["name", "string", "integer", "float"].includes(type) || stream.isOperator("[", "{")) {
    if (type === "name" && value === "is") stream.fail("tests with 'is' cannot be chained");
    if (type !== "name" || !["else", "or", "and"].includes(value))
      args = { ...noArguments, positional: [parsePostfix(stream, parsePrimary(stream))] };
  }
  const test: Expr = { type: "test", name, operand, args };
  return isNegated ? { type: "not", operand: test } : test;
}
