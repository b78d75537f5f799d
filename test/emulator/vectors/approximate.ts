/**
 * Approximate instructions: the manual's table of special values, which is exact, and its error bounds for all other inputs.
 * The bounds are the manual's own; `.ftz` forms treat subnormal inputs as zero.
 */
import { decode, flush, formats, isSubnormal, toNumber } from "./exact.ts";
import { type Bits, byFormula, type Form, product } from "./form.ts";
import { floats32 } from "./values.ts";

function fromNumber(x: number): Bits {
  return BigInt(new Uint32Array(new Float32Array([x]).buffer)[0]!);
}

const at = (bits: Bits) => toNumber(decode(formats.f32, bits));
const numbers = (...list: number[]) => list.map(fromNumber);

/** `f` in doubles, rounded to float32: its own error is far below every bound here. */
function unary(
  op: string,
  f: (x: number) => number,
  values: readonly Bits[],
  tolerance: { relative: number; absolute?: number },
): Form[] {
  return [`${op}.f32`, `${op}.ftz.f32`].map((name) => {
    const ftz = name.includes("ftz");
    return byFormula(
      name,
      "f32 -> f32",
      product(values),
      (a) => {
        const result = fromNumber(f(at(ftz ? flush(formats.f32, a!) : a!)));
        // A subnormal result has few digits: only check that it is flushed.
        if (isSubnormal(formats.f32, result)) return ftz ? flush(formats.f32, result) : null;
        return result;
      },
      { tolerance },
    );
  });
}

const special = [0n, 0x80000000n, 0x7f800000n, 0xff800000n, 0x7fc00000n, 1n, 0x80000001n, 0x7fffffn];
const angles = numbers(0.1, 0.5, 1, Math.PI / 2, 2, 3, Math.PI, -0.7, -2.5, -3.1);
const positive = floats32.filter((x) => x < 0x7f800000n);

export const approximateForms: readonly Form[] = [
  ...unary(
    "ex2.approx",
    (x) => 2 ** x,
    [...special, ...numbers(1, -1, 0.5, -0.5, 10.25, -20.75, 127.5, 128, -125.9, -126, 200, -200)],
    {
      relative: 2 ** -22,
    },
  ),
  ...unary(
    "lg2.approx",
    Math.log2,
    [...special, ...numbers(1, 2, 0.5, 0.75, 1.0000001, 0.99999994, 10, 1e-30, 1e30, -1)],
    {
      relative: 2 ** -22.6,
      absolute: 2 ** -22.6,
    },
  ),
  ...unary("rcp.approx", (x) => 1 / x, [...special.slice(0, 5), ...floats32], { relative: 2 ** -23 }),
  ...unary("sqrt.approx", Math.sqrt, [...special, ...positive, ...numbers(-1, -4)], { relative: 2 ** -22 }),
  ...unary(
    "rsqrt.approx",
    (x) => (Object.is(x, -0) ? -Infinity : 1 / Math.sqrt(x)),
    [...special, ...positive, ...numbers(-1, -4)],
    {
      relative: 2 ** -22.4,
    },
  ),
  ...unary("sin.approx", Math.sin, [...special, ...angles], { relative: 0, absolute: 2 ** -20.5 }),
  ...unary("cos.approx", Math.cos, [...special, ...angles], { relative: 0, absolute: 2 ** -20.5 }),
  byFormula(
    "tanh.approx.f32",
    "f32 -> f32",
    product([...special.slice(0, 5), ...numbers(0.01, -0.5, 1, 3, -9, 20)]),
    (a) => fromNumber(Math.tanh(at(a!))),
    {
      tolerance: { relative: 2 ** -11 },
    },
  ),
  // Divisors between 2^-126 and 2^126; `full` has no such limits.
  ...["div.approx", "div.full"].flatMap((op) =>
    [`${op}.f32`, `${op}.ftz.f32`].map((name) =>
      byFormula(
        name,
        "f32 f32 -> f32",
        product(numbers(0, 1, -1, 3, 1e20, 1e-20, 355, Infinity, NaN), numbers(1, -3, 7, 113, 1e10, 1e-10, 0)),
        (a, b) => fromNumber(at(a!) / at(b!)),
        { tolerance: { relative: 2 ** -22 } },
      ),
    ),
  ),
];
