/** `cvt` between all types, after its section in the manual: extension, truncation, rounding, saturation. */
import { decode, encode, finite, flush, formats, isNoNumber, type Rounding, toInteger, type Value } from "./exact.ts";
import { type Bits, byFormula, byHand, type Form, product, signed, unsigned, widthOf } from "./form.ts";
import { bfloats, edge16, edge32, edge64, floats32, floats64, halves } from "./values.ts";

const integerTypes = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"];
const edges: Record<number, readonly Bits[]> = { 8: edge16, 16: edge16, 32: edge32, 64: edge64 };

/** The value that a type sees in a register: its low bits, interpreted with its sign. */
function read(type: string, bits: Bits): bigint {
  return type[0] === "s" ? signed(bits, widthOf(type)) : unsigned(bits, widthOf(type));
}

function range(type: string): [least: bigint, most: bigint] {
  const bits = BigInt(widthOf(type));
  return type[0] === "s" ? [-(2n ** (bits - 1n)), 2n ** (bits - 1n) - 1n] : [0n, 2n ** bits - 1n];
}

function clamp(type: string, value: bigint): bigint {
  const [least, most] = range(type);
  return value < least ? least : value > most ? most : value;
}

/** Truncated to the destination, then sign-extended to the register that holds it. */
function write(type: string, value: bigint): Bits {
  return read(type, unsigned(value, widthOf(type)));
}

function betweenIntegers(): Form[] {
  const forms: Form[] = [];
  for (const to of integerTypes) {
    for (const from of integerTypes) {
      const cases = product(edges[widthOf(from)]!);
      forms.push(byFormula(`cvt.${to}.${from}`, `${from} -> ${to}`, cases, (a) => write(to, read(from, a!))));
      // Saturation is allowed only where a value can be out of range.
      const [[low, high], [least, most]] = [range(from), range(to)];
      if (low < least || high > most)
        forms.push(
          byFormula(`cvt.sat.${to}.${from}`, `${from} -> ${to}`, cases, (a) => write(to, clamp(to, read(from, a!)))),
        );
    }
  }
  // A register wider than the type: narrow values are read from its low bits and extended to its full width.
  for (const [to, from] of [
    ["s8", "s32"],
    ["u8", "u32"],
    ["s16", "s32"],
    ["u16", "u32"],
    ["s8", "u32"],
  ] as const) {
    forms.push(
      byFormula(`cvt.${to}.${from}`, `${from} -> ${to}:b32`, product(edge32), (a) =>
        unsigned(write(to, read(from, a!)), 32),
      ),
    );
  }
  for (const [to, from] of [
    ["s32", "s8"],
    ["u32", "u8"],
    ["s32", "s16"],
    ["u32", "u16"],
    ["s64", "s8"],
    ["u64", "u8"],
  ] as const) {
    forms.push(
      byFormula(`cvt.${to}.${from}`, `${from}:b32 -> ${to}`, product(edge32), (a) =>
        unsigned(read(from, a!), widthOf(to)),
      ),
    );
  }
  return forms;
}

const integerRoundings: Record<string, Rounding> = { rni: "rn", rzi: "rz", rmi: "rm", rpi: "rp" };

function integerOf(value: Value): bigint {
  return value.kind === "finite" ? (value.negative ? -1n : 1n) * (value.magnitude << BigInt(value.exponent)) : 0n;
}

/** Out-of-range values give the nearer end; NaN gives zero, or 2^63 if both source and destination have 64 bits. */
function toIntegers(): Form[] {
  const ties = [
    0x3f000000n,
    0x3fc00000n,
    0x40200000n,
    0xbf000000n,
    0xbfc00000n,
    0x4effffffn,
    0x4f000000n,
    0xcf000000n,
    0x4f7fffffn,
    0x4f800000n,
    0x437f0000n,
    0x43800000n,
    0xc3000000n,
  ];
  const ties64 = [
    0x3fe0000000000000n,
    0x3ff8000000000000n,
    0x4004000000000000n,
    0xbff8000000000000n,
    0x43dfffffffffffffn,
    0x41efffffffe00000n,
  ];
  const forms: Form[] = [];
  for (const to of integerTypes.slice(2)) {
    for (const [name, mode] of Object.entries(integerRoundings)) {
      for (const from of ["f32", "f64"] as const) {
        const list = from === "f32" ? [...floats32, ...ties] : [...floats64, ...ties64];
        for (const ftz of from === "f32" && (name === "rni" || name === "rzi" || name === "rmi")
          ? [false, true]
          : [false]) {
          forms.push(
            byFormula(`cvt.${name}${ftz ? ".ftz" : ""}.${to}.${from}`, `${from} -> ${to}`, product(list), (a) => {
              const value = decode(formats[from], ftz ? flush(formats[from], a!) : a!);
              const [least, most] = range(to);
              // The manual says little about NaN for 64-bit types; hardware differs by source.
              if (value.kind === "nan") return widthOf(to) === 64 || from === "f64" ? null : 0n;
              if (value.kind === "infinite") return write(to, value.negative ? least : most);
              return write(to, clamp(to, integerOf(toInteger(value, mode))));
            }),
          );
        }
      }
    }
  }
  return forms;
}

function fromIntegers(): Form[] {
  const forms: Form[] = [];
  for (const from of integerTypes) {
    const list = [
      ...edges[widthOf(from)]!,
      ...(widthOf(from) >= 32 ? [0x1000001n, 0x1000003n, 0x7fffffbfn, 0x7fffffc0n] : []),
    ];
    for (const to of ["f32", "f64"] as const) {
      for (const mode of to === "f32" ? (["rn", "rz", "rm", "rp"] as const) : (["rn"] as const)) {
        forms.push(
          byFormula(`cvt.${mode}.${to}.${from}`, `${from} -> ${to}`, product(list), (a) => {
            const value = read(from, a!);
            return encode(formats[to], finite(value < 0n, value < 0n ? -value : value), mode);
          }),
        );
      }
    }
  }
  return forms;
}

const ties32 = [
  0x3f808000n,
  0x3f818000n,
  0x3f80ffffn,
  0x3f807fffn,
  0x7f7f8000n,
  0x7f7f7fffn,
  0xff7fffffn,
  0x8000n,
  0x18000n,
  0x477ff000n,
  0x477fefffn,
  0x33000000n,
  0x33000001n,
  0x38800000n,
  0x387fffffn,
  0x3f801000n,
  0x3f803000n,
];

function betweenFloats(): Form[] {
  const forms: Form[] = [];
  const narrow = (to: "f16" | "bf16", mode: Rounding, relu: boolean) => (bits: Bits) => {
    const result = encode(formats[to], decode(formats.f32, bits), mode);
    return relu && !isNoNumber(formats[to], result) && result >> 15n === 1n ? 0n : result;
  };
  for (const to of ["bf16", "f16"] as const) {
    for (const mode of ["rn", "rz"] as const) {
      const list = [...floats32, ...ties32];
      for (const relu of to === "bf16" ? [false, true] : [false]) {
        const name = `cvt.${mode}${relu ? ".relu" : ""}`;
        if (to === "bf16" || mode === "rn" || mode === "rz")
          forms.push(byFormula(`${name}.${to}.f32`, `f32 -> ${to}`, product(list), (a) => narrow(to, mode, relu)(a!)));
        // The first source goes to the upper half.
        const pairs = list.map((x, i) => [x, list[(i * 7 + 3) % list.length]!]);
        forms.push(
          byFormula(
            `${name}.${to}x2.f32`,
            `f32 f32 -> ${to}x2`,
            pairs,
            (a, b) => (narrow(to, mode, relu)(a!) << 16n) | narrow(to, mode, relu)(b!),
          ),
        );
      }
    }
  }
  const widen = (to: "f32" | "f64", from: "bf16" | "f16" | "f32") => (a: Bits) =>
    encode(formats[to], decode(formats[from], a));
  forms.push(
    byFormula("cvt.f32.bf16", "bf16 -> f32", product(bfloats), (a) => widen("f32", "bf16")(a!)),
    byFormula("cvt.f32.f16", "f16 -> f32", product(halves), (a) => widen("f32", "f16")(a!)),
    byFormula("cvt.f64.f32", "f32 -> f64", product(floats32), (a) => widen("f64", "f32")(a!)),
    byFormula("cvt.ftz.f64.f32", "f32 -> f64", product(floats32), (a) => widen("f64", "f32")(flush(formats.f32, a!))),
  );
  for (const mode of ["rn", "rz", "rm", "rp"] as const) {
    const narrower = (a: Bits) => encode(formats.f32, decode(formats.f64, a), mode);
    forms.push(byFormula(`cvt.${mode}.f32.f64`, "f64 -> f32", product(floats64), (a) => narrower(a!)));
    if (mode === "rn")
      forms.push(
        byFormula("cvt.rn.ftz.f32.f64", "f64 -> f32", product(floats64), (a) => flush(formats.f32, narrower(a!))),
      );
  }
  // To an integer in the same type, and saturation to [0, 1].
  const halvesOf32 = [
    0x3f000000n,
    0x3fc00000n,
    0x40200000n,
    0xbf000000n,
    0xbfc00000n,
    0xbf000001n,
    0x4b000001n,
    0x4affffffn,
  ];
  for (const [name, mode] of Object.entries(integerRoundings)) {
    forms.push(
      byFormula(`cvt.${name}.f32.f32`, "f32 -> f32", product([...floats32, ...halvesOf32]), (a) =>
        encode(formats.f32, toInteger(decode(formats.f32, a!), mode)),
      ),
      byFormula(`cvt.${name}.ftz.f32.f32`, "f32 -> f32", product([...floats32, ...halvesOf32]), (a) =>
        encode(formats.f32, toInteger(decode(formats.f32, flush(formats.f32, a!)), mode)),
      ),
      byFormula(`cvt.${name}.f64.f64`, "f64 -> f64", product(floats64), (a) =>
        encode(formats.f64, toInteger(decode(formats.f64, a!), mode)),
      ),
    );
  }
  forms.push(
    byFormula("cvt.sat.f32.f32", "f32 -> f32", product(floats32), (a) => {
      if (isNoNumber(formats.f32, a!) || a! >> 31n === 1n) return 0n;
      return a! > 0x3f800000n ? 0x3f800000n : a!;
    }),
  );
  return forms;
}

export const convertForms: readonly Form[] = [
  ...betweenIntegers(),
  ...toIntegers(),
  ...fromIntegers(),
  ...betweenFloats(),
  byHand("cvt.rn.bf16x2.f32", "f32 f32 -> bf16x2", "3f800000 40000000 -> 3f804000\n3f808000 3f818000 -> 3f803f82"),
  byHand(
    "cvt.rni.s32.f32",
    "f32 -> s32",
    "3f000000 -> 0\n3fc00000 -> 2\n40200000 -> 2\n4f000000 -> 7fffffff\ncf800000 -> 80000000\n7fc00000 -> 0",
  ),
  byHand("cvt.rzi.u32.f32", "f32 -> u32", "bf800000 -> 0\n4f800000 -> ffffffff\n40490fdb -> 3"),
];
