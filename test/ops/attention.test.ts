import { attentionCases } from "./cases/attention.ts";
import { testCases } from "./harness.ts";

testCases(attentionCases);
