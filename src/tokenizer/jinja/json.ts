/** The `tojson` of chat templates: Python's `json.dumps`, which unlike jinja2's own filter escapes nothing for HTML. */

import { TemplateFault } from "./fault.ts";
import { repeatText } from "./limits.ts";
import { floatText } from "./numbers.ts";
import { compare, Dict, type Kwargs, Tuple, typeName, type Value } from "./values.ts";

interface Style {
  readonly ascii: boolean;
  /** The indentation of one level; null: all in one line. */
  readonly indent: string | null;
  readonly separators: readonly [string, string];
  readonly sortKeys: boolean;
}

/** @param options `ensure_ascii`, `indent`, `separators`, `sort_keys`, by position or name */
export function toJson(value: Value, options: readonly Value[], kwargs: Kwargs): string {
  const [ascii = false, indent = null, separators = null, sortKeys = false] = [
    "ensure_ascii",
    "indent",
    "separators",
    "sort_keys",
  ].map((name, i) => options[i] ?? kwargs.get(name));
  const step =
    indent === null ? null : typeof indent === "string" ? indent : repeatText(" ", Math.max(0, Number(indent)));
  const given = separators instanceof Tuple ? separators.items : Array.isArray(separators) ? separators : null;
  return write(
    value,
    {
      ascii: Boolean(ascii),
      indent: step,
      separators: given === null ? [step === null ? ", " : ",", ": "] : [String(given[0]), String(given[1])],
      sortKeys: Boolean(sortKeys),
    },
    "\n",
  );
}

/** @param margin a line break and the indentation of the level */
function write(value: Value, style: Style, margin: string): string {
  if (value === null) return "null";
  if (typeof value === "string") return quote(value, style.ascii);
  if (typeof value === "boolean" || typeof value === "bigint") return String(value);
  if (typeof value === "number") return number(value);
  const inner = style.indent === null ? margin : margin + style.indent;
  const wrap = (open: string, parts: readonly string[], close: string) => {
    if (parts.length === 0) return open + close;
    const [before, after] = style.indent === null ? ["", ""] : [inner, margin];
    return open + before + parts.join(style.separators[0] + before) + after + close;
  };
  if (Array.isArray(value) || value instanceof Tuple) {
    const items = Array.isArray(value) ? value : value.items;
    return wrap(
      "[",
      items.map((item) => write(item, style, inner)),
      "]",
    );
  }
  if (value instanceof Dict) {
    const entries = value.entries();
    if (style.sortKeys) entries.sort(([a], [b]) => compare(a, b, "<"));
    const parts = entries.map(
      ([key, item]) => quote(keyText(key), style.ascii) + style.separators[1] + write(item, style, inner),
    );
    return wrap("{", parts, "}");
  }
  throw new TemplateFault(`Object of type ${typeName(value)} is not JSON serializable`);
}

function number(value: number): string {
  if (Number.isFinite(value)) return floatText(value);
  return Number.isNaN(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
}

function keyText(key: Value): string {
  if (typeof key === "string") return key;
  if (typeof key === "number") return number(key);
  if (key === null || typeof key === "boolean" || typeof key === "bigint") return String(key);
  throw new TemplateFault(`keys must be str, int, float, bool or None, not ${typeName(key)}`);
}

/** JavaScript's own quoting is Python's, except for lone surrogates, which Python keeps, and `ensure_ascii`. */
function quote(text: string, ascii: boolean): string {
  const quoted = JSON.stringify(text);
  if (!ascii) return quoted;
  return quoted.replace(/[\x7f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
