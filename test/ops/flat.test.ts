import { flatCases } from "./cases/flat.ts";
import { testCases } from "./harness.ts";

testCases(flatCases);
