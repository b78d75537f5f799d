/** Runs the table of cases/rope.ts on every path (harness.ts says how). */
import { ropeCases } from "./cases/rope.ts";
import { testCases } from "./harness.ts";

testCases(ropeCases);
