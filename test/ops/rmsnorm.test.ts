/** Runs the table of cases/rmsnorm.ts on every path (harness.ts says how). */
import { rmsnormCases } from "./cases/rmsnorm.ts";
import { testCases } from "./harness.ts";

testCases(rmsnormCases);
