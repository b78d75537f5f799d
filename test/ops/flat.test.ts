/** Runs the table of cases/flat.ts on every CPU path (harness.ts says how). */
import { flatCases } from "./cases/flat.ts";
import { testCases } from "./harness.ts";
import { cpuPaths } from "./paths.ts";

testCases(flatCases, cpuPaths);
