/** Rotary tables compared with transformers 5.23 for the same settings (head size 8). */
import { describe, expect, test } from "bun:test";
import { ropeFrequencies, ropeTable } from "../../src/families/rope.ts";
import { parseRope } from "../../src/families/rope-settings.ts";

interface Case {
  readonly name: string;
  readonly parameters: Record<string, unknown>;
  readonly frequencies: number[];
  /** At position 8191. */
  readonly cos: number[];
  readonly sin: number[];
}

const cases: Case[] = [
  {
    name: "default",
    parameters: { rope_type: "default", rope_theta: 10000 },
    frequencies: [1, 0.100000001, 0.00999999978, 0.00100000005],
    cos: [-0.646390498, -0.655730963, 0.973987579, -0.330674648],
    sin: [-0.763006806, 0.754994631, 0.226601541, 0.943744838],
  },
  {
    name: "linear",
    parameters: { rope_type: "linear", rope_theta: 10000, factor: 4 },
    frequencies: [0.25, 0.0250000004, 0.00249999994, 0.000250000012],
    cos: [0.842757821, -0.841097772, -0.0571156591, -0.459074974],
    sin: [-0.538292885, -0.540883064, 0.998367548, 0.888397515],
  },
  {
    name: "llama3, one pair kept, one blended, two slowed",
    parameters: {
      rope_type: "llama3",
      rope_theta: 500000,
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 512,
    },
    frequencies: [1, 0.0273441337, 0.000176776681, 6.64786967e-6],
    cos: [-0.646390498, -0.603652954, 0.122510001, 0.998517811],
    sin: [-0.763006806, -0.797247171, 0.992467284, 0.0544257946],
  },
  {
    name: "yarn, attention scaling from the factor",
    parameters: { rope_type: "yarn", rope_theta: 1e6, factor: 4, original_max_position_embeddings: 1024 },
    frequencies: [1, 0.0197642371, 0.000250000012, 7.90569356e-6],
    cos: [-0.735999227, 0.110102333, -0.522716284, 1.13624299],
    sin: [-0.868781984, -1.13329363, 1.01155555, 0.0736810416],
  },
  {
    name: "yarn, mscale and an untruncated ramp",
    parameters: {
      rope_type: "yarn",
      rope_theta: 10000,
      factor: 8,
      original_max_position_embeddings: 256,
      beta_fast: 16,
      beta_slow: 2,
      mscale: 1,
      mscale_all_dim: 0.5,
      truncate: false,
    },
    frequencies: [1, 0.0424417965, 0.00124999997, 0.000125000006],
    cos: [-0.707267523, -0.519537926, -0.751282036, 0.569039404],
    sin: [-0.834866762, 0.962969482, -0.795490563, 0.934571624],
  },
  {
    name: "yarn, attention factor given",
    parameters: {
      rope_type: "yarn",
      rope_theta: 10000,
      factor: 8,
      original_max_position_embeddings: 256,
      attention_factor: 1.25,
    },
    frequencies: [1, 0.0562500022, 0.00124999997, 0.000125000006],
    cos: [-0.807988107, -0.599776268, -0.858270586, 0.650075138],
    sin: [-0.953758478, 1.09670806, -0.908774793, 1.06766212],
  },
];

describe.each(cases)("$name", ({ parameters, frequencies, cos, sin }) => {
  const config = { headDim: 8, rope: parseRope({ rope_parameters: parameters }, "config.json", 8192) };

  test("frequencies are transformers' float32 to the last digit printed", () => {
    const own = ropeFrequencies(config).frequencies;
    expect(Array.from(own, (value) => Number(value.toPrecision(9)))).toEqual(frequencies);
  });

  test("cos and sin stay within 1.2e-7 at position 8191", () => {
    const table = ropeTable(config, 8192);
    expect(table.cos).toHaveLength(8192 * 4);
    for (let i = 0; i < 4; i++) {
      expect(Math.abs(table.cos[8191 * 4 + i]! - cos[i]!)).toBeLessThan(1.3e-7);
      expect(Math.abs(table.sin[8191 * 4 + i]! - sin[i]!)).toBeLessThan(1.3e-7);
    }
  });

  test("position 0 does not rotate", () => {
    const table = ropeTable(config, 1);
    const scaling = Math.fround(ropeFrequencies(config).attentionScaling);
    expect([...table.cos]).toEqual(Array(4).fill(scaling));
    expect([...table.sin]).toEqual([0, 0, 0, 0]);
  });
});
