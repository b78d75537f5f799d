/**
 * Renders a parsed template. Names are looked up as jinja2 compiles them: a loop, a macro and a block have their own
 * scope, which can read the outer one but not change it; an `if` has none.
 */

import type { Arguments, Expr, Signature, Stmt, Target } from "./ast.ts";
import { TemplateFault } from "./fault.ts";
import { applyFilter } from "./filters.ts";
import { concatenated, countPrinted, countStatement } from "./limits.ts";
import { Loop } from "./loop.ts";
import { methodOf } from "./methods.ts";
import { binary, comparison, negate, positive, slice, subscript } from "./operators.ts";
import { type FilterContext, Group } from "./sequences.ts";
import { applyTest } from "./tests.ts";
import {
  Attributes,
  Dict,
  isTrue,
  iterate,
  type Kwargs,
  Namespace,
  plain,
  Tuple,
  textOf,
  typeName,
  Undefined,
  type Value,
} from "./values.ts";

export class Scope {
  private readonly values = new Map<string, Value>();
  private readonly outer: Scope | null;
  constructor(outer: Scope | null) {
    this.outer = outer;
  }
  get(name: string): Value | undefined {
    return this.values.get(name) ?? (this.values.has(name) ? null : this.outer?.get(name));
  }
  set(name: string, value: Value): void {
    this.values.set(name, value);
  }
}

/** How a body ended. */
type Ending = "break" | "continue" | undefined;

/** The output of a loop over nodes. */
type Output = string[];

export function render(body: readonly Stmt[], scope: Scope): string {
  const output: Output = [];
  run(body, scope, output);
  return output.join("");
}

function run(body: readonly Stmt[], scope: Scope, output: Output): Ending {
  for (const statement of body) {
    const ending = execute(statement, scope, output);
    if (ending !== undefined) return ending;
  }
  return undefined;
}

function execute(node: Stmt, scope: Scope, output: Output): Ending {
  countStatement();
  switch (node.type) {
    case "text":
      output.push(countPrinted(node.text));
      return undefined;
    case "print":
      output.push(countPrinted(textOf(evaluate(node.value, scope))));
      return undefined;
    case "if": {
      const taken = node.branches.find(([test]) => isTrue(evaluate(test, scope)));
      return run(taken === undefined ? node.otherwise : taken[1], scope, output);
    }
    case "for":
      return executeFor(node, scope, output, evaluate(node.over, scope), 0);
    case "set":
      assign(node.target, evaluate(node.value, scope), scope);
      return undefined;
    case "setBlock": {
      const text = render(node.body, new Scope(scope));
      assign(node.target, node.filter === null ? text : applyChain(node.filter, text, scope), scope);
      return undefined;
    }
    case "with": {
      const inner = new Scope(scope);
      for (const [target, value] of node.targets) assign(target, evaluate(value, scope), inner);
      return run(node.body, inner, output);
    }
    case "macro":
      scope.set(node.name, macroOf(`'${node.name}'`, node.signature, node.body, scope));
      return undefined;
    case "callBlock": {
      const { call } = node;
      if (call.type !== "call") return undefined;
      const caller = macroOf("'caller'", node.signature, node.body, scope);
      const [args, kwargs] = argumentsOf(call.args, scope);
      output.push(textOf(invoke(evaluate(call.callee, scope), args, new Map([...kwargs, ["caller", caller]]))));
      return undefined;
    }
    case "filterBlock":
      output.push(textOf(applyChain(node.filter, render(node.body, new Scope(scope)), scope)));
      return undefined;
    case "generation":
      output.push(render(node.body, new Scope(scope)));
      return undefined;
    default:
      return node.type;
  }
}

type ForNode = Extract<Stmt, { type: "for" }>;

function executeFor(node: ForNode, scope: Scope, output: Output, over: Value, depth: number): undefined {
  const { test } = node;
  const items = iterate(plain(over)).filter((item) => {
    if (test === null) return true;
    const inner = new Scope(scope);
    assign(node.target, item, inner);
    return isTrue(evaluate(test, inner));
  });
  const recurse = (children: Value): Value => {
    const inner: Output = [];
    executeFor(node, scope, inner, children, depth + 1);
    return inner.join("");
  };
  const loop = new Loop(items, depth, node.recursive ? recurse : null);
  for (const [i, item] of items.entries()) {
    loop.index = i;
    const inner = new Scope(scope);
    inner.set("loop", loop);
    assign(node.target, item, inner);
    if (run(node.body, inner, output) === "break") break;
  }
  if (items.length === 0) run(node.otherwise, new Scope(scope), output);
  return undefined;
}

function assign(target: Target, value: Value, scope: Scope): void {
  if (target.type === "name") scope.set(target.name, value);
  else if (target.type === "member") {
    const object = scope.get(target.name);
    if (!(object instanceof Namespace)) throw new TemplateFault("cannot assign attribute on non-namespace object");
    setAttribute(object, target.attribute, value);
  } else {
    const items = iterate(value);
    const { length } = target.items;
    if (items.length < length)
      throw new TemplateFault(`not enough values to unpack (expected ${length}, got ${items.length})`);
    if (items.length > length) throw new TemplateFault(`too many values to unpack (expected ${length})`);
    for (const [i, item] of target.items.entries()) assign(item, items[i]!, scope);
  }
}

export function setAttribute(namespace: Namespace, name: string, value: Value): void {
  if (name.startsWith("_"))
    throw new TemplateFault(`a namespace's attribute cannot begin with an underscore (${name})`);
  namespace.attributes.set(name, value);
}

function macroOf(label: string, { parameters, special }: Signature, body: readonly Stmt[], scope: Scope): Value {
  return (args, kwargs) => {
    const inner = new Scope(scope);
    const rest = new Map(kwargs);
    for (const [i, { name, fallback }] of parameters.entries()) {
      const given = i < args.length ? args[i] : rest.get(name);
      if (i >= args.length) rest.delete(name);
      else if (rest.has(name)) throw new TemplateFault(`macro ${label} got multiple values for argument '${name}'`);
      if (given !== undefined) inner.set(name, given);
      else
        inner.set(
          name,
          fallback === null ? new Undefined(`parameter '${name}' was not provided`) : evaluate(fallback, inner),
        );
    }
    if (special.has("caller")) inner.set("caller", rest.get("caller") ?? new Undefined("No caller defined"));
    if (special.has("caller")) rest.delete("caller");
    if (special.has("kwargs")) inner.set("kwargs", new Dict(rest));
    else if (rest.size > 0)
      throw new TemplateFault(`macro ${label} takes no keyword argument '${[...rest.keys()][0]}'`);
    if (special.has("varargs")) inner.set("varargs", new Tuple(args.slice(parameters.length)));
    else if (args.length > parameters.length)
      throw new TemplateFault(`macro ${label} takes not more than ${parameters.length} argument(s)`);
    return render(body, inner);
  };
}

function invoke(callee: Value, args: readonly Value[], kwargs: Kwargs): Value {
  if (typeof callee === "function") return callee(args, kwargs);
  if (callee instanceof Undefined) callee.fail();
  if (callee instanceof Attributes) return callee.call(args, kwargs);
  throw new TemplateFault(`'${typeName(callee)}' object is not callable`);
}

function argumentsOf(
  { positional, named, spread, spreadNamed }: Arguments,
  scope: Scope,
): [Value[], Map<string, Value>] {
  const args = positional.map((argument) => evaluate(argument, scope));
  const kwargs = new Map(named.map(([name, value]) => [name, evaluate(value, scope)] as const));
  if (spread !== null) args.push(...iterate(evaluate(spread, scope)));
  if (spreadNamed !== null) {
    const mapping = evaluate(spreadNamed, scope);
    if (!(mapping instanceof Dict))
      throw new TemplateFault(`argument after ** must be a mapping, not ${typeName(mapping)}`);
    for (const [name, value] of mapping.entries()) kwargs.set(textOf(name), value);
  }
  return [args, kwargs];
}

/** A chain of filters whose innermost operand is a block's contents. */
function applyChain(filter: Expr, text: string, scope: Scope): Value {
  if (filter.type !== "filter") return text;
  const [args, kwargs] = argumentsOf(filter.args, scope);
  const value = filter.operand === null ? text : applyChain(filter.operand, text, scope);
  return applyFilter(filter.name, value, args, kwargs, context);
}

const context: FilterContext = {
  item,
  attributeOnly: (object, name) => attributeOf(object, name) ?? missing(object, name),
  filter: (name, value, args, kwargs) => applyFilter(name, value, args, kwargs, context),
  test: applyTest,
};

/** An attribute in Python's sense. */
function attributeOf(object: Value, name: string): Value | undefined {
  if (object instanceof Undefined) object.fail();
  if (name.startsWith("_"))
    return new Undefined(`access to attribute '${name}' of '${typeName(object)}' object is unsafe.`);
  if (object instanceof Namespace) return object.attributes.get(name);
  if (object instanceof Attributes) return object.attribute(name);
  if (object instanceof Group && (name === "grouper" || name === "list"))
    return object.items[name === "grouper" ? 0 : 1];
  return methodOf(object, name, (inner, key, isKey) =>
    isKey ? item(inner, /^\d+$/.test(key) ? BigInt(key) : key) : member(inner, key),
  );
}

function missing(object: Value, key: Value): Undefined {
  if (typeof key !== "string") return new Undefined(`${typeName(object)} object has no element ${textOf(key)}`);
  return new Undefined(`'${typeName(object)} object' has no attribute '${key}'`);
}

/** `object.name`: the attribute, else the item of that name. None is a value; only a missing one is Undefined. */
function member(object: Value, name: string): Value {
  const hidden = name.startsWith("_") ? subscript(object, name) : undefined;
  const attribute = hidden === undefined ? attributeOf(object, name) : undefined;
  if (attribute !== undefined) return attribute;
  const held = hidden === undefined ? subscript(object, name) : hidden;
  return held === undefined ? missing(object, name) : held;
}

/** `object[key]`: the item under the key, else the attribute. */
function item(object: Value, key: Value): Value {
  const held = subscript(object, key);
  if (held !== undefined) return held;
  const attribute = typeof key === "string" ? attributeOf(object, key) : undefined;
  return attribute === undefined ? missing(object, key) : attribute;
}

function evaluate(node: Expr, scope: Scope): Value {
  switch (node.type) {
    case "const":
      return node.value;
    case "name":
      return lookUp(node.name, scope);
    case "tuple":
      return new Tuple(node.items.map((each) => evaluate(each, scope)));
    case "list":
      return node.items.map((each) => evaluate(each, scope));
    case "dict":
      return new Dict(node.entries.map(([key, value]) => [evaluate(key, scope), evaluate(value, scope)]));
    case "choice":
      if (isTrue(evaluate(node.test, scope))) return evaluate(node.yes, scope);
      return node.no === null
        ? new Undefined("the inline if-expression evaluated to false and no else section was defined.")
        : evaluate(node.no, scope);
    case "and": {
      const left = evaluate(node.left, scope);
      return isTrue(left) ? evaluate(node.right, scope) : left;
    }
    case "or": {
      const left = evaluate(node.left, scope);
      return isTrue(left) ? left : evaluate(node.right, scope);
    }
    case "not":
      return !isTrue(evaluate(node.operand, scope));
    case "negative":
      return negate(evaluate(node.operand, scope));
    case "positive":
      return positive(evaluate(node.operand, scope));
    case "compare": {
      let left = plain(evaluate(node.first, scope));
      return node.rest.every(([operator, right]) => {
        const next = plain(evaluate(right, scope));
        const holds = comparison(operator, left, next);
        left = next;
        return holds;
      });
    }
    case "binary":
      return binary(node.operator, evaluate(node.left, scope), evaluate(node.right, scope));
    case "concat":
      return concatenated(node.items.map((each) => textOf(evaluate(each, scope))));
    case "attribute":
      return member(plain(evaluate(node.object, scope)), node.name);
    case "item": {
      const object = plain(evaluate(node.object, scope));
      if (node.key.type !== "slice") return item(object, plain(evaluate(node.key, scope)));
      const bounds = node.key.bounds.map((bound) => (bound === null ? null : evaluate(bound, scope)));
      return slice(object, bounds) ?? missing(object, "slice");
    }
    case "slice":
      throw new TemplateFault("a slice is not allowed here");
    case "call": {
      const callee = evaluate(node.callee, scope);
      const [args, kwargs] = argumentsOf(node.args, scope);
      return invoke(callee, args, kwargs);
    }
    case "filter": {
      const value = node.operand === null ? null : evaluate(node.operand, scope);
      const [args, kwargs] = argumentsOf(node.args, scope);
      return applyFilter(node.name, value, args, kwargs, context);
    }
    default: {
      const [args] = argumentsOf(node.args, scope);
      return applyTest(node.name, plain(evaluate(node.operand, scope)), args.map(plain));
    }
  }
}

function lookUp(name: string, scope: Scope): Value {
  const value = scope.get(name);
  return value === undefined ? new Undefined(`'${name}' is undefined`) : value;
}
