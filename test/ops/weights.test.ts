/** Runs the table of cases/weights.ts on every path (harness.ts says how). */
import { weightCases } from "./cases/weights.ts";
import { testCases } from "./harness.ts";

testCases(weightCases);
