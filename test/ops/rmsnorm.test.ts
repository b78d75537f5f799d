/** Runs the table of cases/rmsnorm.ts on every CPU path (harness.ts says how). */
import { rmsnormCases } from "./cases/rmsnorm.ts";
import { testCases } from "./harness.ts";
import { cpuPaths } from "./paths.ts";

testCases(rmsnormCases, cpuPaths);
