/** Runs the table of cases/glu.ts on every path (harness.ts says how). */
import { gluCases } from "./cases/glu.ts";
import { testCases } from "./harness.ts";

testCases(gluCases);
