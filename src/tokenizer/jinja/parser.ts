/** Statements of a template. Leaves out inheritance and imports, since there is no second file. */
import type { Expr, Signature, Stmt, Target } from "./ast.ts";
import { constants, parseArguments, parseExpression, parseFilter, parseTuple } from "./expressions.ts";
import { TokenStream } from "./token-stream.ts";

/** @throws TemplateFault with the line at which the text is not a valid template */
export function parseTemplate(template: string): Stmt[] {
  const stream = new TokenStream(template);
  const body = parseBody(stream, []);
  if (!stream.is("end")) stream.fail(`unexpected ${stream.found()}`);
  return body;
}

/** Statements up to a tag with one of the names, of which only the opening is consumed. */
function parseBody(stream: TokenStream, ends: readonly string[]): Stmt[] {
  const body: Stmt[] = [];
  for (;;) {
    if (stream.is("end")) {
      if (ends.length > 0) stream.fail(`the template ends without {% ${ends.at(-1)} %}`);
      return body;
    }
    const token = stream.next();
    if (token.type === "data") body.push({ type: "text", text: token.value });
    else if (token.type === "variable_begin") {
      body.push({ type: "print", value: parseTuple(stream) });
      stream.expect("variable_end");
    } else if (stream.isName(...ends)) return body;
    else {
      body.push(parseStatement(stream, ends));
      stream.expect("block_end");
    }
  }
}

/** The body of a tag, from the end of its opening tag to `end`, whose `%}` is not consumed. */
function parseBlock(stream: TokenStream, end: string): Stmt[] {
  stream.expect("block_end");
  const body = parseBody(stream, [end]);
  stream.next();
  return body;
}

function parseStatement(stream: TokenStream, ends: readonly string[]): Stmt {
  const name = stream.expect("name").value;
  switch (name) {
    case "if":
      return parseIf(stream);
    case "for":
      return parseFor(stream);
    case "set":
      return parseSet(stream);
    case "print":
      return { type: "print", value: parseTuple(stream) };
    case "with":
      return parseWith(stream);
    case "macro": {
      const macro = stream.expect("name").value;
      const parameters = parseParameters(stream);
      const body = parseBlock(stream, "endmacro");
      return { type: "macro", name: macro, signature: signatureOf(parameters, body), body };
    }
    case "call": {
      const parameters = stream.isOperator("(") ? parseParameters(stream) : [];
      const call = parseExpression(stream);
      if (call.type !== "call") stream.fail("{% call %} needs a call");
      const body = parseBlock(stream, "endcall");
      return { type: "callBlock", call, signature: signatureOf(parameters, body), body };
    }
    case "filter": {
      const filter = parseFilterChain(stream);
      return { type: "filterBlock", filter, body: parseBlock(stream, "endfilter") };
    }
    case "generation":
      return { type: "generation", body: parseBlock(stream, "endgeneration") };
    case "break":
    case "continue":
      if (stream.loops === 0) stream.fail(`'${name}' outside loop`);
      return { type: name };
    default:
      return stream.fail(
        `unknown tag '${name}'${ends.length > 0 ? `, where {% ${ends.join(" %} or {% ")} %} is expected` : ""}`,
      );
  }
}

function parseIf(stream: TokenStream): Stmt {
  const branches: [Expr, Stmt[]][] = [];
  for (;;) {
    const test = parseTuple(stream, { choice: false });
    stream.expect("block_end");
    branches.push([test, parseBody(stream, ["elif", "else", "endif"])]);
    const tag = stream.next().value;
    if (tag === "elif") continue;
    return { type: "if", branches, otherwise: tag === "else" ? parseBlock(stream, "endif") : [] };
  }
}

function parseFor(stream: TokenStream): Stmt {
  const target = parseTarget(stream, false);
  stream.expect("name", "in");
  const over = parseTuple(stream, { choice: false });
  const test = stream.accept("name", "if") ? parseExpression(stream) : null;
  const recursive = stream.accept("name", "recursive");
  stream.expect("block_end");
  stream.loops++;
  const body = parseBody(stream, ["endfor", "else"]);
  stream.loops--;
  const otherwise = stream.next().value === "else" ? parseBlock(stream, "endfor") : [];
  return { type: "for", target, over, test, recursive, body, otherwise };
}

function parseSet(stream: TokenStream): Stmt {
  const target = parseTarget(stream, true);
  if (stream.accept("operator", "=")) return { type: "set", target, value: parseTuple(stream) };
  const filter = stream.accept("operator", "|") ? parseFilterChain(stream) : null;
  return { type: "setBlock", target, filter, body: parseBlock(stream, "endset") };
}

function parseWith(stream: TokenStream): Stmt {
  const targets: [Target, Expr][] = [];
  while (!stream.is("block_end")) {
    if (targets.length > 0) stream.expect("operator", ",");
    const target = parseOneTarget(stream, false);
    stream.expect("operator", "=");
    targets.push([target, parseExpression(stream)]);
  }
  return { type: "with", targets, body: parseBlock(stream, "endwith") };
}

function parseFilterChain(stream: TokenStream): Expr {
  let filter = parseFilter(stream, null);
  while (stream.accept("operator", "|")) filter = parseFilter(stream, filter);
  return filter;
}

function parseTarget(stream: TokenStream, withMembers: boolean): Target {
  const first = parseOneTarget(stream, withMembers);
  if (!stream.isOperator(",")) return first;
  const items = [first];
  while (stream.accept("operator", ",") && !stream.isName("in") && !stream.isOperator("=", ")"))
    items.push(parseOneTarget(stream, withMembers));
  return { type: "tuple", items };
}

function parseOneTarget(stream: TokenStream, withMembers: boolean): Target {
  if (stream.accept("operator", "(")) {
    const inner = parseTarget(stream, withMembers);
    stream.expect("operator", ")");
    return inner;
  }
  const { value: name } = stream.expect("name");
  if (constants.has(name)) stream.fail(`cannot assign to '${name}'`);
  if (withMembers && stream.accept("operator", "."))
    return { type: "member", name, attribute: stream.expect("name").value };
  return { type: "name", name };
}

/** `(a, b=1)` of a macro, written like a call. */
function parseParameters(stream: TokenStream): Signature["parameters"] {
  const { positional, named, spread, spreadNamed } = parseArguments(stream);
  if (spread !== null || spreadNamed !== null) stream.fail("a macro's parameters cannot be unpacked");
  const plain = positional.map((parameter) =>
    parameter.type === "name"
      ? { name: parameter.name, fallback: null }
      : stream.fail("a macro's parameter must be a name"),
  );
  return [...plain, ...named.map(([name, fallback]) => ({ name, fallback }))];
}

function signatureOf(parameters: Signature["parameters"], body: readonly Stmt[]): Signature {
  const special = new Set<string>();
  const declared = new Set(parameters.map(({ name }) => name));
  const visit = (node: unknown): void => {
    if (Array.isArray(node)) node.forEach(visit);
    else if (typeof node === "object" && node !== null) {
      const { type, name } = node as { type?: string; name?: string };
      if (type === "name" && ["caller", "varargs", "kwargs"].includes(name!) && !declared.has(name!))
        special.add(name!);
      Object.values(node).forEach(visit);
    }
  };
  visit(body);
  return { parameters, special };
}
