/** Every table of cases on every CPU path (see harness.ts). `OPS_CASE=rope bun test test/ops/cpu.test.ts` runs a part. */
import { describe } from "bun:test";
import { tables } from "../../bench/ops/cases/all.ts";
import { hugeScores } from "../../bench/ops/cases/attention.ts";
import { testCases } from "./harness.ts";
import { cpuPaths } from "./paths.ts";

for (const [table, cases] of Object.entries(tables)) describe(table, () => testCases(cases, cpuPaths));

describe("attention, huge scores", () => testCases(hugeScores, cpuPaths));
