/** Runs the table of cases/optimizer.ts on every path (harness.ts says how). */
import { optimizerCases } from "./cases/optimizer.ts";
import { testCases } from "./harness.ts";

testCases(optimizerCases);
