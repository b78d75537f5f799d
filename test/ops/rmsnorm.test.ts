import { rmsnormCases } from "./cases/rmsnorm.ts";
import { testCases } from "./harness.ts";

testCases(rmsnormCases);
