import { embeddingCases } from "./cases/embedding.ts";
import { testCases } from "./harness.ts";

testCases(embeddingCases);
