import { ropeCases } from "./cases/rope.ts";
import { testCases } from "./harness.ts";

testCases(ropeCases);
