/** Like by_tokens, and records its training state, a number and a column of its own. */
import type { RewardFunction } from "../../../src/rewards/pool/functions.ts";
import byTokens from "./by_tokens.ts";

export default (({ completions, completion_ids, trainer_state, log_metric, log_extra, note = [] }) => {
  const { global_step, max_steps, progress, is_evaluation } = trainer_state;
  log_metric("told/step", global_step);
  log_metric("told/all", max_steps * 1000 + progress * 100 + (is_evaluation ? 1 : 0));
  log_extra(
    "told",
    completions.map((text, i) => ({ letters: text.length, note: note[i] ?? null })),
  );
  return byTokens({ completion_ids: completion_ids.map((ids) => [...ids]) });
}) satisfies RewardFunction;
