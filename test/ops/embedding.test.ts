/** Runs the table of cases/embedding.ts on every path (harness.ts says how). */
import { embeddingCases } from "./cases/embedding.ts";
import { testCases } from "./harness.ts";

testCases(embeddingCases);
