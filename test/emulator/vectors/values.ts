/** Inputs at which instructions have gone wrong before: ends of ranges, signs, ties, subnormal numbers, NaNs. */
import type { Bits } from "./form.ts";

const hex = (text: string): Bits[] =>
  text
    .trim()
    .split(/\s+/)
    .map((x) => BigInt(`0x${x}`));

export const edge16 = hex("0 1 2 7f 80 ff 100 7ffe 7fff 8000 8001 1234 fffe ffff");
export const edge32 = hex(
  "0 1 2 1f 20 7f 80 ff 7fff 8000 ffff 10000 7fffffff 80000000 80000001 12345678 9abcdef0 fffffffe ffffffff",
);
export const edge64 = hex(
  "0 1 2 3f 40 7fffffff 80000000 ffffffff 100000000 7fffffffffffffff 8000000000000000 8000000000000001 123456789abcdef0 fedcba9876543210 fffffffffffffffe ffffffffffffffff",
);

export const few32 = hex("0 1 7fffffff 80000000 12345678 ffffffff");
export const few64 = hex("0 1 7fffffffffffffff 8000000000000000 123456789abcdef0 ffffffffffffffff");

/** Shift counts on both sides of every width. */
export const counts = hex("0 1 7 8 f 10 11 1f 20 21 3f 40 41 7f 80 ff 100 80000000 ffffffff");

/** Both zeros, one and its neighbours, ties for bfloat16, ends, subnormal numbers, infinities, NaNs. */
export const floats32 = hex(`
  0 80000000 3f800000 bf800000 3f800001 3f7fffff 40000000 40490fdb c0490fdb
  1 80000001 7fffff 807fffff 800000 80800000 400000
  7f7fffff ff7fffff 7f800000 ff800000 7fc00000 7f800001 ffc12345
  3f808000 3f818000 3f808001 7f7f7fff 7f7f8000 33800000 4b000000 4b800001 5f000000 df000000 42c80000 c2c80000`);

/** A smaller set, for three operands. */
export const fewFloats32 = hex(`
  0 80000000 3f800000 bf800000 3f800001 40490fdb 1 807fffff 800000 7f7fffff 7f800000 7fc00000 33800000`);

export const floats64 = hex(`
  0 8000000000000000 3ff0000000000000 bff0000000000000 3ff0000000000001 400921fb54442d18
  1 800fffffffffffff 10000000000000 7fefffffffffffff ffefffffffffffff 7ff0000000000000 fff0000000000000
  7ff8000000000000 7ff0000000000001 4340000000000001 36a0000000000000 47efffffe0000000 47efffffefffffff 47effffff0000000
  3810000000000000 380fffffffffffff 41dfffffffc00000 41e0000000000000 c1e0000000000000 c1e0000000200000 43e0000000000000 c3e0000000000000`);

export const fewFloats64 = hex(
  "0 8000000000000000 3ff0000000000000 bff0000000000001 400921fb54442d18 1 7fefffffffffffff 7ff0000000000000 7ff8000000000000 3ca0000000000000",
);

export const bfloats = hex("0 8000 3f80 bf80 3f81 4049 1 807f 80 7f7f ff7f 7f80 ff80 7fc0 7f81 4300 c2fe");
export const halves = hex("0 8000 3c00 bc00 3c01 4248 1 83ff 400 7bff fbff 7c00 fc00 7e00 7c01 5c00 d7f0");

/** Pairs of 16-bit values in one register, each value once in each half. */
export function packed(values: readonly Bits[]): Bits[] {
  return values.map((low, i) => low | (values[(i * 5 + 3) % values.length]! << 16n));
}
