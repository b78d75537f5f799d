/**
 * The rollout's memory: layer buffers for prefill and decode, the paged key-value cache, and the small buffers that
 * change from one decode step to the next. Planned from the limits before anything runs.
 */
import type { ModelConfig } from "../config/model.ts";
import { type Device, type KeyValuePages, SAMPLE_COUNTERS } from "../device/device.ts";
import { attentionShape, bind, type LayerBuffers, planLayer } from "../model/activations.ts";
import type { ComputeDType, DType } from "../tensor/dtype.ts";
import type { Phase, PlanBuilder } from "../tensor/plan.ts";
import { columns, rows, type Tensor } from "../tensor/tensor.ts";
import { pagesFor } from "./pages.ts";

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

export interface RolloutBuffers {
  readonly limits: RolloutLimits;
  readonly sizes: RolloutSizes;
  readonly layer: LayerBuffers;
  /** Pages of each layer. */
  readonly cache: readonly KeyValuePages[];
  readonly tokens: Tensor; // int32 (T)
  readonly positions: Tensor; // int32 (T)
  readonly segments: Tensor; // int32 (promptSlots, 4)
  readonly page: Tensor; // int32 (T): where each token's keys and values go
  readonly offset: Tensor; // int32 (T)
  readonly lastRows: Tensor; // int32 (rows)
  readonly promptHidden: Tensor; // float32 (promptSlots, D): each resident prompt's last row of the residual stream
  readonly hidden: Tensor; // float32 (rows, D)
  readonly normed: Tensor; // act (rows, D)
  readonly logits: Tensor; // float32 (rows, V)
  readonly pageTable: Tensor; // int32 (B, tableWidth)
  readonly promptLengths: Tensor; // int32 (B)
  readonly completionLengths: Tensor; // int32 (B)
  readonly counters: Tensor; // int32 (B, 5)
  readonly logitRow: Tensor; // int32 (B)
  readonly ids: Tensor; // int32 (B)
  readonly logprob: Tensor; // float32 (B)
  readonly samplingLogprob: Tensor; // float32 (B)
  readonly seen: Tensor | null; // uint32 (B, ⌈V/32⌉)
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
  const B = limits.maxSequences;
  const T = sizes.prefillTokens;
  const add = (group: string) => (name: string, type: DType, shape: readonly number[]) =>
    plan.add(group, `rollout/${name}`, type, shape, lifetime).name;
  const activation = add("rollout activations");
  const layerNames = planLayer(activation, config, dtype, T);
  const page = device.pageElements(attentionShape(config));
  const cache = add("key-value cache");
  const L = config.numLayers;
  const keys = cache("keys", dtype, [L, sizes.pages * page.keys]);
  const values = cache("values", dtype, [L, sizes.pages * page.values]);
  const names = {
    tokens: activation("tokens", "int32", [T]),
    positions: activation("positions", "int32", [T]),
    segments: activation("segments", "int32", [limits.promptSlots, 4]),
    page: activation("page", "int32", [T]),
    offset: activation("offset", "int32", [T]),
    lastRows: activation("last rows", "int32", [B]),
    promptHidden: activation("prompt hidden", "float32", [limits.promptSlots, config.hiddenSize]),
    hidden: activation("hidden", "float32", [B, config.hiddenSize]),
    normed: activation("final normed", dtype, [B, config.hiddenSize]),
    logits: activation("logits", "float32", [B, config.vocabSize]),
    pageTable: activation("page table", "int32", [B, sizes.tableWidth]),
    promptLengths: activation("prompt lengths", "int32", [B]),
    completionLengths: activation("completion lengths", "int32", [B]),
    counters: activation("counters", "int32", [B, SAMPLE_COUNTERS]),
    logitRow: activation("logit row", "int32", [B]),
    ids: activation("ids", "int32", [B]),
    logprob: activation("logprob", "float32", [B]),
    samplingLogprob: activation("sampling logprob", "float32", [B]),
  };
  const seen = limits.penalized ? activation("seen", "uint32", [B, Math.ceil(config.vocabSize / 32)]) : null;
  return (tensors) => {
    const all = bind(tensors, { keys, values });
    const layerPages = (t: Tensor, layer: number, elements: number): Tensor => {
      const one = columns(rows(t, layer, 1), 0, sizes.pages * elements);
      return { ...one, shape: [sizes.pages, elements], rowStride: elements };
    };
    return {
      limits,
      sizes,
      layer: bind(tensors, layerNames),
      cache: Array.from({ length: L }, (_, layer) => ({
        keys: layerPages(all.keys, layer, page.keys),
        values: layerPages(all.values, layer, page.values),
      })),
      ...bind(tensors, names),
      seen: seen ? bind(tensors, { seen }).seen : null,
    };
  };
}
