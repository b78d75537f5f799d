/**
 * The rollout's memory: layer buffers for prefill and decode, the paged key-value cache, and the small buffers that
 * change in every decode step. Planned from the limits before anything runs.
 */

import type { Device, KeyValuePages } from "../device/device.ts";
import type { ModelConfig } from "../families/config.ts";
import { layersOf } from "../families/parameters.ts";
import { type LayerBuffers, layersTable } from "../model/layer-buffers.ts";
import { routeElements } from "../model/routes.ts";
import { type Bind, type BuffersOf, type BufferTable, planBuffers } from "../tensor/buffers.ts";
import type { ComputeDType } from "../tensor/dtype.ts";
import type { Phase, PlanBuilder } from "../tensor/plan.ts";
import { reshape, rows, type Tensor } from "../tensor/tensor.ts";
import { pagesFor } from "./pages.ts";
import {
  blockElements,
  type IntegerBlock,
  integerBlock,
  type SampledOutputs,
  type StepInputs,
  sampledOutputs,
  stepShapes,
} from "./step-inputs.ts";

export interface RolloutLimits {
  /** Sequences decoded at once. */
  readonly maxSequences: number;
  /** Tokens of the longest prompt. */
  readonly longestPrompt: number;
  /** `max_completion_length` */
  readonly maxCompletion: number;
  /**
   * Prompts of the longest length that the cache has room for besides every completion. Shorter prompts, and completions
   * that are not running, leave room for more.
   */
  readonly promptRoom: number;
  /** A repetition penalty is used: each slot keeps a bit set of the tokens seen. */
  readonly penalized: boolean;
}

/** Prompt tokens that one prefill pass takes, if the prompts add up to as many. */
const PREFILL_TOKENS = 1024;

export interface RolloutSizes {
  readonly prefillTokens: number;
  readonly pages: number;
  /** Pages that a sequence may use: its prompt's and its completion's. */
  readonly tableWidth: number;
}

/** Prompts in flight when groups of `samples` are decoded: the full ones, one starting and one finishing. */
export function promptRoomFor(maxSequences: number, samples: number): number {
  return Math.min(maxSequences, Math.ceil(maxSequences / samples) + 2);
}

export function rolloutSizes({ maxSequences, longestPrompt, maxCompletion, promptRoom }: RolloutLimits): RolloutSizes {
  return {
    prefillTokens: Math.max(longestPrompt, maxSequences, Math.min(PREFILL_TOKENS, promptRoom * longestPrompt)),
    pages: maxSequences * pagesFor(maxCompletion) + promptRoom * pagesFor(longestPrompt),
    tableWidth: pagesFor(longestPrompt) + pagesFor(maxCompletion),
  };
}

/** A prefill pass's inputs, for at most `tokens` tokens and `prompts` prompts. */
function prefillShapes(tokens: number, prompts: number) {
  return {
    tokens: [tokens],
    positions: [tokens],
    page: [tokens], // where each token's keys and values go
    offset: [tokens],
    segments: [prompts, 4],
  } as const;
}

export type PrefillInputs = IntegerBlock<keyof ReturnType<typeof prefillShapes>>;

/** Buffers from the last hidden state to logits, for `rows` sequences. */
function headTable({ hiddenSize: D, vocabSize: V }: ModelConfig, act: ComputeDType, rows: number, prompts: number) {
  return {
    promptHidden: ["prompt hidden", "float32", [prompts, D]], // each resident prompt's last row of the residual stream
    hidden: ["hidden", "float32", [rows, D]], // running sequences' rows, then prompts' of new ones
    normed: ["final normed", act, [rows, D]],
    logits: ["logits", "float32", [rows, V]],
  } satisfies BufferTable<string>;
}

export interface RolloutBuffers extends BuffersOf<typeof headTable> {
  readonly limits: RolloutLimits;
  readonly sizes: RolloutSizes;
  readonly layer: LayerBuffers;
  /** The experts of a pass's rows. int32 (layers · T · perToken) */
  readonly routes: Tensor;
  /** Pages of each layer. */
  readonly cache: readonly KeyValuePages[];
  /** Rows in the buffers of a decode step: for the maximum number of sequences, padding included. */
  readonly decodeRows: number;
  readonly prefill: PrefillInputs;
  readonly step: StepInputs;
  readonly sampled: SampledOutputs;
  readonly seen: Tensor | null; // uint32 (maxSequences + 1, ⌈V/32⌉): by slot, the last one for padding
}

/** Adds the rollout's buffers to the plan; the returned function binds them after allocation. */
export function planRollout(
  plan: PlanBuilder,
  device: Device,
  config: ModelConfig,
  dtype: ComputeDType,
  limits: RolloutLimits,
  lifetime: readonly Phase[],
): Bind<RolloutBuffers> {
  const sizes = rolloutSizes(limits);
  const B = device.decodeBucket(limits.maxSequences);
  const T = Math.max(sizes.prefillTokens, B);
  const activations = { group: "rollout activations", prefix: "rollout", lifetime };
  const bindLayer = planBuffers(plan, activations, layersTable(config, dtype, T));
  const page = layersOf(config).map(({ attention }) => device.pageElements(attention.shape));
  const padded = Array.from({ length: limits.maxSequences }, (_, i) => device.decodeBucket(i + 1) > i + 1);
  const pages = sizes.pages + (padded.includes(true) ? 1 : 0); // one for the writes of padding rows
  const cacheElements = (part: "keys" | "values") => page.reduce((sum, layer) => sum + pages * layer[part], 0);
  const cachePlace = { ...activations, group: "key-value cache" };
  const bindCache = planBuffers(plan, cachePlace, {
    keys: ["keys", dtype, [cacheElements("keys")]],
    values: ["values", dtype, [cacheElements("values")]],
  });
  const bindRoutes = planBuffers(plan, activations, {
    routes: ["expert routes", "int32", [routeElements(config, T)]],
  });
  const bindHead = planBuffers(plan, activations, headTable(config, dtype, B, limits.maxSequences));
  const prefillFields = prefillShapes(T, limits.maxSequences);
  const stepFields = stepShapes(B, sizes.tableWidth);
  const bindBlocks = planBuffers(plan, activations, {
    prefill: ["prefill inputs", "int32", [blockElements(prefillFields)]],
    step: ["step inputs", "int32", [blockElements(stepFields)]],
    sampled: ["sampled", "int32", [3, B]],
  });
  const marks = [limits.maxSequences + 1, Math.ceil(config.vocabSize / 32)];
  const bindSeen = limits.penalized ? planBuffers(plan, activations, { seen: ["seen", "uint32", marks] }) : null;
  return (tensors) => {
    const { keys: allKeys, values: allValues } = bindCache(tensors);
    let [nextKey, nextValue] = [0, 0];
    const cache = page.map(({ keys, values }): KeyValuePages => {
      const own = {
        keys: reshape(rows(allKeys, nextKey, pages * keys), [pages, keys]),
        values: reshape(rows(allValues, nextValue, pages * values), [pages, values]),
      };
      nextKey += pages * keys;
      nextValue += pages * values;
      return own;
    });
    const blocks = bindBlocks(tensors);
    return {
      limits,
      sizes,
      layer: bindLayer(tensors),
      cache,
      decodeRows: B,
      prefill: integerBlock(blocks.prefill, prefillFields),
      step: integerBlock(blocks.step, stepFields),
      sampled: sampledOutputs(blocks.sampled),
      ...bindHead(tensors),
      ...bindRoutes(tensors),
      seen: bindSeen?.(tensors).seen ?? null,
    };
  };
}
