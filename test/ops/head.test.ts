/** Runs the table of cases/head.ts on every CPU path (harness.ts says how). */
import { headCases } from "./cases/head.ts";
import { testCases } from "./harness.ts";
import { cpuPaths } from "./paths.ts";

testCases(headCases, cpuPaths);
