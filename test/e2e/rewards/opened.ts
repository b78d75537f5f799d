/** 1 if the prompt ended in an open thought. */
import type { RewardFunction } from "../../../src/rewards/pool/functions.ts";

export default (({ prompt_ends }) =>
  prompt_ends.map((end) => (end.endsWith("A:<think>\n") ? 1 : 0))) satisfies RewardFunction;
