import { gluCases } from "./cases/glu.ts";
import { testCases } from "./harness.ts";

testCases(gluCases);
