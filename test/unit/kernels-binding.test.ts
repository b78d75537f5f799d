/** The C interface is declared twice, in ffi/cpu/ops.h and ffi/bindings/cpu.ts: both must agree. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { kernelSignatures, sizeSignatures } from "../../ffi/bindings/cpu.ts";
import { assetPath } from "../../src/assets.ts";

const header = readFileSync(assetPath("ffi/cpu/ops.h"), "utf8");

/** The text up to the parenthesis that closes the one at `open`. */
function inParentheses(text: string, open: number): string {
  let depth = 0;
  for (let i = open; i < text.length; i++) {
    if (text[i] === "(") depth++;
    if (text[i] === ")" && --depth === 0) return text.slice(open + 1, i);
  }
  throw new Error(`no parenthesis closes the one at ${open}`);
}

const scalars: Readonly<Record<string, string>> = {
  int32_t: "i32",
  uint32_t: "u32",
  int64_t: "i64",
  float: "f32",
};

/** `const void* x` → `x:ptr`, `int32_t M` → `M:i32` */
function argument(declaration: string): string {
  const [, type = "", name = ""] = /^(.*?[\s*])(\w+)$/.exec(declaration.trim()) ?? [];
  const bare = type.replace(/\bconst\b/g, "").trim();
  const code = bare.endsWith("*") ? "ptr" : scalars[bare];
  if (!code) throw new Error(`${declaration}: a type that the bindings do not pass`);
  return `${name}:${code}`;
}

/** Every entry of a list: name, declared parameters as the bindings write them, and the arguments it passes on. */
function entries(
  source: string,
  named: "CPU_OPS" | "CPU_SIZES",
): { name: string; signature: string; passed: string }[] {
  const text = source.replace(/\\\n/g, " ");
  const start = text.indexOf(`#define ${named}`);
  const list = text.slice(start, text.indexOf("\n", start));
  return [...list.matchAll(/\b(?:OP|SIZE)\(\s*(\w+)\s*,\s*\(/g)].map((match) => {
    const open = match.index + match[0].length - 1;
    const parameters = inParentheses(list, open);
    const rest = list.indexOf("(", open + parameters.length + 2);
    const clean = (part: string) => part.replace(/\s+/g, " ").trim();
    return {
      name: match[1]!,
      signature: clean(parameters).split(",").map(argument).join(" "),
      passed: clean(inParentheses(list, rest))
        .split(/\s*,\s*/)
        .join(" "),
    };
  });
}

const declared = entries(header, "CPU_OPS");
const declaredSizes = entries(header, "CPU_SIZES");

test("the header is read", () => {
  expect(declared.length).toBeGreaterThan(25);
  expect(declared.map((op) => op.name)).toContain("attention_backward");
});

test("the bindings have the header's kernels, in its order", () => {
  expect(Object.keys(kernelSignatures)).toEqual(declared.map((op) => op.name));
  expect(Object.keys(sizeSignatures)).toEqual(declaredSizes.map((size) => size.name));
});

test("each kernel has the header's parameters, by name and type", () => {
  expect(Object.entries(kernelSignatures)).toEqual(declared.map((op) => [op.name, op.signature]));
  expect(Object.entries(sizeSignatures)).toEqual(declaredSizes.map((size) => [size.name, size.signature]));
});

test("the header passes each kernel's arguments on in the order of its parameters", () => {
  const names = (signature: string) => signature.replace(/:\w+/g, "");
  for (const { name, signature, passed } of [...declared, ...declaredSizes])
    expect([name, passed]).toEqual([name, names(signature)]);
});

test("differences are found", () => {
  const source = `#define CPU_OPS(OP) \\\n OP(scale, (float* x, const void *y, int64_t n, float f), (x, y, n,\\\n f))\n`;
  expect(entries(source, "CPU_OPS")).toEqual([
    { name: "scale", signature: "x:ptr y:ptr n:i64 f:f32", passed: "x y n f" },
  ]);
  expect(() => entries(source.replace("int64_t n", "size_t n"), "CPU_OPS")).toThrow("size_t n");
});
