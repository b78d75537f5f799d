/** Runs the table of cases/matmul.ts on every CPU path (harness.ts says how). */
import { matmulCases } from "./cases/matmul.ts";
import { testCases } from "./harness.ts";
import { cpuPaths } from "./paths.ts";

testCases(matmulCases, cpuPaths);
