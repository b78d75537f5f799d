/** Runs the table of cases/flat.ts on every path (harness.ts says how). */
import { flatCases } from "./cases/flat.ts";
import { testCases } from "./harness.ts";

testCases(flatCases);
