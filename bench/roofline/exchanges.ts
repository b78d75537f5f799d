/**
 * What the ranks of a step send each other, in bytes, counted by the product's own rules of who holds and who sums what; and
 * the time it takes over a network of a given speed, if nothing else takes time: a model, not a measurement.
 */

import type { ModelConfig } from "../../src/families/config.ts";
import { parameterBlocks } from "../../src/families/parameters.ts";
import { trainedSizes } from "../../src/optim/adamw.ts";
import { shareOf } from "../../src/ranks/ranks.ts";
import { subtreesOf } from "../../src/ranks/tree.ts";
import { unitsByRank, unitsOf } from "../../src/ranks/units.ts";

/** Bytes that a rank sends to the others in a step; the largest of all ranks. As many arrive. */
export interface Exchange {
  /** The sums of its gradient shards, float32, each part to the rank that sums it. */
  readonly gradients: number;
  /** What it has summed, to all: its part of the weights with the optimizer divided, else of the gradients. */
  readonly updated: number;
  /** Its completions with their logprobs, to all. */
  readonly completions: number;
  /** Masters and moments that it keeps. */
  readonly optimizer: number;
  /** Weights and gradients, which every rank has whole. */
  readonly model: number;
}

/** Token, logprob and entropy of a completion token, and its text: about 4 bytes each. */
const BYTES_PER_TOKEN = 16;

export interface ExchangeShape {
  readonly ranks: number;
  readonly shards: number;
  /** The optimizer is divided among the ranks. */
  readonly zero: boolean;
  readonly completionTokens: number;
}

/** A step of a bfloat16 model on GPUs, where all shards have completions. */
export function exchangeOf(config: ModelConfig, { ranks, shards, zero, completionTokens }: ExchangeShape): Exchange {
  const elementsOf = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1);
  const sizes = trainedSizes({ parameterElements: elementsOf }, parameterBlocks(config, 1), "bfloat16");
  const owned = unitsByRank(unitsOf(sizes), ranks).map((own) => own.reduce((sum, { count }) => sum + count, 0));
  const total = owned.reduce((sum, count) => sum + count, 0);
  const largest = (of: (r: number) => number) => Math.max(...owned.map((_, r) => of(r)));
  return {
    gradients: largest((r) => {
      const { from, to } = shareOf(shards, r, ranks);
      return 4 * subtreesOf(from, to).length * (total - owned[r]!);
    }),
    updated: largest((r) => (zero ? 2 : 4) * owned[r]! * (ranks - 1)),
    completions: BYTES_PER_TOKEN * Math.ceil(completionTokens / ranks) * (ranks - 1),
    optimizer: largest((r) => 12 * (zero ? owned[r]! : total)),
    model: 6 * total,
  };
}

/** Networks, one way: what a GPU's links carry at best. */
export const networks = [
  { name: "NVLink", bandwidth: 450e9, source: "NVLink 4, 18 links of an H100 SXM5, 25 GB/s each way (data sheet)" },
  { name: "InfiniBand", bandwidth: 50e9, source: "NDR, 400 Gb/s, one adapter a GPU" },
  { name: "Ethernet", bandwidth: 1.2e9, source: "10 Gb/s with its overhead" },
] as const;
