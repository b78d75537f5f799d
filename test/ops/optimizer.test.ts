/** Runs the table of cases/optimizer.ts on every CPU path (harness.ts says how). */
import { optimizerCases } from "./cases/optimizer.ts";
import { testCases } from "./harness.ts";
import { cpuPaths } from "./paths.ts";

testCases(optimizerCases, cpuPaths);
