import { headCases } from "./cases/head.ts";
import { testCases } from "./harness.ts";

testCases(headCases);
