import { weightCases } from "./cases/weights.ts";
import { testCases } from "./harness.ts";

testCases(weightCases);
