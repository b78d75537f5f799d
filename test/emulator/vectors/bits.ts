/** Logic, shifts, fields and bytes, following sections "Logic and Shift Instructions" and "Data Movement" (prmt). */
import { type Bits, byFormula, byHand, type Form, mask, product, signed, unsigned } from "./form.ts";
import { counts, edge16, edge32, edge64, few32, few64 } from "./values.ts";

const edges: Record<number, readonly Bits[]> = { 16: edge16, 32: edge32, 64: edge64 };
const widths = [16, 32, 64];

function logic(): Form[] {
  const operations = {
    and: (a: Bits, b: Bits) => a & b,
    or: (a: Bits, b: Bits) => a | b,
    xor: (a: Bits, b: Bits) => a ^ b,
  };
  return Object.entries(operations).flatMap(([op, reference]) => [
    ...widths.map((bits) =>
      byFormula(`${op}.b${bits}`, `b${bits} b${bits} -> b${bits}`, product(edges[bits]!, edges[bits]!), (a, b) =>
        reference(a!, b!),
      ),
    ),
    byFormula(`${op}.pred`, "pred pred -> pred", product([0n, 1n], [0n, 1n]), (a, b) => reference(a!, b!)),
  ]);
}

function complements(): Form[] {
  return [
    ...widths.map((bits) => byFormula(`not.b${bits}`, `b${bits} -> b${bits}`, product(edges[bits]!), (a) => ~a!)),
    byFormula("not.pred", "pred -> pred", product([0n, 1n]), (a) => a! ^ 1n),
    ...widths.map((bits) =>
      byFormula(`cnot.b${bits}`, `b${bits} -> b${bits}`, product(edges[bits]!), (a) => (a === 0n ? 1n : 0n)),
    ),
  ];
}

/** Counts are unsigned 32-bit and clamp at the width: everything is shifted out, or only the sign remains. */
function shifts(): Form[] {
  return widths.flatMap((bits) => {
    const cases = product(edges[bits]!, counts);
    const clamp = (n: Bits) => (n > BigInt(bits) ? BigInt(bits) : n);
    return [
      byFormula(`shl.b${bits}`, `b${bits} u32 -> b${bits}`, cases, (a, n) => unsigned(a! << clamp(n!), bits)),
      ...["b", "u"].map((letter) =>
        byFormula(`shr.${letter}${bits}`, `${letter}${bits} u32 -> ${letter}${bits}`, cases, (a, n) => a! >> clamp(n!)),
      ),
      byFormula(`shr.s${bits}`, `s${bits} u32 -> s${bits}`, cases, (a, n) =>
        unsigned(signed(a!, bits) >> clamp(n!), bits),
      ),
    ];
  });
}

/** {b, a} shifted as 64 bits: the upper word after a left shift, the lower after a right one. */
function funnels(): Form[] {
  const cases = product(few32, few32, counts);
  return (["clamp", "wrap"] as const).flatMap((mode) => {
    const count = (c: Bits) => (mode === "wrap" ? c & 31n : c > 32n ? 32n : c);
    return [
      byFormula(`shf.l.${mode}.b32`, "b32 b32 u32 -> b32", cases, (a, b, c) =>
        unsigned((((b! << 32n) | a!) << count(c!)) >> 32n, 32),
      ),
      byFormula(`shf.r.${mode}.b32`, "b32 b32 u32 -> b32", cases, (a, b, c) =>
        unsigned(((b! << 32n) | a!) >> count(c!), 32),
      ),
    ];
  });
}

/** Only the low 8 bits of position and length count. */
function fields(): Form[] {
  const positions = [0n, 1n, 7n, 31n, 32n, 63n, 64n, 255n, 256n, 259n];
  const lengths = [0n, 1n, 5n, 31n, 32n, 33n, 63n, 64n, 255n, 256n, 260n];
  const bit = (a: Bits, i: number) => (a >> BigInt(i)) & 1n;
  const forms: Form[] = [];
  for (const bits of [32, 64]) {
    const msb = bits - 1;
    for (const letter of ["u", "s"]) {
      const values = [0n, 1n, 0x9abcdef0n, 0x5a5a5a5an, mask(bits), 1n << BigInt(msb)];
      forms.push(
        byFormula(
          `bfe.${letter}${bits}`,
          `${letter}${bits} u32 u32 -> ${letter}${bits}`,
          product(values, positions, lengths),
          (a, b, c) => {
            const [pos, len] = [Number(b! & 0xffn), Number(c! & 0xffn)];
            const sign = letter === "u" || len === 0 ? 0n : bit(a!, Math.min(pos + len - 1, msb));
            let d = 0n;
            for (let i = 0; i <= msb; i++) d |= (i < len && pos + i <= msb ? bit(a!, pos + i) : sign) << BigInt(i);
            return d;
          },
        ),
      );
    }
    const values = [0n, 0x9abcdef0n, mask(bits)];
    forms.push(
      byFormula(
        `bfi.b${bits}`,
        `b${bits} b${bits} u32 u32 -> b${bits}`,
        product(values, values, positions, lengths),
        (a, b, c, e) => {
          const [pos, len] = [Number(c! & 0xffn), Number(e! & 0xffn)];
          let f = b!;
          for (let i = 0; i < len && pos + i <= msb; i++) {
            const place = 1n << BigInt(pos + i);
            f = bit(a!, i) === 1n ? f | place : f & ~place;
          }
          return f;
        },
      ),
    );
  }
  // clamp: a start or length past 32 gives everything that is left; wrap: both are taken modulo 32.
  for (const mode of ["clamp", "wrap"]) {
    forms.push(
      byFormula(`bmsk.${mode}.b32`, "u32 u32 -> b32", product(positions, lengths), (a, b) => {
        const [pos, len] = mode === "wrap" ? [a! & 31n, b! & 31n] : [a!, b!];
        const [start, count] = [pos > 32n ? 32n : pos, len > 32n ? 32n : len];
        return unsigned(mask(Number(count)) << start, 32);
      }),
    );
  }
  return forms;
}

/** All 256 tables at once: the bit at 4a + 2b + c of the immediate is the result. */
function lookups(): Form[] {
  const tables = Array.from({ length: 256 }, (_, table) => table);
  const apply = (a: Bits, b: Bits, c: Bits, table: number) => {
    let d = 0n;
    for (let i = 0n; i < 32n; i++) {
      const index = ((a >> i) & 1n) * 4n + ((b >> i) & 1n) * 2n + ((c >> i) & 1n);
      d |= ((BigInt(table) >> index) & 1n) << i;
    }
    return d;
  };
  // ta, tb, tc are the manual's three constants, for which the low byte of the result is the table itself.
  const cases = [
    [0xf0n, 0xccn, 0xaan],
    [0x12345678n, 0x9abcdef0n, 0x0f1e2d3cn],
  ];
  const chunks = [0, 64, 128, 192].map((from) => tables.slice(from, from + 64));
  return [
    ...chunks.map((chunk) =>
      byFormula(
        chunk.map((table, i) => `lop3.b32 {d${i}}, {a}, {b}, {c}, ${table};`).join("\n"),
        `b32 b32 b32 -> ${chunk.map(() => "b32").join(" ")}`,
        cases,
        (a, b, c) => chunk.map((table) => apply(a!, b!, c!, table)),
      ),
    ),
    byHand("lop3.b32 {d}, {a}, {b}, {c}, 0x1A;", "b32 b32 b32 -> b32", "000000f0 000000cc 000000aa -> 0000001a"),
    byHand("lop3.b32 {d}, {a}, {b}, {c}, 0x80;", "b32 b32 b32 -> b32", "ff00ff00 f0f0f0f0 cccccccc -> c000c000"),
  ];
}

/** Four 4-bit selectors into 8 bytes; a selector's upper bit selects the byte's sign. */
function bytes(): Form[] {
  const sources = [
    [0x33221100n, 0x77665544n],
    [0x83828180n, 0x07860584n],
  ];
  const controls = [
    0x3210n,
    0x7654n,
    0x0123n,
    0x5410n,
    0x7632n,
    0x8888n,
    0xba98n,
    0xfedcn,
    0xc480n,
    0x1f0en,
    0x43215410n,
  ];
  const byte = (a: Bits, b: Bits, i: bigint) => (((b << 32n) | a) >> (8n * i)) & 0xffn;
  const generic = (a: Bits, b: Bits, c: Bits) => {
    let d = 0n;
    for (let i = 0n; i < 4n; i++) {
      const select = (c >> (4n * i)) & 0xfn;
      const value = byte(a, b, select & 7n);
      d |= (select & 8n ? (value & 0x80n ? 0xffn : 0n) : value) << (8n * i);
    }
    return d;
  };
  /** Modes use two bits of c to name the four bytes, lowest first, for c = 0..3. */
  const modes: Record<string, readonly string[]> = {
    f4e: ["0123", "1234", "2345", "3456"],
    b4e: ["0765", "1076", "2107", "3210"],
    rc8: ["0000", "1111", "2222", "3333"],
    ecl: ["0123", "1123", "2223", "3333"],
    ecr: ["0000", "0111", "0122", "0123"],
    rc16: ["0101", "2323", "0101", "2323"],
  };
  const cases = sources.flatMap(([a, b]) => controls.map((c) => [a!, b!, c]));
  return [
    byFormula("prmt.b32", "b32 b32 b32 -> b32", cases, (a, b, c) => generic(a!, b!, c!)),
    ...[0x5410, 0x7632, 0x3340, 0x7770, 0xbb98].map((control) =>
      byFormula(`prmt.b32 {d}, {a}, {b}, ${control};`, "b32 b32 -> b32", sources, (a, b) =>
        generic(a!, b!, BigInt(control)),
      ),
    ),
    ...Object.entries(modes).map(([mode, table]) =>
      byFormula(`prmt.b32.${mode}`, "b32 b32 b32 -> b32", cases, (a, b, c) =>
        [...table[Number(c! & 3n)]!].reduce((d, digit, i) => d | (byte(a!, b!, BigInt(digit)) << BigInt(8 * i)), 0n),
      ),
    ),
  ];
}

/** Moves between registers of equal width, and packing halves. */
function moves(): Form[] {
  const types = ["b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"];
  return [
    ...types.map((type) => {
      const bits = Number(type.slice(1));
      return byFormula(`mov.${type}`, `${type} -> ${type}`, product(edges[bits]!), (a) => a!);
    }),
    byFormula("mov.pred", "pred -> pred", product([0n, 1n]), (a) => a!),
    byFormula("mov.b32 {d}, {{a}, {b}};", "b16 b16 -> b32", product(edge16, edge16), (a, b) => a! | (b! << 16n)),
    byFormula("mov.b64 {d}, {{a}, {b}};", "b32 b32 -> b64", product(few32, few32), (a, b) => a! | (b! << 32n)),
    byFormula(
      "mov.b64 {d}, {{a}, {b}, {c}, {e}};",
      "b16 b16 b16 b16 -> b64",
      [edge16.slice(5, 9)],
      (a, b, c, e) => a! | (b! << 16n) | (c! << 32n) | (e! << 48n),
    ),
    byFormula("mov.b32 {{d0}, {d1}}, {a};", "b32 -> b16 b16", product(edge32), (a) => [a! & 0xffffn, a! >> 16n]),
    byFormula("mov.b64 {{d0}, {d1}}, {a};", "b64 -> b32 b32", product(edge64), (a) => [a! & mask(32), a! >> 32n]),
    byFormula("mov.b64 {{d0}, {d1}}, {a};", "f64 -> b32 b32", product(few64), (a) => [a! & mask(32), a! >> 32n]),
    byHand("mov.b32 {d}, -2;", " -> b32", " -> fffffffe"),
    byHand("mov.f32 {d}, 0fBF800000;", " -> f32", " -> bf800000"),
    byHand("mov.f64 {d}, 0d3FF0000000000001;", " -> f64", " -> 3ff0000000000001"),
    byHand("mov.u32 {d}, 0x80000000;", " -> u32", " -> 80000000"),
    byHand("mov.u64 {d}, -1;", " -> u64", " -> ffffffffffffffff"),
    ...["b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"].map((type) => {
      const list = edges[Number(type.slice(1))]!.slice(0, 6);
      return byFormula(`selp.${type}`, `${type} ${type} pred -> ${type}`, product(list, list, [0n, 1n]), (a, b, c) =>
        c === 1n ? a! : b!,
      );
    }),
    // By the sign of c: a if it is not negative. −0 counts as zero.
    byFormula("slct.b32.s32", "b32 b32 s32 -> b32", product(few32.slice(0, 3), few32.slice(2), few32), (a, b, c) =>
      signed(c!, 32) >= 0n ? a! : b!,
    ),
  ];
}

export const bitForms: readonly Form[] = [
  ...logic(),
  ...complements(),
  ...shifts(),
  ...funnels(),
  ...fields(),
  ...lookups(),
  ...bytes(),
  ...moves(),
];
