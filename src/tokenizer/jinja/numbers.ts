/** Numbers as Python prints and reads them. */

/** Python's `repr` of a float: the shortest digits, an exponent below 1e-4 and from 1e16. */
export function floatText(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (value === 0) return Object.is(value, -0) ? "-0.0" : "0.0";
  const [digits = "", exponentText = "0"] = Math.abs(value).toExponential().split("e");
  const exponent = Number(exponentText);
  const sign = value < 0 ? "-" : "";
  if (exponent < -4 || exponent >= 16) return `${sign}${digits}e${exponentSign(exponent)}`;
  const bare = digits.replace(".", "");
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${bare}`;
  const whole = bare.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  return `${sign}${whole}.${bare.slice(exponent + 1) || "0"}`;
}

/** At least two digits after the sign. */
export function exponentSign(exponent: number): string {
  return `${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
}

/** A float's exact magnitude, digits / 10^scale. */
function exactly(value: number): { digits: bigint; scale: number } {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, Math.abs(value));
  const bits = view.getBigUint64(0);
  const exponent = Number(bits >> 52n);
  const fraction = bits & (2n ** 52n - 1n);
  const mantissa = exponent === 0 ? fraction : fraction + 2n ** 52n;
  const power = Math.max(exponent, 1) - 1075;
  // A factor of ½ is 5/10.
  return power >= 0
    ? { digits: mantissa << BigInt(power), scale: 0 }
    : { digits: mantissa * 5n ** BigInt(-power), scale: -power };
}

/** digits / 10^scale · 10^places as a whole number, half to even, which is how Python rounds. */
export function roundedAt(digits: bigint, scale: number, places: number): bigint {
  if (places >= scale) return digits * 10n ** BigInt(places - scale);
  const unit = 10n ** BigInt(scale - places);
  const whole = digits / unit;
  const twice = 2n * (digits % unit);
  return twice > unit || (twice === unit && whole % 2n === 1n) ? whole + 1n : whole;
}

/** A finite float's magnitude with `places` digits after the point; −2: hundreds. */
export function fixedText(value: number, places: number): string {
  const { digits, scale } = exactly(value);
  const text = roundedAt(digits, scale, places).toString();
  if (places <= 0) return text === "0" ? text : text + "0".repeat(-places);
  const padded = text.padStart(places + 1, "0");
  return `${padded.slice(0, -places)}.${padded.slice(-places)}`;
}

/** A finite float's magnitude as d.ddd with `places` digits after the point, and the power of ten. */
export function exponentialText(value: number, places: number): { mantissa: string; exponent: number } {
  const { digits, scale } = exactly(value);
  let exponent = digits === 0n ? 0 : digits.toString().length - 1 - scale;
  let text = roundedAt(digits, scale, places - exponent).toString();
  if (text.length > places + 1) text = roundedAt(digits, scale, places - ++exponent).toString();
  text = text.padEnd(places + 1, "0");
  return { mantissa: places === 0 ? text : `${text[0]}.${text.slice(1)}`, exponent };
}

/** The int that Python's `int(text, base)` reads, or null. */
export function readInt(text: string, base = 10): bigint | null {
  const match = /^([+-]?)(0[xX]|0[oO]|0[bB])?([\da-zA-Z]+(?:_[\da-zA-Z]+)*)$/.exec(text);
  if (match === null) return null;
  const [, sign, prefix = "", body = ""] = match;
  const bases: Readonly<Record<string, number>> = { "0x": 16, "0o": 8, "0b": 2 };
  const ofPrefix = bases[prefix.toLowerCase()];
  if (ofPrefix !== undefined && base !== ofPrefix && base !== 0) return null;
  const used = ofPrefix ?? (base === 0 ? 10 : base);
  let value = 0n;
  for (const digit of body.replaceAll("_", "")) {
    const number = Number.parseInt(digit, 36);
    if (!(number < used)) return null;
    value = value * BigInt(used) + BigInt(number);
  }
  return sign === "-" ? -value : value;
}

/** The float that Python's `float(text)` reads, or null. */
export function readFloat(text: string): number | null {
  if (/^[+-]?(inf|infinity)$/i.test(text)) return text.startsWith("-") ? -Infinity : Infinity;
  if (/^[+-]?nan$/i.test(text)) return Number.NaN;
  return /^[+-]?(\d+(_\d+)*\.?(\d+(_\d+)*)?|\.\d+(_\d+)*)(e[+-]?\d+(_\d+)*)?$/i.test(text)
    ? Number(text.replaceAll("_", ""))
    : null;
}
