/** Runs the table of cases/weights.ts on every CPU path (harness.ts says how). */
import { weightCases } from "./cases/weights.ts";
import { testCases } from "./harness.ts";
import { cpuPaths } from "./paths.ts";

testCases(weightCases, cpuPaths);
