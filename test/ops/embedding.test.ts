/** Runs the table of cases/embedding.ts on every CPU path (harness.ts says how). */
import { embeddingCases } from "./cases/embedding.ts";
import { testCases } from "./harness.ts";
import { cpuPaths } from "./paths.ts";

testCases(embeddingCases, cpuPaths);
