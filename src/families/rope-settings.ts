/**
 * The rotary embedding's settings in config.json, in both forms: `rope_theta` + `rope_scaling` (transformers 4) and
 * `rope_parameters` (transformers 5). Scalings other than those of `RopeScaling` are rejected by name. `rope.ts`
 * computes the table of cosines and sines.
 */
import { z } from "zod";
import { isObject } from "../config/json-file.ts";
import { InputError } from "../errors.ts";

export type RopeScaling =
  /** No rotation at all. */
  | { readonly type: "none" }
  | { readonly type: "default" }
  | { readonly type: "linear"; readonly factor: number }
  | {
      readonly type: "llama3";
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositionEmbeddings: number;
    }
  | {
      readonly type: "yarn";
      readonly factor: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      readonly originalMaxPositionEmbeddings: number;
      readonly attentionFactor?: number;
      readonly mscale?: number;
      readonly mscaleAllDim?: number;
      readonly truncate?: boolean;
    };

export interface RopeConfig {
  readonly theta: number;
  readonly scaling: RopeScaling;
}

/** Of layers without positions. */
export const noRope: RopeConfig = { theta: 1, scaling: { type: "none" } };

const positive = z.number().positive();
const fieldTypes = {
  rope_theta: positive,
  rope_type: z.string(),
  type: z.string(),
  factor: positive.nullable(),
  low_freq_factor: positive,
  high_freq_factor: positive,
  beta_fast: z.number().min(0).nullable(),
  beta_slow: z.number().min(0).nullable(),
  attention_factor: z.number().min(0).nullable(),
  mscale: z.number().min(0).nullable(),
  mscale_all_dim: z.number().min(0).nullable(),
  truncate: z.boolean(),
  original_max_position_embeddings: z.int().positive(),
};
type Field = keyof typeof fieldTypes;

export interface RopeDefaults {
  /** 10,000 by default. */
  readonly theta?: number | undefined;
  /** The type of layers whose settings they are, in a file with settings by type of layer. */
  readonly layers?: string;
}

/**
 * @param raw config.json's object
 * @param path config.json's path, for messages
 * @param defaults the family's
 * @throws InputError naming the file, the field and the cure
 */
export function parseRope(
  raw: Record<string, unknown>,
  path: string,
  maxPositionEmbeddings: number,
  { theta: defaultTheta = 10_000, layers }: RopeDefaults = {},
): RopeConfig {
  // As in transformers, `rope_scaling` overrides `rope_parameters` where a file has both.
  const field = isObject(raw.rope_scaling) ? "rope_scaling" : "rope_parameters";
  for (const key of ["rope_scaling", "rope_parameters"]) {
    const value = raw[key];
    if (value !== undefined && value !== null && !isObject(value))
      throw new InputError(`${path}: ${key}: must be an object or null; take the value of the original model`);
  }
  const name = layers === undefined ? field : `${field}.${layers}`;
  const given = isObject(raw[field]) ? raw[field] : {};
  const nested = Object.keys(given).find((key) => isObject(given[key]));
  if (nested !== undefined)
    throw new InputError(
      `${path}: ${name}.${nested}: rotary settings per layer type are not supported; use another model`,
    );

  function read<F extends Field>(field: F, source = given, label = `${name}.${field}`) {
    const value = source[field];
    if (value === undefined) return undefined;
    const parsed = fieldTypes[field].safeParse(value);
    if (parsed.success) return parsed.data as z.infer<(typeof fieldTypes)[F]>;
    const problem = parsed.error.issues[0]?.message ?? "bad value";
    throw new InputError(`${path}: ${label}: ${problem}, got ${JSON.stringify(value)}; correct the field`);
  }
  function need<F extends Field>(field: F, type: string) {
    const value = read(field);
    if (value === undefined || value === null)
      throw new InputError(`${path}: ${name}.${field}: missing, and rope type "${type}" needs it; add the field`);
    return value as NonNullable<typeof value>;
  }

  for (const [source, label] of [[given, `${name}.`] as const, [raw, ""] as const]) {
    const part = source.partial_rotary_factor;
    if (part !== undefined && part !== null && part !== 1)
      throw new InputError(
        `${path}: ${label}partial_rotary_factor: ${JSON.stringify(part)} is not supported, only 1; use another model`,
      );
  }
  const theta = read("rope_theta") ?? read("rope_theta", raw, "rope_theta") ?? defaultTheta;
  const type = read("rope_type") ?? read("type") ?? "default";
  const originalMaxPositionEmbeddings = () =>
    read("original_max_position_embeddings", raw, "original_max_position_embeddings") ??
    read("original_max_position_embeddings") ??
    maxPositionEmbeddings;

  switch (type) {
    case "default":
      return { theta, scaling: { type } };
    case "linear":
      return { theta, scaling: { type, factor: need("factor", type) } };
    case "llama3": {
      const lowFreqFactor = need("low_freq_factor", type);
      const highFreqFactor = need("high_freq_factor", type);
      if (highFreqFactor <= lowFreqFactor)
        throw new InputError(
          `${path}: ${name}.high_freq_factor: ${highFreqFactor} must be above low_freq_factor ${lowFreqFactor}; correct the fields`,
        );
      return {
        theta,
        scaling: {
          type,
          factor: need("factor", type),
          lowFreqFactor,
          highFreqFactor,
          originalMaxPositionEmbeddings: originalMaxPositionEmbeddings(),
        },
      };
    }
    case "yarn": {
      if (given.factor === undefined) need("factor", type);
      const original = originalMaxPositionEmbeddings();
      const attentionFactor = read("attention_factor");
      const mscale = read("mscale");
      const mscaleAllDim = read("mscale_all_dim");
      const truncate = read("truncate");
      return {
        theta,
        scaling: {
          type,
          // A null factor means the ratio of the two lengths, as in DeepSeek's configs.
          factor: read("factor") ?? maxPositionEmbeddings / original,
          betaFast: read("beta_fast") || 32,
          betaSlow: read("beta_slow") || 1,
          originalMaxPositionEmbeddings: original,
          ...(attentionFactor !== undefined && attentionFactor !== null && { attentionFactor }),
          ...(mscale !== undefined && mscale !== null && { mscale }),
          ...(mscaleAllDim !== undefined && mscaleAllDim !== null && { mscaleAllDim }),
          ...(truncate !== undefined && { truncate }),
        },
      };
    }
    default:
      throw new InputError(
        `${path}: ${name}: rope type ${JSON.stringify(type)} is not supported (default, linear, llama3, yarn are); use another model`,
      );
  }
}
