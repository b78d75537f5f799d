/** Runs the table of cases/head.ts on every path (harness.ts says how). */
import { headCases } from "./cases/head.ts";
import { testCases } from "./harness.ts";

testCases(headCases);
