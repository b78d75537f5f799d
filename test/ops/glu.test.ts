/** Runs the table of cases/glu.ts on every CPU path (harness.ts says how). */
import { gluCases } from "./cases/glu.ts";
import { testCases } from "./harness.ts";
import { cpuPaths } from "./paths.ts";

testCases(gluCases, cpuPaths);
