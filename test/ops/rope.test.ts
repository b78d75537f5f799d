/** Runs the table of cases/rope.ts on every CPU path (harness.ts says how). */
import { ropeCases } from "./cases/rope.ts";
import { testCases } from "./harness.ts";
import { cpuPaths } from "./paths.ts";

testCases(ropeCases, cpuPaths);
