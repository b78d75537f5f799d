/** Floating-point arithmetic, following section "Floating Point Instructions": exact, then rounded once. */
import {
  add,
  canonicalNaN,
  compare,
  decode,
  divide,
  encode,
  type Format,
  flush,
  formats,
  isNoNumber,
  multiply,
  negate,
  type Rounding,
  squareRoot,
  type Value,
} from "./exact.ts";
import { type Bits, byFormula, byHand, type Form, product } from "./form.ts";
import { bfloats, fewFloats32, fewFloats64, floats32, floats64, halves, packed } from "./values.ts";

const one = encode(formats.f32, { kind: "finite", negative: false, magnitude: 1n, exponent: 0 });

/** Bit patterns of non-negative numbers compare as the numbers do. */
function saturate(bits: Bits): Bits {
  return bits < one ? bits : one;
}

/** The effect of a modifier on inputs and results: `.ftz` on both, `.sat` clamps to [0, 1] with NaN as +0. */
function wrap(format: Format, modifiers: string, compute: (mode: Rounding, ...inputs: Value[]) => Value) {
  const has = (name: string) => modifiers.split(".").includes(name);
  const mode = (["rz", "rm", "rp"] as const).find(has) ?? "rn";
  return (...inputs: Bits[]): Bits => {
    const values = inputs.map((bits) => decode(format, has("ftz") ? flush(format, bits) : bits));
    let result = encode(format, compute(mode, ...values), mode);
    if (has("ftz")) result = flush(format, result);
    if (!has("sat")) return result;
    if (isNoNumber(format, result) || result >> BigInt(format.bits - 1) === 1n) return 0n;
    return saturate(result);
  };
}

interface Operation {
  readonly op: string;
  readonly arity: number;
  readonly compute: (mode: Rounding, ...inputs: Value[]) => Value;
}

const operations: readonly Operation[] = [
  { op: "add", arity: 2, compute: (mode, a, b) => add(a!, b!, mode) },
  { op: "sub", arity: 2, compute: (mode, a, b) => add(a!, negate(b!), mode) },
  { op: "mul", arity: 2, compute: (_, a, b) => multiply(a!, b!) },
  { op: "fma", arity: 3, compute: (mode, a, b, c) => add(multiply(a!, b!), c!, mode) },
  { op: "mad", arity: 3, compute: (mode, a, b, c) => add(multiply(a!, b!), c!, mode) },
];

function arithmetic(): Form[] {
  const variants: Record<string, readonly string[]> = {
    add: [
      ".f32",
      ".rn.f32",
      ".rz.f32",
      ".rm.f32",
      ".rp.f32",
      ".ftz.f32",
      ".rn.ftz.f32",
      ".sat.f32",
      ".ftz.sat.f32",
      ".f64",
      ".rn.f64",
      ".rz.f64",
    ],
    sub: [".f32", ".rn.f32", ".rz.f32", ".ftz.f32", ".rn.ftz.f32", ".f64", ".rn.f64"],
    mul: [
      ".f32",
      ".rn.f32",
      ".rz.f32",
      ".rm.f32",
      ".rp.f32",
      ".ftz.f32",
      ".rn.ftz.f32",
      ".rz.ftz.f32",
      ".sat.f32",
      ".f64",
      ".rn.f64",
    ],
    fma: [
      ".rn.f32",
      ".rz.f32",
      ".rm.f32",
      ".rp.f32",
      ".rn.ftz.f32",
      ".rz.ftz.f32",
      ".rm.ftz.f32",
      ".rn.sat.f32",
      ".rn.ftz.sat.f32",
      ".rn.f64",
      ".rz.f64",
    ],
    mad: [".rn.f32", ".rn.ftz.f32", ".rn.f64"],
  };
  return operations.flatMap(({ op, arity, compute }) =>
    variants[op]!.map((modifiers) => {
      const type = modifiers.endsWith("f64") ? "f64" : "f32";
      const format = formats[type];
      const list = type === "f64" ? (arity === 3 ? fewFloats64 : floats64) : arity === 3 ? fewFloats32 : floats32;
      const signature = `${Array(arity).fill(type).join(" ")} -> ${type}`;
      const reference = wrap(format, modifiers, compute);
      return byFormula(`${op}${modifiers}`, signature, product(...Array(arity).fill(list)), reference);
    }),
  );
}

function exactQuotients(): Form[] {
  const quotient = (_: Rounding, a: Value, b: Value) => divide(a, b);
  const root = (_: Rounding, a: Value) => squareRoot(a);
  const reciprocal = (_: Rounding, a: Value) => divide(decode(formats.f32, one), a);
  return [
    ...[".rn.f32", ".rz.f32", ".rn.ftz.f32"].flatMap((m) => [
      byFormula(`div${m}`, "f32 f32 -> f32", product(floats32, floats32), wrap(formats.f32, m, quotient)),
      byFormula(`rcp${m}`, "f32 -> f32", product(floats32), wrap(formats.f32, m, reciprocal)),
      byFormula(`sqrt${m}`, "f32 -> f32", product(floats32), wrap(formats.f32, m, root)),
    ]),
    byFormula("div.rn.f64", "f64 f64 -> f64", product(floats64, floats64), wrap(formats.f64, "", quotient)),
    byFormula("rcp.rn.f64", "f64 -> f64", product(floats64), wrap(formats.f64, "", reciprocal)),
    byFormula("sqrt.rn.f64", "f64 -> f64", product(floats64), wrap(formats.f64, "", root)),
  ];
}

/** The other operand if one is NaN; −0 is less than +0; with `.NaN`, NaN wins. */
function smaller(format: Format, a: Bits, b: Bits, sign: 1 | -1, propagate: boolean): Bits {
  const [noA, noB] = [isNoNumber(format, a), isNoNumber(format, b)];
  if ((noA && noB) || (propagate && (noA || noB))) return canonicalNaN(format);
  if (noA) return b;
  if (noB) return a;
  const order = compare(decode(format, a), decode(format, b))! * sign;
  if (order !== 0) return order < 0 ? a : b;
  const negative = (x: Bits) => x >> BigInt(format.bits - 1) === 1n;
  return negative(a) === (sign === 1) ? a : b;
}

function extremes(): Form[] {
  const forms: Form[] = [];
  for (const [op, sign] of [
    ["min", 1],
    ["max", -1],
  ] as const) {
    for (const modifiers of [".f32", ".ftz.f32", ".NaN.f32", ".ftz.NaN.f32", ".f64"]) {
      const type = modifiers.endsWith("f64") ? "f64" : "f32";
      const format = formats[type];
      const list = type === "f64" ? floats64 : floats32;
      const prepare = (x: Bits) => (modifiers.includes("ftz") ? flush(format, x) : x);
      forms.push(
        byFormula(`${op}${modifiers}`, `${type} ${type} -> ${type}`, product(list, list), (a, b) =>
          smaller(format, prepare(a!), prepare(b!), sign, modifiers.includes("NaN")),
        ),
      );
    }
    for (const [type, list] of [
      ["bf16", bfloats],
      ["f16", halves],
    ] as const) {
      const format = formats[type];
      const pairs = packed(list);
      forms.push(
        byFormula(`${op}.${type}`, `${type} ${type} -> ${type}`, product(list, list), (a, b) =>
          smaller(format, a!, b!, sign, false),
        ),
        byFormula(`${op}.NaN.${type}`, `${type} ${type} -> ${type}`, product(list, list), (a, b) =>
          smaller(format, a!, b!, sign, true),
        ),
        byFormula(`${op}.${type}x2`, `${type}x2 ${type}x2 -> ${type}x2`, product(pairs, pairs), (a, b) =>
          halfwise((x, y) => smaller(format, x!, y!, sign, false), a!, b!),
        ),
      );
    }
  }
  return forms;
}

/** Applies to the lower and upper halves separately. */
function halfwise(reference: (...inputs: Bits[]) => Bits, ...inputs: Bits[]): Bits {
  const low = reference(...inputs.map((x) => x & 0xffffn));
  const high = reference(...inputs.map((x) => x >> 16n));
  return low | (high << 16n);
}

function signs(): Form[] {
  const forms: Form[] = [];
  for (const [modifiers, type, list] of [
    [".f32", "f32", floats32],
    [".ftz.f32", "f32", floats32],
    [".f64", "f64", floats64],
    [".bf16", "bf16", bfloats],
    [".f16", "f16", halves],
  ] as const) {
    const format = formats[type];
    const sign = 1n << BigInt(format.bits - 1);
    const prepare = (x: Bits) => (modifiers.includes("ftz") ? flush(format, x) : x);
    forms.push(
      byFormula(`abs${modifiers}`, `${type} -> ${type}`, product(list), (a) => prepare(a!) & ~sign),
      byFormula(`neg${modifiers}`, `${type} -> ${type}`, product(list), (a) => prepare(a!) ^ sign),
    );
    if (format.bits !== 16) continue;
    const pairs = packed(list);
    forms.push(
      byFormula(`abs${modifiers}x2`, `${type}x2 -> ${type}x2`, product(pairs), (a) => halfwise((x) => x! & ~sign, a!)),
      byFormula(`neg${modifiers}x2`, `${type}x2 -> ${type}x2`, product(pairs), (a) => halfwise((x) => x! ^ sign, a!)),
    );
  }
  for (const [type, list] of [
    ["f32", floats32],
    ["f64", floats64],
  ] as const) {
    const sign = 1n << BigInt(formats[type].bits - 1);
    forms.push(
      byFormula(
        `copysign.${type}`,
        `${type} ${type} -> ${type}`,
        product(list, list),
        (a, b) => (a! & sign) | (b! & ~sign),
      ),
    );
  }
  return forms;
}

/** 16-bit arithmetic: the fused multiply-add that sm_80 has for bfloat16, and half precision. */
function narrow(): Form[] {
  const fused = (_: Rounding, a: Value, b: Value, c: Value) => add(multiply(a, b), c);
  const few = (list: readonly Bits[]) => list.filter((_, i) => i % 2 === 0 || i > 11);
  const both = (type: "bf16" | "f16", op: string, arity: number, reference: (...inputs: Bits[]) => Bits) => {
    const list = arity === 3 ? few(type === "bf16" ? bfloats : halves) : type === "bf16" ? bfloats : halves;
    const pairs = packed(list);
    const signature = (t: string) => `${Array(arity).fill(t).join(" ")} -> ${t}`;
    return [
      byFormula(`${op}.${type}`, signature(type), product(...Array(arity).fill(list)), reference),
      byFormula(`${op}.${type}x2`, signature(`${type}x2`), product(...Array(arity).fill(pairs)), (...inputs) =>
        halfwise(reference, ...inputs),
      ),
    ];
  };
  return [
    ...both("bf16", "fma.rn", 3, wrap(formats.bf16, "", fused)),
    ...both("f16", "fma.rn", 3, wrap(formats.f16, "", fused)),
    ...both(
      "f16",
      "add",
      2,
      wrap(formats.f16, "", (_, a, b) => add(a, b)),
    ),
    ...both(
      "f16",
      "sub",
      2,
      wrap(formats.f16, "", (_, a, b) => add(a, negate(b))),
    ),
    ...both(
      "f16",
      "mul",
      2,
      wrap(formats.f16, "", (_, a, b) => multiply(a, b)),
    ),
  ];
}

/** Kinds of number. */
function kinds(): Form[] {
  const tests: Record<string, (v: Value, bits: Bits, format: Format) => boolean> = {
    finite: (v) => v.kind === "finite",
    infinite: (v) => v.kind === "infinite",
    number: (v) => v.kind !== "nan",
    notanumber: (v) => v.kind === "nan",
    normal: (v, bits, format) => v.kind === "finite" && v.magnitude !== 0n && flush(format, bits) === bits,
    subnormal: (_, bits, format) => flush(format, bits) !== bits,
  };
  return Object.entries(tests).flatMap(([name, test]) =>
    (
      [
        ["f32", floats32],
        ["f64", floats64],
      ] as const
    ).map(([type, list]) =>
      byFormula(`testp.${name}.${type}`, `${type} -> pred`, product(list), (a) =>
        test(decode(formats[type], a!), a!, formats[type]) ? 1n : 0n,
      ),
    ),
  );
}

/** Written out, as a check of the formulas themselves. */
function written(): Form[] {
  return [
    byHand(
      "add.f32",
      "f32 f32 -> f32",
      `
      3f800000 33800000 -> 3f800000   # 1 + 2^-24: a tie, to even
      3f800001 33800000 -> 3f800002   # the next: a tie, to even upwards
      3f800000 33800001 -> 3f800001
      7f7fffff 73000000 -> 7f800000   # half an ulp above the largest number
      3f800000 bf800000 -> 00000000
      80000000 80000000 -> 80000000
      7f800000 ff800000 -> 7fffffff`,
    ),
    byHand("add.rm.f32", "f32 f32 -> f32", "3f800000 bf800000 -> 80000000\n7f7fffff 7f7fffff -> 7f7fffff"),
    byHand(
      "fma.rn.f32",
      "f32 f32 f32 -> f32",
      `
      3f800001 3f800001 bf800002 -> 28800000   # 2^-46, which separate rounding loses
      00800000 3f000000 00000000 -> 00400000
      7f7fffff 40000000 ff7fffff -> 7f7fffff   # no overflow between`,
    ),
    byHand(
      "fma.rn.ftz.f32",
      "f32 f32 f32 -> f32",
      "00800000 3f000000 00000000 -> 00000000\n00400000 3f800000 3f800000 -> 3f800000",
    ),
    byHand(
      "mul.sat.f32",
      "f32 f32 -> f32",
      "40000000 40000000 -> 3f800000\nc0000000 40000000 -> 00000000\n7fc00000 3f800000 -> 00000000",
    ),
    byHand(
      "min.f32",
      "f32 f32 -> f32",
      "7fc00000 3f800000 -> 3f800000\n80000000 00000000 -> 80000000\n7fc00000 ffc00000 -> 7fffffff",
    ),
    byHand("max.f32", "f32 f32 -> f32", "00000000 80000000 -> 00000000\n80000000 00000000 -> 00000000"),
    byHand("add.f32 {d}, {a}, 0f3F800000;", "f32 -> f32", "3f800000 -> 40000000"),
    byHand("add.f64 {d}, {a}, 0d3FF0000000000000;", "f64 -> f64", "3ff0000000000000 -> 4000000000000000"),
    byHand("fma.rn.bf16", "bf16 bf16 bf16 -> bf16", "3f81 3f81 bf82 -> 3880\n3f80 3f80 3b80 -> 3f80"),
  ];
}

export const floatForms: readonly Form[] = [
  ...arithmetic(),
  ...exactQuotients(),
  ...extremes(),
  ...signs(),
  ...narrow(),
  ...kinds(),
  ...written(),
];
