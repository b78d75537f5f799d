/**
 * The table of cosines and sines for rotary position embedding (Su et al. 2021, arXiv 2104.09864) with linear, llama3
 * and YaRN scaling (Peng et al. 2023, arXiv 2309.00071). Computed once on the host; the rotation itself is an op.
 *
 * Every function is evaluated in float64 and rounded to float32 where the frameworks that trained these models round
 * (frequency, then angle): without rounding, an angle of 8191 rad differs from theirs by up to 3e-4, with it by 6e-8.
 */
import type { RopeConfig, RopeScaling } from "./rope-settings.ts";

const f32 = Math.fround;

/** The rotary embedding of a layer's heads. */
export interface Rotary {
  readonly headDim: number;
  readonly rope: RopeConfig;
}

export interface RopeTable {
  readonly cos: Float32Array; // (positions, headDim/2)
  readonly sin: Float32Array; // (positions, headDim/2)
}

/** @returns cos and sin for positions 0 … positions−1, both already multiplied by YaRN's attention scaling */
export function ropeTable(rotary: Rotary, positions: number): RopeTable {
  const { frequencies, attentionScaling } = ropeFrequencies(rotary);
  const half = frequencies.length;
  const scaling = f32(attentionScaling);
  const cos = new Float32Array(positions * half);
  const sin = new Float32Array(positions * half);
  for (let position = 0; position < positions; position++) {
    for (let i = 0; i < half; i++) {
      const angle = f32(position * frequencies[i]!);
      cos[position * half + i] = f32(Math.cos(angle)) * scaling;
      sin[position * half + i] = f32(Math.sin(angle)) * scaling;
    }
  }
  return { cos, sin };
}

/** @returns radians per position for each pair of a head, (headDim/2), and the factor on cos and sin */
export function ropeFrequencies({ headDim, rope }: Rotary): {
  frequencies: Float32Array;
  attentionScaling: number;
} {
  const theta = f32(rope.theta);
  const periods = Float32Array.from({ length: headDim / 2 }, (_, i) => theta ** f32((2 * i) / headDim));
  const frequencies = periods.map((period) => 1 / period);
  const { scaling } = rope;
  switch (scaling.type) {
    case "none":
      return { frequencies: frequencies.map(() => 0), attentionScaling: 1 };
    case "default":
      return { frequencies, attentionScaling: 1 };
    case "linear":
      return { frequencies: frequencies.map((frequency) => frequency / scaling.factor), attentionScaling: 1 };
    case "llama3":
      return { frequencies: frequencies.map((frequency) => llama3(frequency, scaling)), attentionScaling: 1 };
    case "yarn":
      return {
        frequencies: yarn(periods, rope.theta, headDim, scaling),
        attentionScaling: yarnAttentionScaling(scaling),
      };
  }
}

/** Llama 3.1: long wavelengths are slowed by `factor`, short ones kept, those in between blended. */
function llama3(frequency: number, scaling: RopeScaling & { type: "llama3" }): number {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings: context } = scaling;
  const wavelength = f32(f32(1 / frequency) * f32(2 * Math.PI));
  if (wavelength < context / highFreqFactor) return frequency;
  if (wavelength > context / lowFreqFactor) return frequency / factor;
  const smooth = f32(f32(f32(f32(1 / wavelength) * context) - lowFreqFactor) / (highFreqFactor - lowFreqFactor));
  return f32(f32(f32(1 - smooth) * frequency) / factor) + f32(smooth * frequency);
}

/** YaRN's "NTK by parts": fast dimensions keep their frequency, slow ones are divided by `factor`. */
function yarn(
  periods: Float32Array, // (headDim/2)
  theta: number,
  headDim: number,
  scaling: RopeScaling & { type: "yarn" },
): Float32Array {
  const { factor, betaFast, betaSlow, originalMaxPositionEmbeddings: context } = scaling;
  /** The dimension that makes `rotations` turns over the original context. */
  const dimensionOf = (rotations: number) =>
    (headDim * Math.log(context / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  let low = dimensionOf(betaFast);
  let high = dimensionOf(betaSlow);
  if (scaling.truncate ?? true) {
    low = Math.floor(low);
    high = Math.ceil(high);
  }
  low = Math.max(low, 0);
  high = Math.min(high, headDim - 1);
  if (low === high) high += 0.001;
  return periods.map((period, i) => {
    const ramp = Math.min(Math.max(f32(f32(i - low) / (high - low)), 0), 1);
    const kept = f32(1 - ramp);
    const interpolated = f32(1 / f32(factor * period));
    return f32(interpolated * f32(1 - kept)) + f32(f32(1 / period) * kept);
  });
}

function yarnAttentionScaling(scaling: RopeScaling & { type: "yarn" }): number {
  const { factor, attentionFactor, mscale, mscaleAllDim } = scaling;
  if (attentionFactor !== undefined) return attentionFactor;
  const scaleOf = (weight: number) => (factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1);
  return mscale && mscaleAllDim ? scaleOf(mscale) / scaleOf(mscaleAllDim) : scaleOf(1);
}
