/** Integer arithmetic, following sections "Integer Arithmetic" and "Extended-Precision Integer Arithmetic" of the PTX manual. */
import { type Bits, byFormula, byHand, type Form, mask, maximum, minimum, product, signed, unsigned } from "./form.ts";
import { edge16, edge32, edge64, few32, few64 } from "./values.ts";

const edges: Record<number, readonly Bits[]> = { 16: edge16, 32: edge32, 64: edge64 };
const few: Record<number, readonly Bits[]> = {
  16: edge16.slice(0, 12).filter((_, i) => i % 2 === 1),
  32: few32,
  64: few64,
};

type Binary = (a: bigint, b: bigint, bits: number) => bigint;

/** The value of a bit pattern in an integer type. */
function typed(type: string, bits: Bits, width: number): bigint {
  return type[0] === "s" ? signed(bits, width) : bits;
}

/** `op.type d, a, b` for each type: operands by value, the result truncated to the width. */
function binary(op: string, types: string, reference: Binary): Form[] {
  return types.split(" ").map((type) => {
    const width = Number(type.slice(1));
    const value = (bits: Bits) => typed(type, bits, width);
    return byFormula(`${op}.${type}`, `${type} ${type} -> ${type}`, product(edges[width]!, edges[width]!), (a, b) =>
      unsigned(reference(value(a!), value(b!), width), width),
    );
  });
}

function unary(op: string, types: string, reference: (a: bigint, bits: number) => bigint, result?: string): Form[] {
  return types.split(" ").map((type) => {
    const width = Number(type.slice(1));
    const cases = product(edges[width]!);
    return byFormula(`${op}.${type}`, `${type} -> ${result ?? type}`, cases, (a) =>
      unsigned(reference(typed(type, a!, width), width), result === undefined ? width : 32),
    );
  });
}

/** Half of a product, twice as wide as its operands. */
const high: Binary = (a, b, bits) => (a * b) >> BigInt(bits);

/** The lower, upper or whole product, then the sum; with `wide`, operands have half the result's width. */
function multiplyAdd(): Form[] {
  const forms: Form[] = [];
  for (const type of ["s16", "u16", "s32", "u32", "s64", "u64"]) {
    const width = Number(type.slice(1));
    const list = few[width]!;
    const value = (bits: Bits) => typed(type, bits, width);
    const cases = product(list, list, list);
    forms.push(
      byFormula(`mad.lo.${type}`, `${type} ${type} ${type} -> ${type}`, cases, (a, b, c) =>
        unsigned(value(a!) * value(b!) + value(c!), width),
      ),
      byFormula(`mad.hi.${type}`, `${type} ${type} ${type} -> ${type}`, cases, (a, b, c) =>
        unsigned(high(value(a!), value(b!), width) + value(c!), width),
      ),
    );
    if (width === 64) continue;
    const wide = `${type[0]}${width * 2}`;
    const addends = few[width * 2]!;
    forms.push(
      byFormula(`mul.wide.${type}`, `${type} ${type} -> ${wide}`, product(edges[width]!, edges[width]!), (a, b) =>
        unsigned(value(a!) * value(b!), width * 2),
      ),
      byFormula(`mad.wide.${type}`, `${type} ${type} ${wide} -> ${wide}`, product(list, list, addends), (a, b, c) =>
        unsigned(value(a!) * value(b!) + typed(wide, c!, width * 2), width * 2),
      ),
    );
  }
  return forms;
}

/** 24-bit operands: the lower 24 bits, sign-extended; `hi` gives bits 47..16 of the product. */
function multiply24(): Form[] {
  const values = edge32.concat([0x7fffffn, 0x800000n, 0xffffffn, 0x1000000n, 0x7f800001n]);
  return ["s32", "u32"].flatMap((type) => {
    const value = (bits: Bits) => (type === "s32" ? signed(bits, 24) : bits & mask(24));
    return (["lo", "hi"] as const).flatMap((part) => {
      const times = (a: Bits, b: Bits) => (value(a) * value(b)) >> (part === "hi" ? 16n : 0n);
      return [
        byFormula(`mul24.${part}.${type}`, `${type} ${type} -> ${type}`, product(values, values), (a, b) =>
          unsigned(times(a!, b!), 32),
        ),
        byFormula(
          `mad24.${part}.${type}`,
          `${type} ${type} ${type} -> ${type}`,
          product(few32, values, few32),
          (a, b, c) => unsigned(times(a!, b!) + signed(c!, 32), 32),
        ),
      ];
    });
  });
}

/** Quotients round toward zero; the remainder has the dividend's sign. The manual leaves division by zero open. */
function quotients(): Form[] {
  return ["s16", "u16", "s32", "u32", "s64", "u64"].flatMap((type) => {
    const width = Number(type.slice(1));
    const value = (bits: Bits) => typed(type, bits, width);
    const cases = product(edges[width]!, edges[width]!);
    const overflow = (a: Bits, b: Bits) => type[0] === "s" && a === 1n << BigInt(width - 1) && b === mask(width);
    return (["div", "rem"] as const).map((op) =>
      byFormula(`${op}.${type}`, `${type} ${type} -> ${type}`, cases, (a, b) => {
        if (b === 0n || overflow(a!, b!)) return null;
        return unsigned(op === "div" ? value(a!) / value(b!) : value(a!) % value(b!), width);
      }),
    );
  });
}

/** Carries: several instructions share the flag, so they are tested together. */
function carries(): Form[] {
  const wide = (a0: Bits, a1: Bits) => a0 | (a1 << 32n);
  const cases = product(few32, few32, few32, few32);
  const split = (x: bigint) => [unsigned(x, 32), unsigned(x >> 32n, 32)];
  return [
    byFormula(
      "add.cc.u32 {d0}, {a}, {c};\naddc.u32 {d1}, {b}, {e};",
      "u32 u32 u32 u32 -> u32 u32",
      cases,
      (a, b, c, e) => split(wide(a!, b!) + wide(c!, e!)),
    ),
    byFormula(
      "sub.cc.u32 {d0}, {a}, {c};\nsubc.u32 {d1}, {b}, {e};",
      "u32 u32 u32 u32 -> u32 u32",
      cases,
      (a, b, c, e) => split(wide(a!, b!) - wide(c!, e!)),
    ),
    byFormula(
      "mad.lo.cc.u32 {d0}, {a}, {b}, {c};\nmadc.hi.u32 {d1}, {a}, {b}, {e};",
      "u32 u32 u32 u32 -> u32 u32",
      cases,
      (a, b, c, e) => split(a! * b! + wide(c!, e!)),
    ),
    byFormula(
      "add.cc.u32 {d0}, {a}, {c};\naddc.cc.u32 {d1}, {b}, {e};\naddc.u32 {d2}, 0, 0;",
      "u32 u32 u32 u32 -> u32 u32 u32",
      cases,
      (a, b, c, e) => {
        const sum = wide(a!, b!) + wide(c!, e!);
        return [...split(sum), sum >> 64n];
      },
    ),
  ];
}

/** Sums of four byte products. */
function dotProducts(): Form[] {
  const list = [0n, 0x01020304n, 0x7f80ff01n, 0x80808080n, 0xffffffffn, 0x7f7f7f7fn, 0x12fe34dcn];
  const byte = (x: Bits, i: number, s: boolean) => {
    const b = (x >> BigInt(8 * i)) & 0xffn;
    return s ? signed(b, 8) : b;
  };
  return ["s32", "u32"].flatMap((first) =>
    ["s32", "u32"].map((second) => {
      const sum = first === "s32" || second === "s32" ? "s32" : "u32";
      return byFormula(`dp4a.${first}.${second}`, `b32 b32 ${sum} -> ${sum}`, product(list, list, few32), (a, b, c) => {
        let total = c!;
        for (let i = 0; i < 4; i++) total += byte(a!, i, first === "s32") * byte(b!, i, second === "s32");
        return unsigned(total, 32);
      });
    }),
  );
}

const bitLength = (a: bigint) => BigInt(a === 0n ? 0 : a.toString(2).length);
const population = (a: bigint) => BigInt(a.toString(2).replaceAll("0", "").length);

export const integerForms: readonly Form[] = [
  ...binary("add", "s16 u16 s32 u32 s64 u64", (a, b) => a + b),
  ...binary("add.sat", "s32", (a, b) => maximum(-(2n ** 31n), minimum(2n ** 31n - 1n, a + b))),
  ...binary("sub", "s16 u16 s32 u32 s64 u64", (a, b) => a - b),
  ...binary("sub.sat", "s32", (a, b) => maximum(-(2n ** 31n), minimum(2n ** 31n - 1n, a - b))),
  ...binary("mul.lo", "s16 u16 s32 u32 s64 u64", (a, b) => a * b),
  ...binary("mul.hi", "s16 u16 s32 u32 s64 u64", high),
  ...binary("min", "s16 u16 s32 u32 s64 u64", minimum),
  ...binary("max", "s16 u16 s32 u32 s64 u64", maximum),
  ...unary("abs", "s16 s32 s64", (a) => (a < 0n ? -a : a)),
  ...unary("neg", "s16 s32 s64", (a) => -a),
  ...unary("popc", "b32 b64", population, "u32"),
  ...unary("clz", "b32 b64", (a, bits) => BigInt(bits) - bitLength(a), "u32"),
  ...unary("brev", "b32 b64", (a, bits) => BigInt(`0b${[...a.toString(2).padStart(bits, "0")].reverse().join("")}`)),
  // The highest bit that differs from the sign, all ones if there is none; `shiftamt` counts from the top.
  ...unary("bfind", "u32 u64", (a) => bitLength(a) - 1n, "u32"),
  ...unary("bfind", "s32 s64", (a) => bitLength(a < 0n ? ~a : a) - 1n, "u32"),
  ...unary("bfind.shiftamt", "u32 u64", (a, bits) => (a === 0n ? -1n : BigInt(bits) - bitLength(a)), "u32"),
  ...["s32", "u32"].map((type) =>
    byFormula(`sad.${type}`, `${type} ${type} ${type} -> ${type}`, product(few32, few32, few32), (a, b, c) => {
      const [x, y] = [typed(type, a!, 32), typed(type, b!, 32)];
      return unsigned(c! + (x < y ? y - x : x - y), 32);
    }),
  ),
  ...multiplyAdd(),
  ...multiply24(),
  ...quotients(),
  ...carries(),
  ...dotProducts(),
  byHand("add.s32 {d}, {a}, -5;", "s32 -> s32", "00000003 -> fffffffe\n80000000 -> 7ffffffb"),
  byHand("add.s64 {d}, {a}, -5;", "s64 -> s64", "3 -> fffffffffffffffe\n0 -> fffffffffffffffb"),
  byHand("mul.lo.s32 {d}, {a}, -1000000;", "s32 -> s32", "2 -> ffe17b80\nffffffff -> f4240"),
  byHand("mul.wide.s32 {d}, {a}, -8;", "s32 -> s64", "1 -> fffffffffffffff8\nffffffff -> 8\n80000000 -> 400000000"),
  byHand("add.u32 {d}, {a}, 4294967295;", "u32 -> u32", "0 -> ffffffff\n1 -> 0"),
];
