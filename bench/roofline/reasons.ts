/** Why an op's kernels stay below 70 % of its bound on a machine, where they do: nothing else may. */
import type { Ops } from "../../src/device/device.ts";

/** Share of the bound that needs no reason. */
export const LEAST_SHARE = 0.7;

export const reasons: Readonly<Partial<Record<keyof Ops, string>>> = {};
