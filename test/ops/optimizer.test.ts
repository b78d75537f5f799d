import { optimizerCases } from "./cases/optimizer.ts";
import { testCases } from "./harness.ts";

testCases(optimizerCases);
