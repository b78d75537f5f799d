import { normCases } from "./cases/norm.ts";
import { testCases } from "./harness.ts";

testCases(normCases);
