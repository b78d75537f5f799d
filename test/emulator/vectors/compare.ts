/** Comparisons, following section "Comparison and Selection": ordered, unordered, combined with a predicate. */
import { compare, decode, flush, formats } from "./exact.ts";
import { type Bits, byFormula, byHand, type Form, product, signed } from "./form.ts";
import { edge16, edge32, edge64, floats32, floats64 } from "./values.ts";

const edges: Record<number, readonly Bits[]> = { 16: edge16, 32: edge32, 64: edge64 };

type Order = number | undefined;

const ordered: Record<string, (order: number) => boolean> = {
  eq: (o) => o === 0,
  ne: (o) => o !== 0,
  lt: (o) => o < 0,
  le: (o) => o <= 0,
  gt: (o) => o > 0,
  ge: (o) => o >= 0,
};

/** Names of the unsigned comparisons, which exist beside lt le gt ge. */
const unsignedNames: Record<string, string> = { lo: "lt", ls: "le", hi: "gt", hs: "ge" };

/** For floats: ordered comparisons are false if an operand is NaN, those with `u` are true. */
const floating: Record<string, (order: Order) => boolean> = {
  ...Object.fromEntries(Object.entries(ordered).map(([name, f]) => [name, (o: Order) => o !== undefined && f(o)])),
  ...Object.fromEntries(
    Object.entries(ordered).map(([name, f]) => [`${name}u`, (o: Order) => o === undefined || f(o)]),
  ),
  num: (o) => o !== undefined,
  nan: (o) => o === undefined,
};

function integers(): Form[] {
  return ["b", "u", "s"].flatMap((letter) =>
    [16, 32, 64].flatMap((bits) => {
      const type = `${letter}${bits}`;
      const names =
        letter === "b"
          ? ["eq", "ne"]
          : [...Object.keys(ordered), ...(letter === "u" ? Object.keys(unsignedNames) : [])];
      const value = (x: Bits) => (letter === "s" ? signed(x, bits) : x);
      return names.map((name) =>
        byFormula(`setp.${name}.${type}`, `${type} ${type} -> pred`, product(edges[bits]!, edges[bits]!), (a, b) => {
          const [x, y] = [value(a!), value(b!)];
          return ordered[unsignedNames[name] ?? name]!(x < y ? -1 : x > y ? 1 : 0) ? 1n : 0n;
        }),
      );
    }),
  );
}

function floats(): Form[] {
  return Object.entries(floating).flatMap(([name, test]) =>
    ["f32", "ftz.f32", "f64"].map((suffix) => {
      const type = suffix.endsWith("f64") ? "f64" : "f32";
      const format = formats[type];
      const list = (type === "f64" ? floats64 : floats32).filter((_, i) => i % 2 === 0 || i < 8);
      const prepare = (x: Bits) => decode(format, suffix.startsWith("ftz") ? flush(format, x) : x);
      return byFormula(`setp.${name}.${suffix}`, `${type} ${type} -> pred`, product(list, list), (a, b) =>
        test(compare(prepare(a!), prepare(b!))) ? 1n : 0n,
      );
    }),
  );
}

/** p = (a op b) bool c, and for the second destination (not (a op b)) bool c. */
function combined(): Form[] {
  const booleans: Record<string, (t: boolean, c: boolean) => boolean> = {
    and: (t, c) => t && c,
    or: (t, c) => t || c,
    xor: (t, c) => t !== c,
  };
  const list = [0n, 1n, 0xffffffffn];
  const one = [0n, 0x3f800000n, 0x7fc00000n];
  const bit = (b: boolean) => (b ? 1n : 0n);
  return Object.entries(booleans).flatMap(([name, f]) => [
    ...["lt", "ge", "eq", "ne", "gt", "le"].flatMap((op) =>
      ["s32", "u32"].map((type) =>
        byFormula(
          `setp.${op}.${name}.${type}`,
          `${type} ${type} pred -> pred`,
          product(list, list, [0n, 1n]),
          (a, b, c) => {
            const [x, y] = type === "s32" ? [signed(a!, 32), signed(b!, 32)] : [a!, b!];
            return bit(f(ordered[op]!(x < y ? -1 : x > y ? 1 : 0), c === 1n));
          },
        ),
      ),
    ),
    ...["lt", "gt", "equ", "neu", "geu", "leu", "eq", "ne", "num", "nan"].map((op) =>
      byFormula(`setp.${op}.${name}.f32`, "f32 f32 pred -> pred", product(one, one, [0n, 1n]), (a, b, c) =>
        bit(f(floating[op]!(compare(decode(formats.f32, a!), decode(formats.f32, b!))), c === 1n)),
      ),
    ),
    byFormula(`setp.lt.${name}.s32`, "s32 s32 pred -> pred pred", product(list, list, [0n, 1n]), (a, b, c) => {
      const t = signed(a!, 32) < signed(b!, 32);
      return [bit(f(t, c === 1n)), bit(f(!t, c === 1n))];
    }),
    byFormula(
      `setp.eq.${name}.u32 {d}, {a}, {b}, !{c};`,
      "u32 u32 pred -> pred",
      product(list, list, [0n, 1n]),
      (a, b, c) => bit(f(a === b, c === 0n)),
    ),
  ]);
}

export const compareForms: readonly Form[] = [
  ...integers(),
  ...floats(),
  ...combined(),
  byFormula("setp.eq.s32", "s32 s32 -> pred pred", product(edge32, edge32), (a, b) => (a === b ? [1n, 0n] : [0n, 1n])),
  byHand("setp.lt.s32 {d}, {a}, -3;", "s32 -> pred", "fffffffc -> 1\nfffffffd -> 0\n0 -> 0"),
  byHand("setp.gt.f32 {d}, {a}, 0f00000000;", "f32 -> pred", "80000000 -> 0\n00000001 -> 1\n7fc00000 -> 0"),
  byHand("set.lt.u32.s32", "s32 s32 -> u32", "ffffffff 0 -> ffffffff\n0 0 -> 0"),
  byHand("set.gt.f32.f32", "f32 f32 -> f32", "40000000 3f800000 -> 3f800000\n7fc00000 0 -> 0"),
];
