/**
 * The rollout's memory: layer buffers for prefill and decode, the paged key-value cache, and the small buffers that
 * change from one decode step to the next. Planned from the limits before anything runs.
 */

import type { Device, KeyValuePages } from "../device/device.ts";
import type { ModelConfig } from "../families/config.ts";
import { layersOf } from "../families/parameters.ts";
import { bind, type LayerBuffers, planLayer } from "../model/activations.ts";
import type { ComputeDType, DType } from "../tensor/dtype.ts";
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
  /** Different prompts in the cache at once; more only wait for their turn. */
  readonly promptSlots: number;
  /** Repetition penalty in use: each slot keeps a bit set of the tokens seen. */
  readonly penalized: boolean;
}

/** Tokens of prompts that one prefill pass takes, where they fit. */
const PREFILL_TOKENS = 1024;

export interface RolloutSizes {
  readonly prefillTokens: number;
  readonly pages: number;
  /** Pages a sequence may take: its prompt's and its completion's. */
  readonly tableWidth: number;
}

/** Prompts in flight when groups of `samples` are decoded: the full ones, one that begins, one that ends. */
export function promptSlotsFor(maxSequences: number, samples: number): number {
  return Math.min(maxSequences, Math.ceil(maxSequences / samples) + 2);
}

export function rolloutSizes({ maxSequences, longestPrompt, maxCompletion, promptSlots }: RolloutLimits): RolloutSizes {
  return {
    prefillTokens: Math.max(longestPrompt, maxSequences, Math.min(PREFILL_TOKENS, promptSlots * longestPrompt)),
    pages: maxSequences * pagesFor(maxCompletion) + promptSlots * pagesFor(longestPrompt),
    tableWidth: pagesFor(longestPrompt) + pagesFor(maxCompletion),
  };
}

/** A prefill pass's inputs for at most `tokens` tokens and `prompts` prompts. */
function prefillShapes(tokens: number, prompts: number) {
  return {
    tokens: [tokens],
    positions: [tokens],
    page: [tokens], // where each token's keys and values go
    offset: [tokens],
    segments: [prompts, 4],
    promptSlot: [prompts], // rows of promptHidden that first tokens are drawn from
  } as const;
}

export type PrefillInputs = IntegerBlock<keyof ReturnType<typeof prefillShapes>>;

export interface RolloutBuffers {
  readonly limits: RolloutLimits;
  readonly sizes: RolloutSizes;
  readonly layer: LayerBuffers;
  /** Pages of each layer. */
  readonly cache: readonly KeyValuePages[];
  /** Rows that the buffers of a decode step have: for the most sequences, padding included. */
  readonly decodeRows: number;
  readonly prefill: PrefillInputs;
  readonly step: StepInputs;
  readonly sampled: SampledOutputs;
  readonly promptHidden: Tensor; // float32 (promptSlots, D): each resident prompt's last row of the residual stream
  readonly hidden: Tensor; // float32 (rows, D)
  readonly normed: Tensor; // act (rows, D)
  readonly logits: Tensor; // float32 (rows, V)
  readonly seen: Tensor | null; // uint32 (maxSequences + 1, ⌈V/32⌉): by slot, the last one for padding
}

/** Adds the rollout's buffers to the plan; the returned function finds them once they are allocated. */
export function planRollout(
  plan: PlanBuilder,
  device: Device,
  config: ModelConfig,
  dtype: ComputeDType,
  limits: RolloutLimits,
  lifetime: readonly Phase[],
): (tensors: ReadonlyMap<string, Tensor>) => RolloutBuffers {
  const sizes = rolloutSizes(limits);
  const B = device.decodeBucket(limits.maxSequences);
  const T = Math.max(sizes.prefillTokens, B);
  const add = (group: string) => (name: string, type: DType, shape: readonly number[]) =>
    plan.add(group, `rollout/${name}`, type, shape, lifetime).name;
  const activation = add("rollout activations");
  const layerNames = planLayer(activation, config, dtype, T);
  const page = layersOf(config).map(({ attention }) => device.pageElements(attention.shape));
  const cache = add("key-value cache");
  const padded = Array.from({ length: limits.maxSequences }, (_, i) => device.decodeBucket(i + 1) > i + 1);
  const pages = sizes.pages + (padded.includes(true) ? 1 : 0); // one for what padding rows write
  const keys = cache("keys", dtype, [page.reduce((elements, layer) => elements + pages * layer.keys, 0)]);
  const values = cache("values", dtype, [page.reduce((elements, layer) => elements + pages * layer.values, 0)]);
  const names = {
    promptHidden: activation("prompt hidden", "float32", [limits.promptSlots, config.hiddenSize]),
    hidden: activation("hidden", "float32", [B, config.hiddenSize]),
    normed: activation("final normed", dtype, [B, config.hiddenSize]),
    logits: activation("logits", "float32", [B, config.vocabSize]),
  };
  const prefillFields = prefillShapes(T, limits.promptSlots);
  const stepFields = stepShapes(B, sizes.tableWidth);
  const blocks = {
    prefill: activation("prefill inputs", "int32", [blockElements(prefillFields)]),
    step: activation("step inputs", "int32", [blockElements(stepFields)]),
    sampled: activation("sampled", "int32", [3, B]),
  };
  const marks = [limits.maxSequences + 1, Math.ceil(config.vocabSize / 32)];
  const seen = limits.penalized ? activation("seen", "uint32", marks) : null;
  return (tensors) => {
    const all = bind(tensors, { keys, values, ...blocks });
    let [nextKey, nextValue] = [0, 0];
    const cache = page.map(({ keys, values }): KeyValuePages => {
      const own = {
        keys: reshape(rows(all.keys, nextKey, pages * keys), [pages, keys]),
        values: reshape(rows(all.values, nextValue, pages * values), [pages, values]),
      };
      nextKey += pages * keys;
      nextValue += pages * values;
      return own;
    });
    return {
      limits,
      sizes,
      layer: bind(tensors, layerNames),
      cache,
      decodeRows: B,
      prefill: integerBlock(all.prefill, prefillFields),
      step: integerBlock(all.step, stepFields),
      sampled: sampledOutputs(all.sampled),
      ...bind(tensors, names),
      seen: seen ? bind(tensors, { seen }).seen : null,
    };
  };
}
