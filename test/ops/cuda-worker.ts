/**
 * Runs cases on the CUDA device in a process of its own, one for each name that it is sent, and answers with what
 * failed. So that the cases keep every core busy, and that a case which ends the process ends no other.
 */
import { tables } from "./cases/all.ts";
import { openCudaUnderTest } from "./cuda-paths.ts";
import { caseName, execute } from "./harness.ts";

export interface CaseAnswer {
  readonly failure: string | null;
  /** Ops and device functions that it called. */
  readonly called: readonly string[];
  /** Kernels that were launched, by this case or before it. */
  readonly launched: readonly string[];
}

const cases = new Map(Object.values(tables).flatMap((table) => table.map((one) => [caseName(one), one] as const)));
const cuda = await openCudaUnderTest();

process.on("message", async (name: string) => {
  let answer: { failure: string | null; called: readonly string[] };
  try {
    answer = { failure: null, called: [...execute(cases.get(name)!, cuda.paths)] };
  } catch (error) {
    answer = { failure: error instanceof Error ? error.message : String(error), called: [] };
    await cuda.reopen();
  }
  process.send?.({ ...answer, launched: cuda.launched() } satisfies CaseAnswer);
});
