/**
 * A run whose rewards never come learns nothing, and looks as if it did: after three generations in a row in which no
 * completion was scored it is to stop.
 */
import type { RewardResult } from "../rewards/pool/pool.ts";

const MOST = 3;

/**
 * @returns a function of each generation's rewards, giving what to say when the run must stop, else null
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
