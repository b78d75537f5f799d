/** Smoothing of a column: the exponential moving average, freed of the bias that its start at 0 has. */

/** Goes on where it stopped, so that new rows cost only themselves. */
export interface Smoother {
  /** @returns the smoothed values of the first `rows` rows; NaN where the column has none */
  update(values: Float32Array, rows: number): Float32Array;
}

/** @param weight of the past, 0 (nothing is smoothed) to below 1 */
export function createSmoother(weight: number): Smoother {
  let smoothed = new Float32Array(0);
  let done = 0;
  let average = 0;
  let power = 1;
  return {
    update(values, rows) {
      if (smoothed.length < rows) {
        const longer = new Float32Array(Math.max(rows, values.length));
        longer.set(smoothed.subarray(0, done));
        smoothed = longer;
      }
      for (; done < rows; done++) {
        const value = values[done]!;
        if (Number.isFinite(value)) {
          average = weight * average + (1 - weight) * value;
          power *= weight;
        }
        smoothed[done] = Number.isFinite(value) ? average / (1 - power) : value;
      }
      return smoothed;
    },
  };
}
