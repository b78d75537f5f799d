/** The methods of Python's objects that a template can call; methods that modify their object are refused, as in transformers' sandbox. */
import { TemplateFault } from "./fault.ts";
import { formatBraces } from "./format.ts";
import { binary } from "./operators.ts";
import { Given, stringMethods } from "./string-methods.ts";
import {
  type Callable,
  Dict,
  isEqual,
  isNumber,
  iterate,
  plain,
  Range,
  Tuple,
  textOf,
  typeName,
  Undefined,
  type Value,
  View,
} from "./values.ts";

const mutating: Readonly<Record<string, readonly string[]>> = {
  list: ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"],
  dict: ["clear", "pop", "popitem", "setdefault", "update"],
};

function dictMethod(dict: Dict, name: string): Callable | undefined {
  switch (name) {
    case "get":
      return (args, kwargs) => {
        const given = new Given("get", args, kwargs, ["key", "default"]);
        const key = given.value("key");
        if (key === undefined) throw new TemplateFault("get expected at least 1 argument, got 0");
        const held = dict.get(key);
        return held === undefined ? (given.value("default") ?? null) : held;
      };
    case "items":
      return () =>
        new View(
          "dict_items",
          dict.entries().map((entry) => new Tuple(entry)),
        );
    case "keys":
      return () => new View("dict_keys", dict.keys());
    case "values":
      return () => new View("dict_values", dict.values());
    case "copy":
      return () => new Dict(dict.entries());
    default:
      return undefined;
  }
}

function sequenceMethod(sequence: Value[] | Tuple | Range, name: string): Callable | undefined {
  const items = iterate(sequence);
  if (name === "count") return ([sought = null]) => BigInt(items.filter((item) => isEqual(item, sought)).length);
  if (name === "copy" && Array.isArray(sequence)) return () => [...sequence];
  if (name !== "index") return undefined;
  return ([sought = null]) => {
    const at = items.findIndex((item) => isEqual(item, sought));
    if (at < 0) throw new TemplateFault(`${textOf(sought)} is not in the ${typeName(sequence)}`);
    return BigInt(at);
  };
}

/**
 * A method or field of a Python object by its name, not a dict's item.
 *
 * @param member for `str.format`, which looks into its arguments
 */
export function methodOf(
  object: Value,
  name: string,
  member: (object: Value, name: string, isKey: boolean) => Value,
): Value | undefined {
  if (mutating[typeName(object)]?.includes(name))
    return new Undefined(`access to attribute '${name}' of '${typeName(object)}' object is unsafe.`);
  if (typeof object === "string") {
    if (name === "format") return (args, kwargs) => formatBraces(object, args, kwargs, member);
    if (name === "format_map")
      return ([mapping]) =>
        formatBraces(
          object,
          [],
          new Map(mapping instanceof Dict ? mapping.entries().map(([k, v]) => [textOf(k), v]) : []),
          member,
        );
    const method = Object.hasOwn(stringMethods, name) ? stringMethods[name] : undefined;
    if (method === undefined) return undefined;
    const [names, run] = method;
    return (args, kwargs) => run(object, new Given(name, args.map(plain), kwargs, names));
  }
  if (object instanceof Dict) return dictMethod(object, name);
  if (Array.isArray(object) || object instanceof Tuple || object instanceof Range) return sequenceMethod(object, name);
  if (isNumber(object)) return numberField(object, name);
  return undefined;
}

function numberField(object: bigint | number | boolean, name: string): Value | undefined {
  if (name === "real") return binary("+", object, 0n);
  if (name === "imag") return 0n;
  if (name === "is_integer") return () => typeof object !== "number" || Number.isInteger(object);
  if (name === "bit_length" && typeof object !== "number")
    return () =>
      BigInt(BigInt(object) === 0n ? 0 : (BigInt(object) < 0n ? -BigInt(object) : BigInt(object)).toString(2).length);
  return undefined;
}
