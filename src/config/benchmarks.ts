/**
 * Benchmarks by name for `grpo eval`: where the problems are, how they are asked and judged. What each one sets, and where
 * that comes from, stands in `benchmarks/NAME.toml`. The problems themselves are not carried.
 */
import gsm8k from "./benchmarks/gsm8k.toml" with { type: "toml" };
import math500 from "./benchmarks/math500.toml" with { type: "toml" };

export const benchmarkNames = ["gsm8k", "math500"] as const;
export type BenchmarkName = (typeof benchmarkNames)[number];

/** Settings of `eval` by their snake_case names; those that are given override them. */
export const benchmarks: Readonly<Record<BenchmarkName, Readonly<Record<string, unknown>>>> = { gsm8k, math500 };
