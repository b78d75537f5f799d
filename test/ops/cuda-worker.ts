/**
 * Runs cases on the CUDA device in a separate process: one for each name it receives, answering with the failure if any. This
 * keeps every core busy, and a case that crashes its process affects no other.
 */
import { caseName } from "../../bench/ops/case.ts";
import { tables } from "../../bench/ops/cases/all.ts";
import { isSticky } from "../../ffi/bindings/cuda.ts";
import { onHardware, openCudaUnderTest } from "./cuda-paths.ts";
import { execute } from "./harness.ts";

export interface CaseAnswer {
  readonly failure: string | null;
  /** Ops and device functions that it called. */
  readonly called: readonly string[];
  /** The GPU's context was lost with it: this process can run no other case. */
  readonly lost: boolean;
  /** Kernels launched by this case or before it. */
  readonly launched: readonly string[];
}

const cases = new Map(Object.values(tables).flatMap((table) => table.map((one) => [caseName(one), one] as const)));
const cuda = await openCudaUnderTest();

process.on("message", async (name: string) => {
  let answer: { failure: string | null; called: readonly string[] };
  let lost = false;
  try {
    answer = { failure: null, called: [...execute(cases.get(name)!, cuda.paths)] };
  } catch (error) {
    answer = { failure: error instanceof Error ? error.message : String(error), called: [] };
    lost = isSticky(error);
  }
  const whole = { ...answer, lost, launched: cuda.launched() } satisfies CaseAnswer;
  // On the emulator a failed case may have left reports behind; on hardware only a lost context requires a new process.
  if (answer.failure && !onHardware) await cuda.reopen();
  process.send?.(whole);
});
