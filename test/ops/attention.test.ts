/** Runs the table of cases/attention.ts on every CPU path (harness.ts says how). */
import { attentionCases } from "./cases/attention.ts";
import { testCases } from "./harness.ts";
import { cpuPaths } from "./paths.ts";

testCases(attentionCases, cpuPaths);
