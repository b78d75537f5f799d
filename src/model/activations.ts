/**
 * The buffers of packed passes through a model, forward only or forward and backward, planned for a number of tokens.
 * The layers' buffers are in layer-buffers.ts, a head's in lm-head.ts and scalar-head.ts. Legend of letters in
 * device.ts.
 */

import type { Device } from "../device/device.ts";
import type { ModelConfig } from "../families/config.ts";
import { type Bind, type BuffersOf, type BufferTable, planBuffers, tableBytes } from "../tensor/buffers.ts";
import type { ComputeDType } from "../tensor/dtype.ts";
import type { OptionalBuffers, Phase, PlanBuilder } from "../tensor/plan.ts";
import type { Tensor } from "../tensor/tensor.ts";
import {
  gradientTable,
  type KeptActivations,
  keptTables,
  type LayerBuffers,
  type LayerGradients,
  layersTable,
} from "./layer-buffers.ts";
import { routeElements } from "./routes.ts";

/** The sizes of passes. */
export interface PassSizes {
  /** Rows of the largest packed batch. */
  readonly tokens: number;
  /** Longest prompt: rows of the attention gradient's scratch are a multiple of it. */
  readonly longestPrompt: number;
}

function inputTable(config: ModelConfig, { tokens: T }: PassSizes) {
  return {
    tokens: ["tokens", "int32", [T]],
    positions: ["positions", "int32", [T]],
    segments: ["segments", "int32", [T, 4]],
    routes: ["expert routes", "int32", [routeElements(config, T)]],
  } satisfies BufferTable<string>;
}

/** The rows that a head reads, normalized. */
export function hiddenTable({ hiddenSize: D }: ModelConfig, act: ComputeDType, { tokens: T }: PassSizes) {
  return {
    hidden: ["head hidden", "float32", [T, D]], // the rows that are needed
    normed: ["head normed", act, [T, D]],
    rstd: ["head rstd", "float32", [T]],
    headRows: ["head rows", "int32", [T]],
  } satisfies BufferTable<string>;
}
type HiddenBuffers = BuffersOf<typeof hiddenTable>;

/** A head's buffers for passes of these sizes: forward, `hiddenTable` and its own; and those of its backward pass. */
export interface Head<Sizes extends PassSizes, Forward extends string, Backward extends string> {
  forward(config: ModelConfig, act: ComputeDType, sizes: Sizes): BufferTable<Forward | keyof HiddenBuffers>;
  backward(config: ModelConfig, sizes: Sizes): BufferTable<Backward>;
}

/** The buffers of passes with any head. */
export interface LayerActivations {
  readonly input: BuffersOf<typeof inputTable>;
  readonly layer: LayerBuffers;
  readonly head: HiddenBuffers;
  /** Null for forward passes only. */
  readonly gradient: LayerGradients | null;
}

interface HeadActivations<Sizes, Forward extends string, Backward extends string> extends LayerActivations {
  readonly sizes: Sizes;
  readonly head: HiddenBuffers & Readonly<Record<Forward, Tensor>>;
  readonly gradient: (LayerGradients & Readonly<Record<Backward, Tensor>>) | null;
}

/** The buffers of passes with a head. */
export type ActivationsOf<H> = H extends Head<infer S, infer F, infer B> ? HeadActivations<S, F, B> : never;

/** The buffers of passes forward and backward. */
export type WithGradients<A extends LayerActivations> = A & { readonly gradient: NonNullable<A["gradient"]> };

export interface ActivationPlan<Sizes> {
  readonly device: Device;
  readonly config: ModelConfig;
  /** Of the parameters. */
  readonly dtype: ComputeDType;
  readonly sizes: Sizes;
  readonly prefix: string;
  readonly lifetime: readonly Phase[];
}

const placeOf = ({ prefix, lifetime }: Pick<ActivationPlan<PassSizes>, "prefix" | "lifetime">, staged: boolean) => ({
  ...{ group: `${prefix} activations`, prefix, lifetime, staged },
});

/** Ends the names of the groups of activations that are kept for backward. */
export const KEPT_ACTIVATIONS = "activations kept";

/**
 * Plans forward passes.
 *
 * @param staged they have their phase to themselves
 */
export function planForward<S extends PassSizes, F extends string, B extends string>(
  plan: PlanBuilder,
  head: Head<S, F, B>,
  options: ActivationPlan<S>,
  staged = false,
): Bind<HeadActivations<S, F, B>> {
  const { device, config, dtype, sizes } = options;
  const place = placeOf(options, staged);
  const act = device.activationDType(dtype);
  const bindInput = planBuffers(plan, place, inputTable(config, sizes));
  const bindLayer = planBuffers(plan, place, layersTable(config, act, sizes.tokens));
  const bindHead = planBuffers(plan, place, head.forward(config, act, sizes));
  return (tensors) => ({
    sizes,
    input: bindInput(tensors),
    layer: bindLayer(tensors),
    head: bindHead(tensors),
    gradient: null,
  });
}

/**
 * Plans passes forward and backward, which have their phase to themselves.
 *
 * @param keep decides how many layers' activations are kept for backward; the others' are recomputed
 */
export function planForwardBackward<S extends PassSizes, F extends string, B extends string>(
  plan: PlanBuilder,
  head: Head<S, F, B>,
  options: ActivationPlan<S> & { readonly lifetime: readonly [Phase] },
  keep: (layers: OptionalBuffers) => void,
): Bind<WithGradients<HeadActivations<S, F, B>>> {
  const { device, config, dtype, sizes } = options;
  const bindForward = planForward(plan, head, options, true);
  const place = placeOf(options, true);
  const bindLayers = planBuffers(plan, place, gradientTable(device, config, dtype, sizes));
  const bindHead = planBuffers(plan, place, head.backward(config, sizes));
  const bindKept = planKept(plan, options, keep);
  return (tensors) => {
    const gradient = { ...bindLayers(tensors), ...bindHead(tensors), kept: bindKept(tensors) };
    return { ...bindForward(tensors), gradient };
  };
}

/** Offers to keep layers' activations, the last layers' first. */
function planKept<S extends PassSizes>(
  plan: PlanBuilder,
  { device, config, dtype, sizes, prefix, lifetime }: ActivationPlan<S> & { readonly lifetime: readonly [Phase] },
  keep: (layers: OptionalBuffers) => void,
): Bind<(KeptActivations | null)[]> {
  const tables = keptTables(config, device.activationDType(dtype), sizes.tokens);
  const binds: (Bind<KeptActivations> | null)[] = tables.map(() => null);
  keep({
    phase: lifetime[0],
    bytes: tables.map(tableBytes).reverse(),
    plan(count) {
      for (let layer = tables.length - count; layer < tables.length; layer++) {
        const place = { group: `${prefix} ${KEPT_ACTIVATIONS}`, prefix: `${prefix}/${layer}`, lifetime };
        binds[layer] = planBuffers(plan, place, tables[layer]!);
      }
    },
  });
  return (tensors) => binds.map((bind) => bind?.(tensors) ?? null);
}
