/** Runs the table of cases/matmul.ts on every path (harness.ts says how). */
import { matmulCases } from "./cases/matmul.ts";
import { testCases } from "./harness.ts";

testCases(matmulCases);
