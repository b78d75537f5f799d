/** Runs the table of cases/attention.ts on every path (harness.ts says how). */
import { attentionCases } from "./cases/attention.ts";
import { testCases } from "./harness.ts";

testCases(attentionCases);
