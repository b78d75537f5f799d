/** Reasons why an op's kernels stay below 70 % of their bound on a machine; an op that does so must be listed here. */
import type { Ops } from "../../src/device/device.ts";

/** Share of the bound above which no reason is needed. */
export const LEAST_SHARE = 0.7;

export const reasons: Readonly<Partial<Record<keyof Ops, string>>> = {
  attentionBackward:
    "dK, dV and dQ are summed in two kernels, each of which computes S and dP anew: 7 products where 5 are the least (71 %), the price of gradients without atomics, the same bits on every run; halves of the tiles on the diagonal, whose products nobody needs; and on an A100 mma.sync's operands, fed through shared memory by ldmatrix (wgmma reads them by itself)",
  sample:
    "probabilities are summed as whole numbers of 2⁻⁴⁴, so that the order of threads cannot matter: 64-bit integer additions for every token of the vocabulary, and a second reading of the row; about 3 % of a decode step",
};
