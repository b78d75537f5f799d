import { matmulCases } from "./cases/matmul.ts";
import { testCases } from "./harness.ts";

testCases(matmulCases);
