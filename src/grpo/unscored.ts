/**
 * A run without rewards learns nothing but looks as if it did, so it stops after three generations in a row in which no
 * completion was scored.
 */
import type { RewardResult } from "../rewards/pool/pool.ts";

const MOST = 3;

/**
 * @returns a function from a generation's rewards to the reason why the run must stop, or null
 */
export function createUnscoredGuard(): (result: RewardResult) => string | null {
  let inARow = 0;
  let first = "";
  return ({ total, perFunction, warnings }) => {
    if (total.length === 0 || total.some((reward) => reward !== null)) {
      inARow = 0;
      return null;
    }
    const names = perFunction.map(({ name }) => name).join(", ");
    if (inARow++ === 0) first = warnings[0] ?? `${names} gave null for every completion`;
    if (inARow < MOST) return null;
    return `in ${MOST} generations in a row nothing was scored, so nothing is learned: ${first}`;
  };
}
