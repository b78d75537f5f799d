/** Normalization over all tokens of a batch. */

const EPSILON = 1e-8;

/**
 * (x − mean) ÷ √(variance + 1e-8), with mean and Bessel-corrected variance over the tokens of all non-null completions;
 * null stays null. Equal values, or a single one, give exactly 0.
 */
export function whiten(tokens: readonly (Float64Array | null)[]): (Float64Array | null)[] {
  const counted = tokens.filter((values) => values !== null);
  const count = counted.reduce((sum, { length }) => sum + length, 0);
  const origin = counted.find(({ length }) => length > 0)?.[0] ?? 0;
  // Sum deviations from the first value: the mean of equal values is then exact.
  let shift = 0;
  for (const values of counted) for (const value of values) shift += value - origin;
  const mean = origin + shift / Math.max(count, 1);
  let squares = 0;
  for (const values of counted) for (const value of values) squares += (value - mean) ** 2;
  const scale = 1 / Math.sqrt((count < 2 ? 0 : squares / (count - 1)) + EPSILON);
  return tokens.map((values) => values?.map((value) => (value - mean) * scale) ?? null);
}
